"""What VMs may take of the disk: programs that fill it get errors, and the host stays free."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import ExecutionFailed, ValidationFailed
from mulligan.models import DEFAULT_VM_TYPE, ForkRequest, VmCreateRequest, VmExecuteRequest
from support import host

pytestmark = pytest.mark.anyio

LIMIT_MB = 24
# What may be on the disk beyond the limit: what a VM writes in the milliseconds between two looks
# on a machine that is busy, and what a disk that is full may grow by.
SLACK_MB = 150
MIB = 1024 * 1024
FILL = """
import errno
written = 0
try:
    with open("big", "wb", buffering=0) as file:
        for _ in range(600):
            written += file.write(b"x" * (1 << 20))
except OSError as error:
    print(errno.errorcode[error.errno], written >> 20)
else:
    print("all of it")
"""
MAPPED = """
import mmap, os
descriptor = os.open("mapped", os.O_RDWR | os.O_CREAT)
os.ftruncate(descriptor, 600 << 20)
memory = mmap.mmap(descriptor, 600 << 20)
for start in range(0, 600 << 20, 1 << 20):
    memory[start : start + (1 << 20)] = b"x" * (1 << 20)
print("all of it")
"""
EXCEEDED = f"disk quota of {LIMIT_MB} MB exceeded"


def taken_mb(directory: Path) -> int:
    """What a data directory takes, each inode once."""
    blocks = {}
    for where, _, names in os.walk(directory):
        for name in names:
            status = os.lstat(f"{where}/{name}")
            blocks[status.st_ino] = status.st_blocks
    return sum(blocks.values()) * 512 // MIB


@asynccontextmanager
async def engine_at(directory: Path, disk_mb: int = LIMIT_MB) -> AsyncIterator[Engine]:
    """An engine without gates: what fills a disk is what they refuse."""
    types = {DEFAULT_VM_TYPE: {"disk_mb": disk_mb}}
    hooks = {"enabled": False}
    chosen = settings_module.load(data_dir=directory, vm_types=types, hooks=hooks)
    async with Engine(chosen) as opened:
        yield opened


@pytest.fixture
async def small(data_dir: Path) -> AsyncIterator[Engine]:
    """An engine whose VMs have small disks."""
    async with engine_at(data_dir) as opened:
        yield opened


async def run(engine: Engine, code: str, language: str = "python", **more):
    request = VmExecuteRequest(agent_id="tester", language=language, code=code, **more)
    return await engine.execute(request)


async def test_a_full_disk_is_an_error_and_deleting_makes_room(small: Engine) -> None:
    filled = await run(small, FILL)
    error, written = filled.stdout.split()
    assert (filled.outcome, error) == ("success", "EFBIG"), filled.stderr
    assert LIMIT_MB - 1 <= int(written) < LIMIT_MB + SLACK_MB
    assert [note for note in filled.notes if note.startswith(EXCEEDED)]
    assert taken_mb(small.settings.data_dir) < LIMIT_MB + SLACK_MB

    refused = await run(small, "echo more > more; ls", "bash")
    assert "File too large" in refused.stderr
    assert [note for note in refused.notes if note.startswith(EXCEEDED)]

    assert (await run(small, "rm big more; ls", "bash")).stdout == ""
    again = await run(small, "echo more > more; cat more", "bash")
    assert (again.stdout, again.notes) == ("more\n", [])


@pytest.mark.parametrize("kernel", [None, "main"])
@pytest.mark.parametrize("removed", ["", "os.unlink('big')", "file = removed()"])
async def test_kernels_and_files_without_a_name_count(
    small: Engine, kernel: str | None, removed: str
) -> None:
    code = f"""
import errno, os
def removed(): return open(os.open("/workspace", os.O_RDWR | os.O_TMPFILE), "wb", buffering=0)
file = open("big", "wb", buffering=0); {removed or "pass"}
try:
    for _ in range(600): file.write(b"x" * (1 << 20))
except OSError as error: print(errno.errorcode[error.errno])
print(os.fstat(file.fileno()).st_blocks * 512 >> 20)
"""
    error, written = (await run(small, code, kernel=kernel)).stdout.split()
    assert error == "EFBIG"
    assert LIMIT_MB - 1 <= int(written) < LIMIT_MB + SLACK_MB


async def test_a_program_can_make_room_for_itself(small: Engine) -> None:
    code = (
        FILL
        + """
import os, time
os.unlink("big")
for _ in range(500):
    try:
        with open("after", "w") as file:
            file.write("room")
        break
    except OSError:
        time.sleep(0.01)
print(open("after").read())
"""
    )
    assert (await run(small, code)).stdout.splitlines()[-1] == "room"


async def test_what_goes_on_growing_is_ended(small: Engine) -> None:
    ended = await run(small, MAPPED)
    assert (ended.outcome, ended.exit_code, ended.stdout) == ("failed", 137, "")
    assert ended.error is not None
    assert ended.error.startswith(EXCEEDED)
    assert taken_mb(small.settings.data_dir) < LIMIT_MB + SLACK_MB
    assert (await run(small, "rm mapped; echo gone", "bash")).stdout == "gone\n"
    assert (await run(small, "echo x > y; cat y", "bash")).stdout == "x\n"


async def test_many_processes_and_what_they_leave_running(small: Engine) -> None:
    code = """
for i in 1 2 3 4; do
  setsid nohup sh -c "sleep 0.2; head -c 300000000 /dev/zero > big$i" > /dev/null 2> said$i &
done
sleep 0.05
"""
    await run(small, code, "bash")
    look = "pgrep -c head; stat -c %s big* | paste -sd+"
    for _ in range(200):
        seen = await run(small, look, "bash")
        if seen.stdout.startswith("0\n") and "+" in seen.stdout:
            break
        await asyncio.sleep(0.02)
    assert taken_mb(small.settings.data_dir) < LIMIT_MB + SLACK_MB


async def test_set_aside_is_refused_and_written_instead(small: Engine) -> None:
    code = """
import os
descriptor = os.open("file", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(descriptor, 0, 100_000)
print(os.fstat(descriptor).st_size)
"""
    assert (await run(small, code)).stdout == "100000\n"
    if (await run(small, "command -v fallocate", "bash")).exit_code == 0:
        refused = await run(small, "touch f; fallocate -n -l 1G f", "bash")
        assert "supported" in refused.stderr  # or rather, that it is not
        made = "truncate -s 1M hole; fallocate -p -o 0 -l 4096 hole && stat -c %s hole"
        assert (await run(small, made, "bash")).stdout == "1048576\n"


async def test_a_hole_is_no_content(small: Engine) -> None:
    sparse = await run(small, "truncate -s 1T hole && echo x >> hole && stat -c %s hole", "bash")
    assert (sparse.stdout, sparse.notes) == (f"{(1 << 40) + 2}\n", [])


async def test_full_it_stays_over_a_restart(data_dir: Path) -> None:
    async with engine_at(data_dir) as engine:
        await run(engine, FILL)
    async with engine_at(data_dir) as engine:
        refused = await run(engine, "sleep 0.5; echo more > more", "bash")
        assert "File too large" in refused.stderr
        await run(engine, "rm big", "bash")
    async with engine_at(data_dir) as engine:
        assert (await run(engine, "echo x > y; cat y", "bash")).stdout == "x\n"


async def test_overwriting_again_and_again_is_not_held_against_a_vm(small: Engine) -> None:
    """History keeps every state; the disk is what is to be seen."""
    for number in range(6):
        code = f"head -c 12000000 /dev/zero | tr '\\0' {number} > file; head -c 1 file"
        done = await run(small, code, "bash")
        assert (done.stdout, done.notes) == (str(number), [])


async def test_who_writes_little_goes_on_beside_one_who_fills(small: Engine) -> None:
    quiet = """
import time
for number in range(40):
    with open(f"file{number}", "w") as file:
        file.write("x" * 10_000)
    time.sleep(0.01)
"""
    other = VmExecuteRequest(agent_id="other", language="python", code=quiet)
    mine, theirs = await asyncio.gather(run(small, FILL), small.execute(other))
    assert mine.stdout.startswith("EFBIG")
    assert (theirs.outcome, theirs.notes) == ("success", [])


async def test_a_vm_may_have_a_smaller_disk_than_its_type_and_no_larger(small: Engine) -> None:
    made = await small.create_vm(VmCreateRequest(agent_id="tester", disk_mb=8))
    assert made.disk_mb == 8
    filled = await run(small, FILL, vm_id=made.id)
    assert int(filled.stdout.split()[1]) < 8 + SLACK_MB
    assert filled.notes[0].startswith("disk quota of 8 MB exceeded")
    fork = (await small.past.fork(made.id, ForkRequest())).vms[0]
    assert fork.disk_mb == 8
    refused = await run(small, "echo more > more", "bash", vm_id=fork.id)
    assert "File too large" in refused.stderr
    for asked in (0, LIMIT_MB + 1, 2**63):
        with pytest.raises(ValidationFailed, match=f"must be from 1 to {LIMIT_MB}") as caught:
            await small.create_vm(VmCreateRequest(agent_id="tester", disk_mb=asked))
        assert caught.value.field == "disk_mb"


async def test_without_a_limit_nothing_is_held(data_dir: Path) -> None:
    async with engine_at(data_dir, disk_mb=0) as engine:
        done = await run(engine, "head -c 60000000 /dev/zero > big; stat -c %s big", "bash")
        assert (done.stdout, done.notes) == ("60000000\n", [])
        made = await engine.create_vm(VmCreateRequest(agent_id="x", disk_mb=7))
        assert made.disk_mb == 7


@pytest.fixture
def tiny_disk(data_dir: Path) -> Iterator[Path]:
    """A data directory on a file system of 256 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    target = data_dir / "disk"
    target.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m,mode=711", "tmpfs", target], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is refused here")
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


async def test_the_hosts_reserve(tiny_disk: Path) -> None:
    async with engine_at(tiny_disk, disk_mb=10_000) as engine:
        await run(engine, "echo kept > kept", "bash")
        filled = await run(engine, FILL, timeout_seconds=60)
        assert filled.stdout.startswith(("EFBIG", "ENOSPC")), filled
        assert "host's disk is full" in filled.notes[0]
        vm_id = filled.vm_id
        with pytest.raises(ExecutionFailed, match="min_free_mb") as caught:
            await run(engine, "echo more > more", "bash")
        assert caught.value.remedy is not None
        with pytest.raises(ExecutionFailed, match="min_free_mb"):
            await run(engine, "rm big", "bash")
        await engine.delete_vm(vm_id)
        assert (await run(engine, "echo well", "bash")).stdout == "well\n"
    assert host.mounts()
