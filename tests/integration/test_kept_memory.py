"""Memory that outlives the server: kernels and programs in the background, in gVisor VMs."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mulligan.drivers.bubblewrap import preflight
from mulligan.drivers.gvisor import runsc
from mulligan.engine.engine import Engine
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.models import RollbackTo, VmExecuteRequest
from mulligan.settings import Settings, VmType
from support import host
from support.keeping import ASK, COUNTER, Server, notes

pytestmark = [pytest.mark.anyio, pytest.mark.long]

try:
    runsc.find()
    MISSING = None
except ConfigError as missing:
    MISSING = f"{missing.detail}: {missing.remedy}"
gvisor = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
ORDINARY = 61500
TYPES = {"focal-optimized": VmType(driver="gvisor", keep_memory=True, memory_mb=256)}


def settings(directory: Path) -> Settings:
    return Settings(data_dir=directory, vm_pool_size=0, vm_types=TYPES)


def request(code: str, language: str = "python", **more) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id="a", language=language, code=code, **more)


@pytest.fixture
def killed(data_dir: Path) -> Path:
    """A data directory whose server was killed at rest, with a kernel and a counter in its VM."""
    server = Server(data_dir, "gvisor")
    try:
        said = server.run(
            ("python", "k", "import os, time, uuid\nkept = ['a']"),
            ("bash", None, COUNTER),
            ("python", None, ASK),
            ("python", None, ASK),
        )
        assert said[2:] == ["1\n", "2\n"]
        assert host.wait_until(lambda: notes(data_dir))
    finally:
        server.kill()
    return data_dir


@gvisor
async def test_kernels_and_programs_outlive_a_killed_server(killed: Path) -> None:
    async with Engine(settings(killed)) as engine:
        assert (await engine.execute(request(ASK))).stdout == "3\n"
        again = await engine.execute(request("kept.append('b'); kept", kernel="k"))
        assert (again.result, again.notes) == ("['a', 'b']", [])
        log = await engine.execute(request("cat log", "bash"))
        assert log.stdout == "1\n2\n3\n"
        (vm,) = engine.list_vms()
        assert vm.capabilities.memory_across_restart
    assert host.naming(killed) == []


@gvisor
async def test_it_goes_on_from_there_once_more(killed: Path) -> None:
    """Also where the server ends by itself; what was taken back before can be taken back still."""
    async with Engine(settings(killed)) as engine:
        first = await engine.execute(request("kept.append('b')", kernel="k"))
        assert first.exit_code == 0
    assert notes(killed)
    async with Engine(settings(killed)) as engine:
        assert (await engine.execute(request("kept", kernel="k"))).result == "['a', 'b']"
        (vm,) = engine.list_vms()
        await engine.past.rollback(vm.id, RollbackTo(execution_id=first.execution_id))
        assert (await engine.execute(request("kept", kernel="k"))).result == "['a']"


@gvisor
async def test_two_that_go_on_from_one_memory_draw_other_random_numbers(killed: Path) -> None:
    copy = killed.with_name(f"{killed.name}-copy")
    subprocess.run(["cp", "-a", "--", str(killed), str(copy)], check=True)
    try:
        drawn = []
        for directory in (killed, copy):
            async with Engine(settings(directory)) as engine:
                code = "os.urandom(16).hex(), str(uuid.uuid4()), time.time()"
                done = await engine.execute(request(code, kernel="k"))
                assert done.result is not None, done.stderr
                *numbers, clock = eval(done.result)
                assert abs(clock - time.time()) < 60
                drawn.append(numbers)
        assert not set(drawn[0]) & set(drawn[1])
    finally:
        shutil.rmtree(copy)


@gvisor
async def test_memory_of_before_something_was_started_is_not_brought_back(data_dir: Path) -> None:
    """Else it would be beside a disk that went on without it."""
    server = Server(data_dir, "gvisor")
    try:
        server.run(("python", "k", "kept = 1"))
        assert host.wait_until(lambda: notes(data_dir))
    finally:
        server.kill()
    (note,) = notes(data_dir)
    held = note.read_bytes()
    server = Server(data_dir, "gvisor")
    try:
        assert server.process.stdin is not None
        code = "kept = 2; open('begun', 'w').close(); import time; time.sleep(60)"
        server.process.stdin.write(f"{[('python', 'k', code)]!r}\n")
        server.process.stdin.flush()
        assert host.wait_until(lambda: list(data_dir.glob("vms/*/disk/*/upper/**/begun")))
    finally:
        server.kill()
    assert notes(data_dir) == []
    async with Engine(settings(data_dir)) as engine:
        done = await engine.execute(request("'kept' in globals()", kernel="k"))
        assert done.result == "False"
        assert (await engine.execute(request("ls", "bash"))).stdout == "begun\n"
    assert held


@gvisor
async def test_a_warm_vm_keeps_its_memory_when_it_is_somebodys(data_dir: Path) -> None:
    kind = VmType(driver="gvisor", keep_memory=True, memory_mb=256, warm=1)
    chosen = Settings(data_dir=data_dir, vm_types={"focal-optimized": kind})
    async with Engine(chosen) as engine:
        async with asyncio.timeout(20):
            while not engine.fleet.spares.ready("focal-optimized", None):
                await asyncio.sleep(0.02)
        await engine.execute(request("kept = 1", kernel="k"))
        (vm,) = engine.list_vms("a")
    assert (data_dir / "vms" / vm.id / "memory.json").exists()
    async with Engine(settings(data_dir)) as engine:
        assert (await engine.execute(request("kept", kernel="k"))).result == "1"


@gvisor
async def test_a_layer_that_was_its_upper_is_found_again(data_dir: Path) -> None:
    """Memory looks for it under the name it had when it was mounted."""
    async with Engine(settings(data_dir)) as engine:
        await engine.execute(request("echo old > old", "bash"))
        await engine.execute(request("kept = 1", kernel="k"))
    assert notes(data_dir)
    async with Engine(settings(data_dir)) as engine:
        done = await engine.execute(request("kept, open('old').read()", kernel="k"))
        assert done.result == "(1, 'old\\n')", done.stderr


@gvisor
async def test_what_cannot_be_kept_is_said_and_the_vm_goes_on(data_dir: Path) -> None:
    async with Engine(settings(data_dir)) as engine:
        await engine.execute(request("kept = 1", kernel="k"))
        (vm,) = engine.fleet.of("a")
        vm.kept.directory().chmod(0o500)
        with pytest.raises(ExecutionFailed, match=r"could not be kept: .*permission denied"):
            await vm.machine.keep_memory("new")
        assert (await engine.execute(request("kept", kernel="k"))).result == "1"
    assert notes(data_dir) == []


@gvisor
@pytest.mark.parametrize("broken", ["gone", "cut", "another"])
async def test_what_cannot_be_brought_back_is_said_and_the_vm_boots(
    killed: Path, broken: str
) -> None:
    (note,) = notes(killed)
    (memory,) = (note.parent / "memory").iterdir()
    if broken == "gone":
        (memory / "checkpoint.img").unlink()
    elif broken == "cut":
        with (memory / "checkpoint.img").open("r+b") as file:
            file.truncate(1000)
    else:
        note.write_text(json.dumps(json.loads(note.read_text()) | {"stamp": "another"}))
    async with Engine(settings(killed)) as engine:
        assert (await engine.execute(request("'kept' in globals()", kernel="k"))).result == "False"
        assert (await engine.execute(request("cat log", "bash"))).stdout == "1\n2\n"


@gvisor
async def test_a_file_it_had_open_and_that_is_gone(killed: Path) -> None:
    """The host's doing: programs of the VM would have made what is kept void."""
    (log,) = killed.glob("vms/*/disk/*/upper/workspace/log")
    log.unlink()
    async with Engine(settings(killed)) as engine:
        assert (await engine.execute(request("'kept' in globals()", kernel="k"))).result == "False"
        assert (await engine.execute(request("ls", "bash"))).stdout == "counter.py\nlistening\n"


@gvisor
def test_as_an_ordinary_user() -> None:
    python = host.python_for(ORDINARY)
    if python is None:
        pytest.skip("no Python of this version that an ordinary user could start")
    user = (ORDINARY, ORDINARY)
    if os.geteuid() != 0 or preflight.barrier(runsc.find().path, user) is not None:
        pytest.skip("only root can become another user, who has to reach runsc")
    with host.data_directory() as directory:
        os.chown(directory, *user)
        for code, result in (("kept = 1", "''"), ("kept", "'1'")):
            server = Server(
                directory, "gvisor", python, user=ORDINARY, group=ORDINARY, extra_groups=[]
            )
            try:
                assert repr(server.run(("python", "k", code))[0]) == result
                assert host.wait_until(lambda: notes(directory))
            finally:
                server.kill()


async def test_a_type_whose_driver_cannot_is_refused_at_start(data_dir: Path) -> None:
    wanted = {"focal-optimized": VmType(driver="bubblewrap", keep_memory=True)}
    with pytest.raises(ConfigError, match="keeps no memory over a restart") as caught:
        await Engine(Settings(data_dir=data_dir, vm_types=wanted)).open()
    assert caught.value.field == "vm_types.focal-optimized.keep_memory"
    assert "gvisor" in caught.value.remedy


async def test_auto_refuses_it_where_no_driver_can(data_dir: Path, monkeypatch) -> None:
    """Never silently without."""

    def gone(*_):
        raise ConfigError("runsc, which is gVisor, is not on PATH", remedy=runsc.REMEDY)

    monkeypatch.setattr(runsc, "find", gone)
    wanted = {"focal-optimized": VmType(driver="auto", keep_memory=True)}
    with pytest.raises(ConfigError, match=r"by bubblewrap alone .*not on PATH") as caught:
        await Engine(Settings(data_dir=data_dir, vm_types=wanted)).open()
    assert caught.value.field == "vm_types.focal-optimized.keep_memory"
