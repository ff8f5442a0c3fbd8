"""History, snapshots, rollback, fork and diff through the engine, on real VMs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.errors import (
    HistoryError,
    RollbackFailed,
    SnapshotNotFound,
    ValidationFailed,
    VmExecutionError,
    VmNotAvailable,
)
from mulligan.models import (
    ForkRequest,
    HistoryQueryRequest,
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


async def bash(engine: Engine, code: str, **more) -> VmExecuteResponse:
    request = VmExecuteRequest(agent_id="tester", language="bash", code=code, **more)
    return await engine.execute(request)


async def text(engine: Engine, code: str, **more) -> str:
    response = await bash(engine, code, **more)
    assert response.exit_code == 0, response.stderr
    return response.stdout


async def test_an_execution_is_undone(engine) -> None:
    vm_id = (await bash(engine, "echo one > file; mkdir d; echo x > d/x")).vm_id
    broke = await bash(engine, "rm -r d; echo two > file; chmod 600 file; exit 3")
    assert broke.snapshot_before is not None
    done = await engine.past.rollback(vm_id, RollbackTo())
    assert done.restored_snapshot_id == broke.snapshot_before
    assert await text(engine, "cat file d/x; stat -c %a file") == "one\nx\n644\n"


async def test_a_rollback_names_what_it_undid_and_no_earlier_one(data_dir: Path) -> None:
    async with Engine(settings.load(data_dir=data_dir)) as engine:
        ids = [(await bash(engine, f"echo {n} > f")).execution_id for n in range(3)]
        vm_id = engine.list_vms()[0].id
        assert (await engine.past.rollback(vm_id, RollbackTo())).undone_executions == [ids[2]]
        assert (await engine.past.rollback(vm_id, RollbackTo())).undone_executions == [ids[1]]
    async with Engine(settings.load(data_dir=data_dir)) as engine:  # which has no memory
        assert await text(engine, "cat f") == "0\n"
        new = (await bash(engine, "echo new > f")).execution_id
        to = RollbackTo(execution_id=ids[0], create_pre_rollback_snapshot=True)
        done = await engine.past.rollback(vm_id, to)
        assert done.undone_executions == [new, ids[0]]
        again = RollbackTo(snapshot_id=done.pre_rollback_snapshot_id)
        assert (await engine.past.rollback(vm_id, again)).undone_executions == []


async def test_a_snapshot_that_is_gone_still_led_to_the_present(engine) -> None:
    vm_id = (await bash(engine, "echo 1 > a")).vm_id
    newest = await engine.past.snapshot(vm_id, SnapshotCreateRequest())
    await engine.past.delete_snapshot(vm_id, newest.id)
    await bash(engine, "echo 2 > a")
    await engine.past.rollback(vm_id, RollbackTo())
    assert await text(engine, "cat a") == "1\n"
    await engine.past.rollback(vm_id, RollbackTo())
    assert await text(engine, "ls") == ""


async def test_going_back_twice_goes_back_two_changes(engine) -> None:
    vm_id = (await bash(engine, "echo 1 > a")).vm_id
    await bash(engine, "echo 2 > b")
    await bash(engine, "cat a b")  # changes nothing, and is no step back
    await engine.past.rollback(vm_id, RollbackTo())
    assert await text(engine, "ls") == "a\n"
    await engine.past.rollback(vm_id, RollbackTo())
    assert await text(engine, "ls") == ""
    with pytest.raises(RollbackFailed, match="before its first execution"):
        await engine.past.rollback(vm_id, RollbackTo())


async def test_a_rollback_is_rolled_back(engine) -> None:
    vm_id = (await bash(engine, "echo 1 > a")).vm_id
    await bash(engine, "echo 2 > a")
    done = await engine.past.rollback(vm_id, RollbackTo(create_pre_rollback_snapshot=True))
    assert await text(engine, "cat a") == "1\n"
    await engine.past.rollback(vm_id, RollbackTo(snapshot_id=done.pre_rollback_snapshot_id))
    assert await text(engine, "cat a") == "2\n"


async def test_to_before_an_execution_and_to_the_last_success(engine) -> None:
    first = await bash(engine, "echo 1 > a")
    second = await bash(engine, "echo 2 > a")
    await bash(engine, "echo 3 > a; false")
    await bash(engine, "echo 4 > a; false")
    await engine.past.rollback(first.vm_id, RollbackTo(last_success=True))
    assert await text(engine, "cat a") == "2\n"
    to = RollbackTo(execution_id=second.execution_id)
    await engine.past.rollback(first.vm_id, to)
    assert await text(engine, "cat a") == "1\n"


async def test_a_rollback_cancels_what_runs(engine) -> None:
    vm_id = (await bash(engine, "echo 1 > a")).vm_id
    started = asyncio.Event()
    request = VmExecuteRequest(
        agent_id="tester", language="bash", code="echo 2 > a; echo up; sleep 60; echo 3 > a"
    )
    running = asyncio.create_task(engine.execute(request, lambda *_: started.set()))
    await asyncio.wait_for(started.wait(), 20)
    done = await engine.past.rollback(vm_id, RollbackTo())
    response = await running
    assert done.cancelled_executions == [response.execution_id]
    assert (response.outcome, response.error) == (
        "cancelled",
        "Execution cancelled: the VM was rolled back",
    )
    assert await text(engine, "cat a") == "1\n"


async def test_failures_are_rolled_back_where_that_is_asked_for() -> None:
    with host.data_directory() as directory:
        history = {"auto_rollback_on_failure": True}
        wanted = settings.load(data_dir=directory / "data", history=history)
        async with Engine(wanted) as engine:
            await bash(engine, "echo 1 > a")
            failed = await bash(engine, "echo 2 > a; false")
            assert failed.rolled_back_to == failed.snapshot_before is not None
            assert await text(engine, "cat a") == "1\n"
            # What it left is kept all the same: snapshot_on_failure is on.
            kept = RollbackTo(snapshot_id=failed.snapshot_after)
            await engine.past.rollback(failed.vm_id, kept)
            assert await text(engine, "cat a") == "2\n"


async def test_history(engine) -> None:
    first = await bash(engine, "echo needle")
    await bash(engine, "exit 4")
    vm_id = first.vm_id
    found = await engine.past.history(HistoryQueryRequest(vm_id=vm_id))
    assert [(e.command, e.success, e.exit_code) for e in found.entries] == [
        ("exit 4", False, 4),
        ("echo needle", True, 0),
    ]
    assert found.total == 2
    failures = HistoryQueryRequest(vm_id=vm_id, failures_only=True)
    assert [e.exit_code for e in (await engine.past.history(failures)).entries] == [4]
    searched = await engine.past.history(HistoryQueryRequest(vm_id=vm_id, search="needle"))
    assert [e.id for e in searched.entries] == [first.execution_id]
    entry = searched.entries[0]
    assert (entry.stdout, entry.outcome) == ("needle\n", "success")
    assert entry.executed_at == first.started_at
    with pytest.raises(VmNotAvailable):
        await engine.past.history(HistoryQueryRequest(vm_id="vm-nobody"))


async def test_forks_share_the_past_and_nothing_else(engine) -> None:
    vm_id = (await bash(engine, "echo base > a")).vm_id
    snapshot = await engine.past.snapshot(vm_id, SnapshotCreateRequest(name="base"))
    await bash(engine, "echo later > a")
    made = await engine.past.fork(vm_id, ForkRequest(count=2, snapshot_id=snapshot.id))
    one, two = (vm.id for vm in made.vms)
    assert {vm.agent_id for vm in made.vms} == {"tester"}
    await bash(engine, "echo one > a", vm_id=one)
    assert await text(engine, "cat a", vm_id=two) == "base\n"
    assert await text(engine, "cat a", vm_id=one) == "one\n"
    assert await text(engine, "cat a", vm_id=vm_id) == "later\n"
    await engine.delete_vm(vm_id)
    await engine.settle()
    assert await text(engine, "cat a", vm_id=two) == "base\n"


@pytest.mark.parametrize("count", [0, -1, 10**6])
async def test_counts_of_forks(engine, count) -> None:
    vm_id = (await bash(engine, "true")).vm_id
    with pytest.raises(ValidationFailed, match="count must be between 1 and") as caught:
        await engine.past.fork(vm_id, ForkRequest(count=count))
    assert caught.value.field == "count"
    assert len(engine.list_vms()) == 1


async def test_what_changed(engine) -> None:
    vm_id = (await bash(engine, "echo one > a; echo gone > b")).vm_id
    await bash(engine, "echo two > a; rm b; mkdir c; ln -s a link")
    found = await engine.past.diff(vm_id)
    assert [(e.path, e.change, e.kind) for e in found.entries] == [
        ("/workspace/a", "changed", "file"),
        ("/workspace/b", "removed", "file"),
        ("/workspace/c", "added", "directory"),
        ("/workspace/link", "added", "symlink"),
    ]
    assert "-one\n+two\n" in (found.entries[0].text_diff or "")


async def test_snapshots_of_others_are_not_found(engine) -> None:
    mine = (await bash(engine, "echo 1 > a")).vm_id
    other = await engine.execute(
        VmExecuteRequest(agent_id="other", language="bash", code="echo 1 > a")
    )
    kept = await engine.past.snapshot(other.vm_id, SnapshotCreateRequest())
    for snapshot_id in (kept.id, "snap-nobody", "", "x" * 5000):
        with pytest.raises(SnapshotNotFound):
            await engine.past.rollback(mine, RollbackTo(snapshot_id=snapshot_id))
    await engine.past.delete_snapshot(other.vm_id, kept.id)
    with pytest.raises(SnapshotNotFound):
        await engine.past.rollback(other.vm_id, RollbackTo(snapshot_id=kept.id))
    assert await text(engine, "cat a") == "1\n"


async def test_a_deleted_snapshot_others_build_on(engine) -> None:
    vm_id = (await bash(engine, "echo 1 > a")).vm_id
    below = await engine.past.snapshot(vm_id, SnapshotCreateRequest())
    await bash(engine, "echo 2 > b")
    above = await engine.past.snapshot(vm_id, SnapshotCreateRequest())
    await engine.past.delete_snapshot(vm_id, below.id)
    await engine.settle()
    await bash(engine, "rm a b")
    await engine.past.rollback(vm_id, RollbackTo(snapshot_id=above.id))
    assert await text(engine, "cat a b") == "1\n2\n"


async def test_many_states_stay_a_shallow_stack(engine) -> None:
    vm_id = ""
    for number in range(80):
        vm_id = (await bash(engine, f"echo {number} > file; echo {number} > f{number}")).vm_id
    await engine.settle()
    vm = engine.fleet.vms[vm_id]
    assert len(vm.stores.layers.stack("tester", vm.state.base)) <= 16
    entries = (await engine.past.history(HistoryQueryRequest(vm_id=vm_id, limit=80))).entries
    for number in (79, 40, 3):
        to = RollbackTo(execution_id=entries[79 - number].id)
        await engine.past.rollback(vm_id, to)
        assert await text(engine, "cat file; ls | wc -l") == f"{number - 1}\n{number + 1}\n"


async def test_what_was_deleted_leaves_no_trace_in_merged_layers(engine) -> None:
    """A directory that is in one merged tree alone: what hides a file is not listed as one."""
    vm_id = (await bash(engine, "mkdir -p d/e; mkfifo d/e/pipe; touch d/file d/kept")).vm_id
    await bash(engine, "rm d/e/pipe d/file")
    for number in range(10):
        await bash(engine, f"touch {number}")
    made = await engine.past.snapshot(vm_id, SnapshotCreateRequest())
    await engine.settle()
    vm = engine.fleet.vms[vm_id]
    assert len(vm.stores.layers.stack("tester", vm.state.base)) < 8
    await engine.past.rollback(vm_id, RollbackTo(snapshot_id=made.id))
    assert await text(engine, "ls -A d d/e; rm -r d") == "d:\ne\nkept\n\nd/e:\n"


async def test_history_is_bounded_and_lets_go_of_its_snapshots() -> None:
    with host.data_directory() as directory:
        history = {"max_history_entries": 5}
        wanted = settings.load(data_dir=directory / "data", history=history)
        async with Engine(wanted) as engine:
            for number in range(12):
                vm_id = (await bash(engine, f"echo {number} > f{number}")).vm_id
            found = await engine.past.history(HistoryQueryRequest(vm_id=vm_id))
            assert found.total == 5
            assert len(await engine.past.snapshots(vm_id)) == 5
            await engine.settle()
            assert await text(engine, "ls | wc -l") == "12\n"


BACKGROUND = "nohup sleep 300 >/dev/null 2>&1 & "


async def test_small_changes_are_copied_under_a_program_in_the_background(engine) -> None:
    vm_id = (await bash(engine, BACKGROUND + "echo 1 > a")).vm_id
    for number in (2, 3):
        broke = await bash(engine, f"echo {number} > a; mkdir d{number}")
        assert (broke.snapshot_before is not None, broke.notes) == (True, [])
    await engine.past.rollback(vm_id, RollbackTo())
    assert await text(engine, "cat a; ls -d d*") == "2\nd2\n"
    await engine.past.rollback(vm_id, RollbackTo())
    assert await text(engine, "cat a; ls") == "1\na\n"


@pytest.mark.parametrize("much", ["head -c 6M /dev/zero > big", "mkdir d; touch d/{1..1500}"])
async def test_large_changes_under_one_mean_no_restore_point_and_say_so(engine, much: str) -> None:
    vm_id = (await bash(engine, BACKGROUND + f"echo 1 > a; {much}")).vm_id
    response = await bash(engine, "echo 2 > a")
    assert response.snapshot_before is None
    assert "nothing to go back to" in response.notes[0]
    with pytest.raises(RollbackFailed, match="has no state it started from"):
        await engine.past.rollback(vm_id, RollbackTo(execution_id=response.execution_id))
    kept = await engine.past.snapshot(vm_id, SnapshotCreateRequest())  # a copy
    await bash(engine, "echo 3 > a")
    await engine.past.rollback(vm_id, RollbackTo(snapshot_id=kept.id))
    assert await text(engine, "cat a") == "2\n"


async def test_executions_beside_one_that_writes_nothing_can_be_undone(engine) -> None:
    vm_id = (await bash(engine, "echo 1 > a; mkfifo gate")).vm_id
    started = asyncio.Event()
    request = VmExecuteRequest(
        agent_id="tester", language="bash", code="echo on; read x < gate; echo $x"
    )
    beside = asyncio.create_task(engine.execute(request, lambda *_: started.set()))
    await asyncio.wait_for(started.wait(), 20)
    broke = await bash(engine, "echo 2 > a; echo go > gate")
    assert broke.snapshot_before is not None
    assert (await beside).stdout == "on\ngo\n"
    await engine.past.rollback(vm_id, RollbackTo(execution_id=broke.execution_id))
    assert await text(engine, "cat a") == "1\n"


async def test_everything_is_there_for_the_next_server() -> None:
    with host.data_directory() as directory:
        wanted = settings.load(data_dir=directory / "data")
        async with Engine(wanted) as engine:
            vm_id = (await bash(engine, "echo 1 > a")).vm_id
            broke = await bash(engine, "echo 2 > a; false")
        async with Engine(wanted) as engine:
            found = await engine.past.history(HistoryQueryRequest(vm_id=vm_id))
            assert found.entries[0].id == broke.execution_id
            await engine.past.rollback(vm_id, RollbackTo())  # of a stopped VM
            assert await text(engine, "cat a") == "1\n"


async def test_history_that_is_off() -> None:
    with host.data_directory() as directory:
        wanted = settings.load(data_dir=directory / "data", history={"enabled": False})
        async with Engine(wanted) as engine:
            response = await bash(engine, "echo 1 > a")
            assert response.snapshot_before is None
            with pytest.raises(HistoryError, match="history is off"):
                await engine.past.history(HistoryQueryRequest(vm_id=response.vm_id))


async def test_a_damaged_layer_harms_only_what_needs_it() -> None:
    with host.data_directory() as directory:
        wanted = settings.load(data_dir=directory / "data")
        async with Engine(wanted) as engine:
            vm_id = (await bash(engine, "echo 1 > a")).vm_id
            await bash(engine, "true")
            other = await engine.execute(
                VmExecuteRequest(agent_id="other", language="bash", code="echo fine > a")
            )
        (layer,) = (directory / "data" / "layers").glob(f"*/{vm_id}.0/layer.json")
        layer.write_text("{")
        async with Engine(wanted) as engine:
            with pytest.raises(VmExecutionError, match="missing or damaged"):
                await bash(engine, "cat a", vm_id=vm_id)
            assert (
                await engine.execute(
                    VmExecuteRequest(
                        agent_id="other", language="bash", code="cat a", vm_id=other.vm_id
                    )
                )
            ).stdout == "fine\n"
