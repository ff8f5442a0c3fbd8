"""Kernels through the engine: live variables that are kept, undone and told about."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.errors import UnsupportedLanguage, ValidationFailed
from mulligan.models import (
    ForkRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from support import host

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    with host.data_directory() as directory:
        async with Engine(settings.load(data_dir=directory / "data")) as opened:
            yield opened


async def run(engine: Engine, code: str, language: str = "python", **more) -> VmExecuteResponse:
    fields = {"agent_id": "tester", "kernel": f"main-{language}"} | more
    return await engine.execute(VmExecuteRequest(language=language, code=code, **fields))


async def value(engine: Engine, code: str, **more) -> str | None:
    response = await run(engine, code, **more)
    assert response.outcome == "success", response.stderr
    return response.result


async def text(engine: Engine, code: str, language: str = "bash", **more) -> str:
    response = await run(engine, code, language, **more)
    assert response.outcome == "success", response.stderr
    return response.stdout


async def back(engine: Engine, vm_id: str, **to):
    return await engine.past.rollback(vm_id, RollbackTo(**to))


async def test_variables_and_files_go_back_together(engine) -> None:
    vm_id = (await run(engine, "x = [1]; open('f', 'w').write('one')")).vm_id
    broke = await run(engine, "x.clear(); open('f', 'w').write('gone'); y = 2")
    for _ in range(3):
        done = await back(engine, vm_id, execution_id=broke.execution_id)
        assert [(each.name, each.memory) for each in done.kernels] == [("main-python", "kept")]
        assert await value(engine, "x, open('f').read(), 'y' in globals()") == "([1], 'one', False)"
        await run(engine, "x.append(5); open('f', 'a').write('more')")


async def test_going_back_step_by_step(engine) -> None:
    vm_id = (await run(engine, "x = 0")).vm_id
    for n in range(1, 5):
        await run(engine, f"x = {n}")
    await back(engine, vm_id)
    assert await value(engine, "x") == "3"
    await back(engine, vm_id)  # undoes that look at x, which might have changed something
    await back(engine, vm_id)
    assert await value(engine, "x") == "2"
    await run(engine, "x = 'other'")
    await back(engine, vm_id)
    await back(engine, vm_id)
    await back(engine, vm_id)  # and not to what was undone already
    assert await value(engine, "x") == "1"


async def test_programs_beside_a_kernel_share_its_files(engine) -> None:
    await run(engine, "import os; os.mkdir('d'); os.chdir('d'); open('f', 'w').write('1')")
    beside = {"kernel": None, "language": "bash"}
    assert await text(engine, "cat d/f; echo 2 > d/f", **beside) == "1"
    assert await value(engine, "open('f').read(), os.getcwd()") == "('2\\n', '/workspace/d')"
    response = await run(engine, "rm -r d", **beside)
    assert (await run(engine, "os.listdir('/workspace')")).result == "[]"
    done = await back(engine, response.vm_id, execution_id=response.execution_id)
    assert done.kernels[0].memory == "kept"
    assert await value(engine, "open('f').read()") == "'2\\n'"


async def test_open_files_go_on_where_they_were(engine) -> None:
    vm_id = (await run(engine, "f = open('log', 'w+'); f.write('one\\n'); f.flush()")).vm_id
    for line in ("two", "three"):
        kept = await run(engine, f"f.write('{line}\\n'); f.flush()")
        assert (kept.snapshot_before is not None, kept.notes) == (True, [])
    done = await back(engine, vm_id, execution_id=kept.execution_id)
    assert done.kernels[0].notes == []
    assert await text(engine, "cat log", kernel=None) == "one\ntwo\n"
    assert await value(engine, "f.write('3\\n'); f.flush(); f.seek(0); f.read()") == (
        "'one\\ntwo\\n3\\n'"
    )


async def test_files_that_cannot_be_opened_again_are_left_open(engine) -> None:
    await run(engine, "import os; open('f', 'w').write('1'); open('g', 'w').write('2')")
    vm_id = (await run(engine, "f, g = open('f'), open('g'); os.chmod('g', 0)")).vm_id
    kept = await engine.past.snapshot(vm_id, SnapshotCreateRequest())
    assert [note for note in kept.kernels[0].notes if "/workspace/g" in note]
    await run(engine, "rm -f f", "bash", kernel=None)
    await run(engine, "echo > h", "bash", kernel=None)
    assert await value(engine, "f.read() + g.read()") == "'12'"
    await back(engine, vm_id, snapshot_id=kept.id)
    assert await value(engine, "f.read()") == "'1'"


async def test_a_kernel_that_lets_go_of_the_root_too_late_lives_on(engine) -> None:
    busy = """
import signal, time
signal.signal(signal.SIGALRM, lambda *_: (open("busy", "w").close(), time.sleep(3)))
signal.setitimer(signal.ITIMER_REAL, 0.3)
x = 1
"""
    await run(engine, busy)
    waits = "until [ -e busy ]; do sleep 0.05; done"  # and the VM is asked to move just after
    assert (await run(engine, waits, "bash", kernel=None, timeout_seconds=20)).exit_code == 0
    assert await text(engine, "ls", kernel=None) == "busy\n"
    answer = await run(engine, "x + 1")
    assert (answer.result, answer.notes) == ("2", [])


async def test_a_deleted_open_file_is_told_and_hinders_nothing(engine) -> None:
    await run(engine, "import os; f = open('f', 'w+'); os.unlink('f'); f.write('x'); f.flush()")
    await run(engine, "open('g', 'w').write('1')")
    response = await run(engine, "open('g', 'w').write('2'); f.seek(0); f.read()")
    assert (response.result, response.notes) == ("'x'", [])
    done = await back(engine, response.vm_id, execution_id=response.execution_id)
    assert any("/workspace/f (deleted) is open" in note for note in done.kernels[0].notes)
    assert await value(engine, "open('g').read()") == "'1'"


async def test_bash_goes_back_and_node_says_that_it_cannot(engine) -> None:
    host.check_has("node")
    vm_id = (await run(engine, "v=1; mkdir d; cd d; cd ..; cd d", "bash")).vm_id
    await run(engine, "let q = 1", "javascript")
    broke = await run(engine, "v=2; cd ..; rm -r d; unset OLDPWD", "bash")
    done = await back(engine, vm_id, execution_id=broke.execution_id)
    assert {each.name: each.memory for each in done.kernels} == {
        "main-bash": "kept",
        "main-javascript": "not kept",
    }
    assert await text(engine, "echo $v; pwd; cd -") == "1\n/workspace/d\n/workspace\n"
    response = await run(engine, "typeof q", "javascript")
    assert (response.result, "rolled back" in response.notes[0]) == ("'undefined'", True)


async def test_a_running_cell_is_cancelled_by_a_rollback(engine) -> None:
    vm_id = (await run(engine, "x = 1")).vm_id
    started = asyncio.Event()
    request = VmExecuteRequest(
        agent_id="tester",
        language="python",
        kernel="main-python",
        code="x = 2; print('on', flush=True)\nwhile True: pass",
    )
    task = asyncio.create_task(engine.execute(request, lambda *_: started.set()))
    await asyncio.wait_for(started.wait(), 20)
    done = await back(engine, vm_id)
    answer = await task
    assert (answer.outcome, done.cancelled_executions) == ("cancelled", [answer.execution_id])
    assert "rolled back" in (answer.error or "")
    assert await value(engine, "x") == "1"


async def test_a_failed_cell_is_undone_where_that_is_asked_for() -> None:
    options = {"auto_rollback_on_failure": True}
    with host.data_directory() as directory:
        async with Engine(settings.load(data_dir=directory / "data", history=options)) as engine:
            await run(engine, "x = 1")
            failed = await run(engine, "x = 2; open('f', 'w').write('x'); 1 / 0")
            assert failed.rolled_back_to == failed.snapshot_before
            assert await value(engine, "x, __import__('os').listdir()") == "(1, [])"


async def test_an_interrupted_cell_leaves_its_kernel(engine) -> None:
    await run(engine, "x = 1")
    late = await run(engine, "x = 2\nwhile True: pass", timeout_seconds=1)
    assert (late.outcome, late.exit_code, "KeyboardInterrupt" in late.stderr) == (
        "timeout",
        124,
        True,
    )
    assert await value(engine, "x") == "2"
    dead = await run(engine, "import os; os.kill(os.getpid(), 9)")
    assert (dead.outcome, dead.exit_code) == ("failed", 137)
    assert "starts a fresh one" in (dead.error or "")
    gone = await run(engine, "x")
    assert (gone.outcome, "NameError" in gone.stderr) == ("failed", True)
    await back(engine, late.vm_id, execution_id=dead.execution_id)
    assert await value(engine, "x") == "2"


async def test_the_oldest_memory_goes_and_its_disk_stays(engine) -> None:
    first = await run(engine, "x = 0; open('f', 'w').write('0')")
    second = await run(engine, "x = 1; open('f', 'w').write('1')")
    for n in range(2, 20):
        await run(engine, f"x = {n}; open('f', 'w').write('{n}')")
    listed = {each.id: each for each in await engine.past.snapshots(first.vm_id)}
    assert listed[second.snapshot_before].kernels[0].memory == "lost"
    kept = [each for each in listed.values() if each.kernels and each.kernels[0].memory == "kept"]
    assert len(kept) == 16
    done = await back(engine, first.vm_id, execution_id=second.execution_id)
    assert done.kernels[0].memory == "lost"
    assert await text(engine, "cat f", kernel=None) == "0"
    gone = await run(engine, "x")
    assert ("NameError" in gone.stderr, "rolled back" in gone.notes[0]) == (True, True)


async def test_a_snapshot_without_cells_between_keeps_the_same_memory(engine) -> None:
    vm_id = (await run(engine, "x = 1")).vm_id
    for n in range(40):
        await run(engine, f"echo {n} > f", "bash", kernel=None)
    snapshots = await engine.past.snapshots(vm_id)
    kept = [each.kernels[0].memory for each in snapshots if each.kernels]
    assert kept.count("kept") == len(kept) >= 40
    processes = await text(engine, "set -- /proc/[0-9]*; echo $#", kernel=None)
    assert int(processes) <= 5  # process 1, the zygote, the kernel, one image, this shell
    await back(engine, vm_id, snapshot_id=snapshots[-2].id)
    assert await value(engine, "x") == "1"


async def test_memory_is_lost_with_the_server_and_that_is_told() -> None:
    with host.data_directory() as directory:
        chosen = settings.load(data_dir=directory / "data")
        async with Engine(chosen) as engine:
            vm_id = (await run(engine, "x = 1; open('f', 'w').write('1')")).vm_id
            broke = await run(engine, "x = 2; open('f', 'w').write('2')")
        async with Engine(chosen) as engine:
            listed = {each.id: each for each in await engine.past.snapshots(vm_id)}
            assert listed[broke.snapshot_before].kernels[0].memory == "lost"
            done = await back(engine, vm_id, execution_id=broke.execution_id)
            assert [each.memory for each in done.kernels] == ["lost"]
            assert await text(engine, "cat f", kernel=None) == "1"


async def test_forks_have_files_and_no_memory(engine) -> None:
    vm_id = (await run(engine, "x = 1; open('f', 'w').write('1')")).vm_id
    made = await engine.past.fork(vm_id, ForkRequest(count=2))
    assert "main-python" in made.notes[0]
    for fork in made.vms:
        assert (await run(engine, "x", vm_id=fork.id)).outcome == "failed"
        assert await value(engine, "open('f').read()", vm_id=fork.id) == "'1'"


async def test_results_of_kinds(engine) -> None:
    code = "class P:\n    def _repr_html_(self): return '<b>x</b>'\n"
    code += "    def __repr__(self): return 'P'\nP()"
    response = await run(engine, code)
    assert response.result == "P"
    assert [(each.mime_type, each.data) for each in response.results] == [("text/html", "<b>x</b>")]
    assert response.kernel == "main-python"


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"language": "rust"}, ValidationFailed, "no kernels for rust"),
        ({"kernel": ""}, ValidationFailed, "kernel must be"),
        ({"kernel": "a b"}, ValidationFailed, "kernel must be"),
        ({"kernel": "k" * 65}, ValidationFailed, "kernel must be"),
        ({"language": "cobol"}, UnsupportedLanguage, "cobol"),
    ],
)
async def test_what_is_no_kernel_is_refused(engine, fields, error, words) -> None:
    with pytest.raises(error, match=words):
        await run(engine, "1", **{"language": "python", **fields})


async def test_a_kernel_has_one_language(engine) -> None:
    await run(engine, "x = 1", kernel="k")
    with pytest.raises(ValidationFailed, match="runs python") as caught:
        await run(engine, "echo", "bash", kernel="k")
    assert caught.value.field == "kernel"


async def test_nothing_is_left_of_kernels() -> None:
    host.check_has("node")
    before, descriptors = host.descendants(os.getpid()), len(os.listdir("/proc/self/fd"))
    with host.data_directory() as directory:
        async with Engine(settings.load(data_dir=directory / "data")) as engine:
            for n in range(3):
                await run(engine, "import subprocess; p = subprocess.Popen(['sleep', '60'])")
                await run(engine, f"x={n}; sleep 60 &", "bash")
                await run(engine, "setInterval(() => {}, 10)", "javascript")
    assert host.wait_until(lambda: host.descendants(os.getpid()) == before, 5)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


async def test_a_cell_may_await(engine) -> None:
    assert await value(engine, "import asyncio; await asyncio.sleep(0, 'slept')") == "'slept'"
