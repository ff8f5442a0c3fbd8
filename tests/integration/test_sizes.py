"""What VMs, snapshots and executions cost on disk."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import TooManyRequests
from mulligan.models import (
    ForkRequest,
    HistoryQueryRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmExecuteRequest,
)

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
NEAR = 64 * 1024  # directories on the way to a file


@pytest.fixture
async def engine(data_dir: Path) -> AsyncIterator[Engine]:
    async with Engine(settings_module.load(data_dir=data_dir)) as opened:
        yield opened


async def write(engine: Engine, name: str, mib: int, vm_id: str | None = None):
    code = f"head -c {mib * MIB} /dev/urandom > {name}"
    request = VmExecuteRequest(agent_id="tester", language="bash", code=code, vm_id=vm_id)
    return await engine.execute(request)


async def bash(engine: Engine, code: str):
    return await engine.execute(VmExecuteRequest(agent_id="tester", language="bash", code=code))


async def changes(engine: Engine, vm_id: str) -> list[int | None]:
    """``change_bytes`` of a VM's executions, oldest first."""
    found = await engine.past.history(HistoryQueryRequest(vm_id=vm_id))
    return [entry.change_bytes for entry in reversed(found.entries)]


def near(size: int | None, wanted: int) -> bool:
    return size is not None and wanted <= size <= wanted + NEAR


async def test_what_executions_change(engine: Engine) -> None:
    first = await write(engine, "a", 3)
    assert near(first.change_bytes, 3 * MIB)
    assert (await bash(engine, "cat a > /dev/null")).change_bytes == 0
    removed = await bash(engine, "rm a")
    assert near(removed.change_bytes, 0)
    many = await bash(engine, "for i in $(seq 300); do echo $i > f$i; done")
    assert many.change_bytes is None  # to be counted when somebody asks
    await bash(engine, "true")
    found = await changes(engine, first.vm_id)
    assert near(found[0], 3 * MIB)
    assert found[1] == 0
    assert near(found[2], 0)
    assert near(found[3], 300 * 4096)
    assert found[4] == 0
    assert await changes(engine, first.vm_id) == found  # it is kept now


async def test_they_are_known_after_a_restart(data_dir: Path) -> None:
    settings = settings_module.load(data_dir=data_dir)
    async with Engine(settings) as engine:
        made = await bash(engine, "for i in $(seq 300); do echo $i > f$i; done")
    async with Engine(settings) as engine:
        await bash(engine, "true")
        found = await changes(engine, made.vm_id)
    assert near(found[0], 300 * 4096)


async def test_two_at_once_are_not_told_apart(engine: Engine) -> None:
    made = await bash(engine, "nohup sleep 600 > /dev/null 2>&1 & sleep 0.2")
    beside = await write(engine, "a", 1)
    assert beside.change_bytes is None
    await engine.past.rollback(made.vm_id, RollbackTo(execution_id=made.execution_id))


async def test_snapshots_and_what_they_share(engine: Engine) -> None:
    vm_id = (await write(engine, "a", 2)).vm_id
    base = await _snapshot(engine, vm_id)
    await write(engine, "b", 3)
    top = await _snapshot(engine, vm_id)
    await bash(engine, "rm b")
    sizes = {each.id: each for each in await engine.past.snapshots(vm_id)}
    assert near(sizes[base].size_bytes, 2 * MIB)
    assert near(sizes[top].size_bytes, 5 * MIB)
    assert sizes[base].own_bytes == 0  # all above stand on it

    shown = await engine.past.vm(vm_id)
    assert near(shown.disk_bytes, 5 * MIB)  # removed, but below
    assert near(shown.own_bytes, 5 * MIB)
    assert shown.kept_bytes == shown.own_bytes

    fork = (await engine.past.fork(vm_id, ForkRequest(snapshot_id=base))).vms[0]
    forked = await engine.past.vm(fork.id)
    assert (forked.disk_bytes, forked.own_bytes) == (sizes[base].size_bytes, 0)
    shown = await engine.past.vm(vm_id)
    assert near(shown.own_bytes, 3 * MIB)
    assert near(shown.kept_bytes, 5 * MIB)


async def test_kept_memory_is_counted_where_it_is(engine: Engine) -> None:
    """The files are put where drivers write them; those of drivers have tests of their own."""
    vm_id = (await write(engine, "a", 1)).vm_id
    kept, other = await _snapshot(engine, vm_id), await _snapshot(engine, vm_id)
    fork = (await engine.past.fork(vm_id, ForkRequest(snapshot_id=kept))).vms[0].id
    before = await engine.past.vm(vm_id), await engine.past.vm(fork)
    vms = engine.settings.data_dir / "vms"
    memory, moment = vms / vm_id / "memory/0a1b", vms / vm_id / "moments" / kept
    forked = vms / fork / "memory/2c3d"
    for place in (memory, moment, forked):
        place.mkdir(parents=True)
    (memory / "pages").write_bytes(b"m" * 3 * MIB)
    (memory / "away").symlink_to(vms / vm_id)
    with (moment / "memory").open("wb") as file:
        file.truncate(100 * MIB)  # holes take nothing
        file.write(b"s" * 2 * MIB)
    (forked / "memory").hardlink_to(moment / "memory")
    shown, of_fork = await engine.past.vm(vm_id), await engine.past.vm(fork)
    assert (shown.disk_bytes, shown.memory_bytes) == (before[0].disk_bytes, 3 * MIB)
    assert shown.kept_bytes == before[0].kept_bytes + 5 * MIB
    assert shown.own_bytes == before[0].own_bytes + 3 * MIB  # the fork has the rest, too
    assert (of_fork.memory_bytes, of_fork.own_bytes) == (2 * MIB, before[1].own_bytes)
    sizes = {each.id: each for each in await engine.past.snapshots(vm_id)}
    assert [sizes[each].memory_bytes for each in (kept, other)] == [2 * MIB, 0]
    assert near(sizes[kept].size_bytes, 3 * MIB)
    assert near(sizes[other].size_bytes, 1 * MIB)
    assert sizes[kept].own_bytes == 0
    await engine.delete_vm(fork)
    sizes = {each.id: each for each in await engine.past.snapshots(vm_id)}
    assert sizes[kept].own_bytes == 2 * MIB
    await engine.past.delete_snapshot(vm_id, kept)
    assert not moment.exists()
    assert (await engine.past.vm(vm_id)).kept_bytes == before[0].kept_bytes + 3 * MIB


async def test_kept_memory_is_stored_by_its_agent(data_dir: Path) -> None:
    async with Engine(settings_module.load(data_dir=data_dir)) as engine:
        vm_id = (await write(engine, "a", 1)).vm_id
    memory = data_dir / "vms" / vm_id / "memory/0a1b"
    memory.mkdir(parents=True)
    (memory / "pages").write_bytes(b"m" * 3 * MIB)
    settings = settings_module.load(data_dir=data_dir, limits={"stored_mb": 4})
    async with Engine(settings) as engine:
        with pytest.raises(TooManyRequests, match="has 4 MB on disk and may have 4 MB"):
            await engine.past.snapshot(vm_id, SnapshotCreateRequest())


async def _snapshot(engine: Engine, vm_id: str) -> str:
    return (await engine.past.snapshot(vm_id, SnapshotCreateRequest())).id


async def test_merged_layers_are_counted_once(engine: Engine) -> None:
    vm_id = ""
    for number in range(20):
        vm_id = (await write(engine, f"f{number}", 1)).vm_id
    await engine.settle()
    shown = await engine.past.vm(vm_id)
    for size in (shown.disk_bytes, shown.kept_bytes, shown.own_bytes):
        assert size is not None
        assert 20 * MIB <= size <= 20 * (MIB + NEAR)


async def test_a_note_of_sizes_that_is_damaged_is_made_anew(data_dir: Path) -> None:
    settings = settings_module.load(data_dir=data_dir)
    async with Engine(settings) as engine:
        vm_id = (await write(engine, "a", 2)).vm_id
        await bash(engine, "echo > b")
        before = (await engine.past.vm(vm_id)).disk_bytes
    notes = list(data_dir.glob("layers/*/*/sizes.json"))
    assert notes
    for note in notes:
        note.write_text("{")
    async with Engine(settings) as engine:
        assert (await engine.past.vm(vm_id)).disk_bytes == before
    assert [note.read_text() for note in notes if "tree" not in note.read_text()] == []
