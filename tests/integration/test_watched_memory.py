"""Memory where no control group bounds it: the VM's agent looks, and ends what is too much.

Each program is bounded by itself, too, and starts when its VM's walls and limits were seen.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.models import DEFAULT_VM_TYPE, VmExecuteRequest, VmExecuteResponse
from support.walls import walled

pytestmark = pytest.mark.anyio

MEMORY_MB = 128
TAKES = """
import time
held = []
for _ in range({pieces}):
    held.append(b"x" * (8 << 20))
print("took", len(held), flush=True)
time.sleep({seconds})
"""
SHARES = """
import os, time
held = b"x" * (64 << 20)
children = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        time.sleep(1.5)
        os._exit(len(held) == 64 << 20)
    children.append(pid)
print([os.waitpid(pid, 0)[1] >> 8 for pid in children])
"""
TOGETHER = """
import os, time
children = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        held = [os.urandom(1) * (4 << 20) for _ in range(12)]
        time.sleep(1.5)
        os._exit(0)
    children.append(pid)
print(sorted(os.waitpid(pid, 0)[1] for pid in children)[-1])
"""
IN_FILES = """
import time
with open("/dev/shm/file", "wb") as file:
    file.write(b"x" * (40 << 20))
held = [b"x" * (8 << 20) for _ in range(14)]
time.sleep(20)
"""

IN_MEMFDS = """
import os, time
files = [os.memfd_create("f") for _ in range(20)]
for file in files:
    os.write(file, b"x" * (8 << 20))
time.sleep(20)
"""


@pytest.fixture
async def engine(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    monkeypatch.setattr("mulligan.drivers.cgroups.bases.present", list)
    small = {"memory_mb": MEMORY_MB, "max_processes": 64, "vcpus": 0}
    chosen = settings_module.load(
        data_dir=data_dir, hooks={"enabled": False}, vm_types={DEFAULT_VM_TYPE: small}
    )
    async with Engine(chosen) as opened:
        await walled(opened, "a", "memory_mb", "max_processes")
        yield opened


async def run(engine: Engine, code: str, **more) -> VmExecuteResponse:
    asked = {"agent_id": "a", "language": "python", "code": code, "timeout_seconds": 25} | more
    return await engine.execute(VmExecuteRequest(**asked))


async def test_one_that_takes_too_much_is_out_of_memory(engine: Engine) -> None:
    (vm,) = engine.list_vms("a")
    assert vm.limits is not None
    limit = vm.limits["memory_mb"]
    assert (limit.value, limit.held_by) == (MEMORY_MB, "watched")
    assert "looks again and again" in (limit.reason or "")
    fits = await run(engine, TAKES.format(pieces=10, seconds=0.5))
    assert (fits.outcome, fits.stdout) == ("success", "took 10\n")
    much = await run(engine, TAKES.format(pieces=64, seconds=20))
    assert (much.outcome, much.exit_code) == ("out_of_memory", 137)
    assert "128 MB were used up, and the VM's agent ended the program" in (much.error or "")
    again = await run(engine, "print('on')")
    assert (again.outcome, again.stdout) == ("success", "on\n")


@pytest.mark.long
async def test_what_is_shared_counts_once(engine: Engine) -> None:
    done = await run(engine, SHARES)
    assert (done.outcome, done.stdout) == ("success", f"{[1] * 8}\n"), done


@pytest.mark.long
async def test_several_are_too_much_together_and_only_the_largest_go(engine: Engine) -> None:
    done = await run(engine, TOGETHER)
    assert (done.outcome, done.stdout) == ("success", "9\n"), done
    assert any("the VM's agent ended" in note for note in done.notes)


@pytest.mark.long
@pytest.mark.parametrize("code", [IN_FILES, IN_MEMFDS], ids=["shm", "memfd"])
async def test_files_in_memory_count(engine: Engine, code: str) -> None:
    done = await run(engine, code)
    assert done.outcome == "out_of_memory", done


@pytest.mark.long
async def test_kernels_and_what_is_left_in_the_background_are_watched(engine: Engine) -> None:
    cell = await run(engine, TAKES.format(pieces=40, seconds=20), kernel="k")
    assert cell.outcome == "out_of_memory", cell
    code = f"import time; time.sleep(0.3)\n{TAKES.format(pieces=40, seconds=60)}"
    left = await run(
        engine, f"setsid python3 -c '{code}' > log 2>&1 & echo $! > pid; sleep 0.1", language="bash"
    )
    assert (left.outcome, left.background_processes) == ("success", 1)
    async with asyncio.timeout(20):
        while (await run(engine, "kill -0 $(cat pid)", language="bash")).exit_code == 0:
            await asyncio.sleep(0.1)
    (last, *_) = (await run(engine, "cat log", language="bash")).stdout.splitlines() or [""]
    assert "took" not in last
