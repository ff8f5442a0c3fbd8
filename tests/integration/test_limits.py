"""Programs that take all they can get: the VM's limits hold, and everything else goes on.

Each program is bounded by itself, too, and starts when its VM's walls and limits were seen.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.engine.executions.execution import Watcher
from mulligan.errors import ConfigError, ExecutionFailed, ValidationFailed
from mulligan.models import (
    DEFAULT_VM_TYPE,
    HistoryQueryRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from support import host
from support.walls import groups, walled

pytestmark = pytest.mark.anyio

PATIENCE_S = 30
LONG_PATIENCE_S = 100
CANCEL_S = 5  # what a cancel takes is in bench; here it only has to come back before VMs are ended
MEMORY_MB, PROCESSES, FILES = 128, 64, 256
MOST = 11_000  # of a VM that is asked to have so many
FORKS = """
import os, time
refused = made = 0
for _ in range({count}):
    try:
        pid = os.fork()
    except BlockingIOError:
        refused += 1
        continue
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    made += 1
print("burning", made, refused, flush=True)
time.sleep(30)
"""
MEMORY = """
import os, time
for round in range(3):
    pid = os.fork()
    if pid == 0:
        held = []
        for _ in range(50):
            held.append(b"x" * (8 << 20))
        os._exit(0)
    print("burning", os.waitpid(pid, 0)[1], flush=True)
time.sleep(30)
"""
DESCRIPTORS = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        held = []
        try:
            for _ in range(5000):
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            os.write(1, b"burning %d\\n" % len(held))
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""
FLOOD = """
import os, time
for _ in range({megabytes}):
    os.write(1, b"x" * (1 << 20))
os.write(2, b"burning\\n")
time.sleep(30)
"""
ZOMBIES = """
import os, time
for _ in range({count}):
    if os.fork() == 0:
        os._exit(0)
print("burning", flush=True)
time.sleep(30)
"""
TREE = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
os.write(1, b"burning\\n")
for _ in range(30):
    time.sleep(1)
"""
STOPS = """
import contextlib, os, signal, time
for number in range(100):
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # those it may not, and those that are gone
                os.kill(int(name), signal.SIGSTOP)
    if number == 3:
        print("burning", flush=True)
    time.sleep(0.02)
time.sleep(30)
"""
BURNS = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        break
print("burning", flush=True)
end = time.monotonic() + 30
while time.monotonic() < end:
    pass
"""
BOMBS = {
    "forks": FORKS.format(count=600),
    "memory": MEMORY,
    "descriptors": DESCRIPTORS,
    "flood": FLOOD.format(megabytes=200),
    "zombies": ZOMBIES.format(count=1000),
    "tree": TREE,
    "stops": STOPS,
    "burns": BURNS,
}
LONG = {
    "flood": FLOOD.format(megabytes=10 * 1024),
    "zombies": ZOMBIES.format(count=10_000),
}


@pytest.fixture
async def engine(data_dir: Path) -> AsyncIterator[Engine]:
    """An engine with a type of few means; afterwards nothing of it may be left."""
    small = {"memory_mb": MEMORY_MB, "max_processes": MOST, "max_open_files": FILES, "vcpus": 1.0}
    chosen = settings_module.load(
        data_dir=data_dir, hooks={"enabled": False}, vm_types={DEFAULT_VM_TYPE: small}
    )
    before = host.descendants(os.getpid())
    async with Engine(chosen) as opened:
        yield opened
    assert not host.descendants(os.getpid()) - before
    assert not groups(data_dir)


async def run(
    engine: Engine, agent: str, code: str, language: str = "python", **more
) -> VmExecuteResponse:
    request = VmExecuteRequest(agent_id=agent, language=language, code=code, **more)
    return await engine.execute(request)


class Burning:
    """A program that was started and has said that it does its worst."""

    def __init__(self, engine: Engine, vm_id: str) -> None:
        self._engine = engine
        self._vm_id = vm_id
        self._watcher = Watcher()
        self._said = asyncio.Event()

    async def start(self, code: str, patience: float = PATIENCE_S) -> None:
        request = VmExecuteRequest(
            agent_id="bad", vm_id=self._vm_id, language="python", code=code, timeout_seconds=110
        )
        self.task = asyncio.create_task(
            self._engine.execute(request, self._heard, watcher=self._watcher)
        )
        said = asyncio.create_task(self._said.wait())
        await asyncio.wait({said, self.task}, timeout=patience, return_when="FIRST_COMPLETED")
        said.cancel()
        assert self._said.is_set(), "it never did its worst"

    def _heard(self, name: str, data: bytes) -> None:
        if b"burning" in data:
            self._said.set()

    async def cancel(self) -> VmExecuteResponse:
        vm = self._engine.fleet.find(self._vm_id)
        async with asyncio.timeout(CANCEL_S):
            assert await vm.cancel(self._watcher.execution_id)
            return await self.task


async def bad_vm(engine: Engine, max_processes: int = PROCESSES) -> str:
    await engine.create_vm(VmCreateRequest(agent_id="bad", max_processes=max_processes))
    return await walled(engine, "bad", "memory_mb", "max_processes", "max_open_files", "vcpus")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(pytest.param(name, code, id=name) for name, code in BOMBS.items()),
        *(
            pytest.param(name, code, id=f"much {name}", marks=pytest.mark.long)
            for name, code in LONG.items()
        ),
    ],
)
async def test_what_burns_is_ended_and_the_vm_goes_on(engine: Engine, name: str, code: str) -> None:
    await run(engine, "neighbour", "open('own', 'w').write('x')")
    vm_id = await bad_vm(engine, MOST if name == "zombies" else PROCESSES)
    await run(engine, "bad", "echo kept > note", "bash")
    snapshot = await engine.past.snapshot(vm_id, SnapshotCreateRequest(name="before"))
    booted = await run(engine, "bad", "stat -c %Z /proc/1", "bash")
    burning = Burning(engine, vm_id)
    await burning.start("open('note', 'w').write('burnt')\n" + code, LONG_PATIENCE_S)
    beside = await asyncio.gather(
        *(
            run(engine, "neighbour", f"print({n} + int(open('own').read() == 'x'))")
            for n in range(3)
        )
    )
    assert [answer.stdout for answer in beside] == ["1\n", "2\n", "3\n"]
    cancelled = await burning.cancel()
    assert cancelled.outcome == "cancelled"
    again = await run(engine, "bad", "cat note; stat -c %Z /proc/1", "bash")
    assert again.stdout == f"burnt{booted.stdout}"
    assert (await run(engine, "bad", "print('alive')")).stdout == "alive\n"
    await engine.past.rollback(vm_id, RollbackTo(snapshot_id=snapshot.id))
    assert (await run(engine, "bad", "cat note", "bash")).stdout == "kept\n"
    counted = await run(engine, "bad", "set -- /proc/[0-9]*; echo $#", "bash")
    assert counted.stdout == "3\n"  # the agent, the zygote and the one that counts


async def test_no_more_processes_than_there_may_be(engine: Engine) -> None:
    vm_id = await bad_vm(engine)
    burning = Burning(engine, vm_id)
    await burning.start(FORKS.format(count=600))
    with pytest.raises(ExecutionFailed, match="no program can be started: those that run have"):
        await run(engine, "bad", "print(1)")
    answer = await burning.cancel()
    made, refused = map(int, answer.stdout.split()[1:])
    assert made + refused == 600
    assert made < PROCESSES
    assert any(f"limit of {PROCESSES} processes" in note for note in answer.notes)


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("held = []\nfor _ in range(50):\n    held.append(b'x' * (8 << 20))", "python"),
        ("python3 -c 'held = [b\"x\" * (8 << 20) for _ in range(50)]'", "bash"),
    ],
    ids=["program", "child of a shell"],
)
async def test_out_of_memory_is_told_from_a_crash(engine: Engine, code: str, language: str) -> None:
    await bad_vm(engine)
    answer = await run(engine, "bad", code, language)
    assert answer.outcome == "out_of_memory", answer
    assert answer.exit_code == 137
    assert answer.error is not None
    assert f"the VM's {MEMORY_MB} MB were used up" in answer.error
    rows = await engine.past.history(HistoryQueryRequest(vm_id=answer.vm_id))
    assert rows.entries[0].outcome == "out_of_memory"
    crashed = await run(engine, "bad", "import os; os.kill(os.getpid(), 9)")
    assert (crashed.outcome, crashed.exit_code, crashed.notes) == ("failed", 137, [])


async def test_a_kernel_that_runs_out_of_memory(engine: Engine) -> None:
    await bad_vm(engine)
    await run(engine, "bad", "x = 5", kernel="main")
    code = "held = []\nfor _ in range(50):\n    held.append(b'x' * (8 << 20))"
    answer = await run(engine, "bad", code, kernel="main")
    assert answer.outcome == "out_of_memory"
    assert "the kernel ended" in (answer.error or "")
    assert (await run(engine, "bad", "print('on')", kernel="main")).stdout == "on\n"


async def test_descriptors_run_out_for_the_program_alone(engine: Engine) -> None:
    await bad_vm(engine)
    code = (
        "import os\nn = len(os.listdir('/proc/self/fd')) - 1\n"
        "try:\n  while n < 5000: os.dup(0); n += 1\n"
        "except OSError as error: print(error.strerror, n)"
    )
    answer = await run(engine, "bad", code)
    assert answer.stdout == f"Too many open files {FILES}\n"


async def test_files_in_memory_leave_programs_some(engine: Engine) -> None:
    await bad_vm(engine)
    answer = await run(engine, "bad", "head -c 400M /dev/zero > /dev/shm/big", "bash")
    assert "No space left on device" in answer.stderr
    assert (await run(engine, "bad", "print('on')")).stdout == "on\n"


async def test_cpu_time_is_bounded(engine: Engine) -> None:
    """One CPU for four processes that want one each."""
    await bad_vm(engine)
    code = (
        "import os, time\nend = time.monotonic() + 1\nfor _ in range(2):\n  os.fork()\n"
        "while time.monotonic() < end: pass\n"
        "print(time.process_time())"
    )
    answer = await run(engine, "bad", code)
    used = sum(map(float, answer.stdout.split()))
    assert used < 1.5, "they had more than the one CPU the VM may have"


async def test_a_vm_says_what_it_is_held_to(engine: Engine) -> None:
    asked = VmCreateRequest(agent_id="a", memory_mb=64, vcpus=0.5, max_processes=32)
    instance = await engine.create_vm(asked)
    assert instance.limits is not None
    values = {name: limit.value for name, limit in instance.limits.items()}
    assert (values["memory_mb"], values["vcpus"], values["max_processes"]) == (64, 0.5, 32)
    assert instance.limits["max_open_files"].held_by == "rlimit"
    assert instance.limits["cpu_seconds"].held_by == "none"
    assert instance.limits["cpu_seconds"].reason is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory_mb", MEMORY_MB + 1),
        ("memory_mb", 0),
        ("memory_mb", 31),
        ("vcpus", 1.5),
        ("vcpus", 0.0),
        ("vcpus", -1.0),
        ("max_processes", MOST + 1),
        ("max_processes", 0),
    ],
)
async def test_no_vm_has_more_than_its_type(engine: Engine, field: str, value: float) -> None:
    request = VmCreateRequest(agent_id="a", **{field: value})
    with pytest.raises(ValidationFailed, match=f"{field} of a VM of type") as caught:
        await engine.create_vm(request)
    assert caught.value.field == field


async def test_limits_outlive_a_restart_and_what_a_dead_server_left_goes(data_dir: Path) -> None:
    chosen = settings_module.load(data_dir=data_dir, hooks={"enabled": False})
    async with Engine(chosen) as first:
        await first.create_vm(VmCreateRequest(agent_id="a", memory_mb=64))
        await walled(first, "a", "memory_mb")
        mine = groups(data_dir)
        assert mine
        left = [path.with_name("vm-left.1") for path in mine]
        for path in left:
            path.mkdir()
            (path / "programs").mkdir()
    assert groups(data_dir) == sorted(left)
    async with Engine(chosen) as second:
        assert not groups(data_dir)
        (instance,) = second.list_vms()
        assert instance.limits is not None
        assert instance.limits["memory_mb"].value == 64


async def test_without_control_groups_processes_are_counted_for_each_vm(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mulligan.drivers.cgroups.bases.present", list)
    few = {DEFAULT_VM_TYPE: {"max_processes": PROCESSES, "memory_mb": 0, "vcpus": 0}}
    chosen = settings_module.load(data_dir=data_dir, hooks={"enabled": False}, vm_types=few)
    async with Engine(chosen) as engine:
        vm_id = await walled(engine, "bad", "max_processes")
        burning = Burning(engine, vm_id)
        await burning.start(FORKS.format(count=600))
        beside = await run(engine, "neighbour", FORKS.format(count=20).replace("30)", "0)"))
        assert beside.stdout == "burning 20 0\n"
        assert (await run(engine, "bad", "print('on')")).stdout == "on\n"
        answer = await burning.cancel()
        made, refused = map(int, answer.stdout.split()[1:])
        assert made + refused == 600
        assert made < PROCESSES


async def test_nothing_weaker_where_limits_are_required(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host that has no control groups a VM is refused, at its making and at its boot."""
    monkeypatch.setattr("mulligan.drivers.cgroups.bases.present", list)
    chosen = settings_module.load(data_dir=data_dir, hooks={"enabled": False})
    async with Engine(chosen) as weak:
        answer = await run(weak, "a", "print(1)")
        limits = weak.get_vm(answer.vm_id).limits or {}
        assert limits["vcpus"].held_by == "none"
        assert limits["vcpus"].reason
        assert limits["max_processes"].held_by == "rlimit"
    strict = chosen.model_copy(update={"limits_required": True})
    async with Engine(strict) as engine:
        for agent in ("a", "b"):
            with pytest.raises(ConfigError, match="nothing on this host holds VMs to") as caught:
                await run(engine, agent, "print(1)")
            assert caught.value.remedy
