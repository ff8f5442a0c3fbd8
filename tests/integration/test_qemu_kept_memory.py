"""Memory that outlives the server: kernels and programs in the background, in microVMs."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mulligan.drivers.qemu import image, keeping, tools
from mulligan.engine.engine import Engine
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.layers.directories import remove_tree
from mulligan.models import RollbackTo, VmExecuteRequest
from mulligan.settings import Settings, VmType
from support import host, microvm
from support.keeping import ASK, COUNTER, Server, notes

pytestmark = [pytest.mark.anyio, pytest.mark.long]

TYPE = VmType(driver="qemu", keep_memory=True, memory_mb=256)
KEPT_S = 60.0
ORDINARY = 61500
LETS_GO = "kill $(cat pid); while kill -0 $(cat pid) 2> /dev/null; do sleep 0.05; done"
HOLDS = """
nohup bash -c 'exec 3> gone; rm gone; echo $$ > pid; exec sleep 1000' > /dev/null 2>&1 &
until [ -e pid ]; do sleep 0.05; done
"""


def lend(directory: Path) -> None:
    """Has a data directory use the tests' kernel; skips where there can be no microVM."""
    found = microvm.images()
    if isinstance(found, str):
        pytest.skip(found)
    image.lend(found, directory / "images")


def able() -> None:
    """Skips where no machine with files can be saved."""
    try:
        missing = keeping.missing(tools.find())
    except ConfigError as error:
        missing = error
    if missing is not None:
        pytest.skip(f"{missing.detail}: {missing.remedy}")


@pytest.fixture
def directory(data_dir: Path) -> Path:
    """A data directory whose microVMs can keep their memory."""
    able()
    lend(data_dir)
    return data_dir


def settings(directory: Path) -> Settings:
    return Settings(data_dir=directory, vm_pool_size=0, vm_types={"focal-optimized": TYPE})


def request(code: str, language: str = "python", **more) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id="a", language=language, code=code, **more)


async def printed(engine: Engine, code: str, language: str = "python", **more) -> str:
    done = await engine.execute(request(code, language, **more))
    assert done.exit_code == 0, done.stderr
    return done.stdout or done.result or ""


async def kept(directory: Path) -> Path:
    """What says that memory is kept, as soon as it is."""
    async with asyncio.timeout(KEPT_S):
        while not notes(directory):
            await asyncio.sleep(0.02)
    (note,) = notes(directory)
    return note


def only_vm(engine: Engine) -> Vm:
    (vm,) = engine.fleet.of("a")
    return vm


@pytest.fixture
def killed(directory: Path) -> Path:
    """A data directory whose server was killed at rest, with a kernel and a counter in its VM.

    What it wrote before was frozen, and is below a root it has found under another name.
    """
    server = Server(directory, "qemu")
    try:
        said = server.run(
            ("bash", None, "echo old > old"),
            ("python", "k", "import os, time, uuid\nkept = ['a']"),
            ("bash", None, COUNTER),
            ("python", None, ASK),
            ("python", None, ASK),
        )
        assert said[3:] == ["1\n", "2\n"]
        assert host.wait_until(lambda: notes(directory), KEPT_S)
    finally:
        server.kill()
    return directory


async def test_kernels_and_programs_outlive_a_killed_server(killed: Path) -> None:
    async with Engine(settings(killed)) as engine:
        assert await printed(engine, ASK) == "3\n"
        again = await engine.execute(request("kept.append('b'); kept", kernel="k"))
        assert (again.result, again.notes) == ("['a', 'b']", [])
        assert await printed(engine, "cat log old", "bash") == "1\n2\n3\nold\n"
        before = time.time()
        told = float(await printed(engine, "time.time()", kernel="k"))
        assert before <= told <= time.time()
        # Also where nobody was killed: a VM that was stopped goes on, as one that hibernates.
        await kept(killed)
        await only_vm(engine).stop()
        assert await printed(engine, ASK) == "4\n"
        await engine.past.rollback(again.vm_id, RollbackTo(execution_id=again.execution_id))
        assert await printed(engine, "kept", kernel="k") == "['a']"
    assert host.naming(killed) == []


async def test_two_that_go_on_from_one_memory_draw_other_random_numbers(killed: Path) -> None:
    copy = killed.with_name(f"{killed.name}-copy")
    subprocess.run(["cp", "-a", "--", str(killed), str(copy)], check=True)
    drawn = []
    try:
        for _ in range(2):
            async with Engine(settings(killed)) as engine:
                code = "os.urandom(16).hex(), str(uuid.uuid4()), kept"
                *numbers, list_of_before = eval(await printed(engine, code, kernel="k"))
                assert list_of_before == ["a"]
                drawn.append(set(numbers))
            if copy.exists():  # a microVM's files are where they were
                remove_tree(killed)
                copy.rename(killed)
    finally:
        if copy.exists():
            remove_tree(copy)
    assert not drawn[0] & drawn[1]


@pytest.mark.parametrize("broken", ["devices", "memory", "another"])
async def test_what_cannot_be_brought_back_is_said_and_the_vm_boots(
    killed: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    (note,) = notes(killed)
    (memory,) = (note.parent / "memory").iterdir()
    if broken == "another":
        note.write_text(json.dumps(json.loads(note.read_text()) | {"stamp": "another"}))
    else:
        with (memory / broken).open("r+b") as file:
            file.truncate(5000)
    async with Engine(settings(killed)) as engine:
        assert await printed(engine, "'kept' in globals()", kernel="k") == "False"
        assert await printed(engine, "cat log", "bash") == "1\n2\n"
    (said,) = [each for each in caplog.messages if "memory_not_restored" in each]
    reason = {"devices": "migrate-incoming", "memory": "another size", "another": "another boot"}
    assert reason[broken] in said
    assert host.naming(killed) == []


async def test_what_ends_qemu_at_rest_takes_nothing(directory: Path) -> None:
    """The next execution goes on from what was kept."""
    async with Engine(settings(directory)) as engine:
        await printed(engine, "kept = 1", kernel="k")
        await kept(directory)
        vm = only_vm(engine)
        assert vm.machine is not None
        os.kill(vm.machine.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while vm.machine is not None:
                await asyncio.sleep(0.01)
        assert await printed(engine, "kept", kernel="k") == "1"


async def test_what_ends_qemu_while_it_is_saved_leaves_a_vm_that_boots(directory: Path) -> None:
    async with Engine(settings(directory)) as engine:
        await printed(engine, "kept = 1", kernel="k")
        note = await kept(directory)
        machine = only_vm(engine).machine
        assert machine is not None
        keeping_it = asyncio.create_task(machine.keep_memory("again"))
        async with asyncio.timeout(KEPT_S):
            while not (note.parent / "memory" / "again" / "devices").exists():
                await asyncio.sleep(0)
        os.kill(machine.pid, signal.SIGKILL)
        with pytest.raises(ExecutionFailed):
            await keeping_it
        assert await printed(engine, "6 * 7", kernel="k") == "42"


async def test_a_full_disk_is_said_and_the_vm_goes_on(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    async with Engine(settings(directory)) as engine:
        await printed(engine, "kept = 0", kernel="k")
        note = await kept(directory)
        await only_vm(engine).stop()
        note.unlink()
        small = note.parent / "memory"
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", small], check=True)
        try:
            await printed(engine, "kept = 1", kernel="k")
            async with asyncio.timeout(KEPT_S):
                while not any("memory_not_kept" in each for each in caplog.messages):
                    await asyncio.sleep(0.02)
            assert any("No space left" in each for each in caplog.messages)
            assert await printed(engine, "kept", kernel="k") == "1"
            assert not note.exists()
            await only_vm(engine).stop()
            assert list(small.iterdir()) == []
        finally:
            subprocess.run(["umount", "--lazy", small], check=True)


async def test_a_file_that_is_open_and_has_no_name_any_more(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could say to the next machine which it was: said, and kept once it is closed."""
    async with Engine(settings(directory)) as engine:
        await printed(engine, "kept = 1", kernel="k")
        await printed(engine, HOLDS, "bash")
        async with asyncio.timeout(KEPT_S):
            while not any("memory_not_kept" in each for each in caplog.messages):
                await asyncio.sleep(0.02)
        assert not notes(directory)
        await printed(
            engine,
            "kill $(cat pid); while kill -0 $(cat pid) 2> /dev/null; do sleep 0.05; done",
            "bash",
        )
        await kept(directory)
    async with Engine(settings(directory)) as engine:
        assert await printed(engine, "kept", kernel="k") == "1"


async def test_a_warm_vm_keeps_its_memory_when_it_is_somebodys(directory: Path) -> None:
    """Its disk and layers have other places on the host then, and had those when it booted."""
    kind = TYPE.model_copy(update={"warm": 1})
    chosen = Settings(data_dir=directory, vm_types={"focal-optimized": kind})
    async with Engine(chosen) as engine:
        async with asyncio.timeout(KEPT_S):
            while not engine.fleet.spares.ready("focal-optimized", None):
                await asyncio.sleep(0.02)
        await printed(engine, "kept = 1; open('file', 'w').write('x')", kernel="k")
        note = await kept(directory)
        assert note.parent.name == only_vm(engine).record.id
    async with Engine(settings(directory)) as engine:
        assert await printed(engine, "kept, open('file').read()", kernel="k") == "(1, 'x')"


def test_as_an_ordinary_user() -> None:
    able()
    python = host.python_for(ORDINARY)
    if python is None or os.geteuid() != 0:
        pytest.skip("only root can become another user, who has to have a Python of this version")
    with host.data_directory() as directory:
        lend(directory)
        for path in (directory, directory / "images"):
            os.chown(path, ORDINARY, ORDINARY)
        as_user = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
        for code, result in (("kept = 1", "''"), ("kept", "'1'")):
            server = Server(directory, "qemu", python, **as_user)
            try:
                work = [("bash", None, "echo x > file"), ("python", "k", code)]
                assert repr(server.run(*work)[1]) == result
                assert host.wait_until(lambda: notes(directory), KEPT_S)
            finally:
                server.kill()


async def test_what_is_too_old_is_refused_at_start(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lend(data_dir)
    monkeypatch.setattr(keeping, "QEMU_FROM", (99, 0))
    with pytest.raises(ConfigError, match=r"by qemu, .*QEMU is .* has to be 99\.0") as caught:
        await Engine(settings(data_dir)).open()
    assert caught.value.field == "vm_types.focal-optimized.keep_memory"
    assert "gvisor" in (caught.value.remedy or "")
    assert "Debian 13" in (caught.value.remedy or "")
