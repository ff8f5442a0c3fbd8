"""Memory in snapshots of microVMs: all that ran is there again after a rollback, and in forks."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from integration.test_qemu_kept_memory import directory, only_vm, printed, request, settings
from mulligan.engine.engine import Engine
from mulligan.models import ForkRequest, RollbackTo, SnapshotCreateRequest
from support import host
from support.keeping import ASK, COUNTER

__all__ = ["directory"]  # a fixture
pytestmark = [pytest.mark.anyio, pytest.mark.long]

NOW = "import time; time.time()"
DRAW = "import os, uuid; os.urandom(16).hex(), str(uuid.uuid4())"


def moments(directory: Path) -> list[Path]:
    return sorted(directory.glob("vms/*/moments/*/moment.json"))


async def snapshot(engine: Engine) -> str:
    vm = only_vm(engine)
    return (await engine.past.snapshot(vm.record.id, SnapshotCreateRequest(name="here"))).id


async def counting(engine: Engine) -> None:
    """A VM with a layer, a kernel and a counter, which was asked once."""
    await printed(engine, "echo old > old", "bash")
    await printed(engine, "kept = ['a']", kernel="k")
    await printed(engine, COUNTER, "bash")
    assert await printed(engine, ASK) == "1\n"


async def test_a_counter_survives_rollback_and_fork_right_in_each_branch(directory: Path) -> None:
    async with Engine(settings(directory)) as engine:
        await counting(engine)
        here = await snapshot(engine)
        vm = only_vm(engine)
        assert await printed(engine, ASK) == "2\n"
        await printed(engine, "kept.append('later')", kernel="k")
        await printed(engine, "rm counter.py; echo new > new", "bash")
        back = await engine.past.rollback(vm.record.id, RollbackTo(snapshot_id=here))
        assert [each.memory for each in back.kernels] == ["kept"]
        assert await printed(engine, ASK) == "2\n"
        assert await printed(engine, "kept", kernel="k") == "['a']"
        seen = await printed(engine, "cat log; ls", "bash")
        assert seen == "1\n2\ncounter.py\nlistening\nlog\nold\n"

        forked = await engine.past.fork(vm.record.id, ForkRequest(count=2, snapshot_id=here))
        assert forked.notes == []
        drawn = []
        for number, fork in enumerate(forked.vms, 1):
            for asked in range(2, 2 + number):
                assert await printed(engine, ASK, vm_id=fork.id) == f"{asked}\n"
            assert await printed(engine, "kept", kernel="k", vm_id=fork.id) == "['a']"
            drawn += eval(await printed(engine, DRAW, kernel="k", vm_id=fork.id))
            before = time.time()
            told = float(await printed(engine, NOW, kernel="k", vm_id=fork.id))
            assert before <= told <= time.time()
        assert len(set(drawn)) == len(drawn)
        assert await printed(engine, ASK) == "3\n"
        # What a branch is frozen into has names of its own, though it had been there before.
        await printed(engine, "pkill -f counter.py; rm -f log; echo end > end", "bash")
        await printed(engine, "echo more > end", "bash")
        assert await printed(engine, "cat end old", "bash") == "more\nold\n"
        assert await printed(engine, ASK, vm_id=forked.vms[0].id) == "3\n"
    assert host.naming(directory) == []
    async with Engine(settings(directory)) as engine:  # and as long as the snapshot is there
        (vm,) = [each for each in engine.fleet.of("a") if each.record.id == back.vm_id]
        await engine.past.rollback(vm.record.id, RollbackTo(snapshot_id=here))
        assert await printed(engine, ASK, vm_id=vm.record.id) == "2\n"
        others = len(moments(directory))
        await engine.past.delete_snapshot(vm.record.id, here)
        assert len(moments(directory)) == others - 1


async def test_a_fork_of_a_vm_at_rest_has_its_kernels(directory: Path) -> None:
    async with Engine(settings(directory)) as engine:
        await printed(engine, "kept = 1; open('file', 'w').write('x')", kernel="k")
        vm = only_vm(engine)
        forked = await engine.past.fork(vm.record.id, ForkRequest(count=1))
        (fork,) = forked.vms
        assert forked.notes == []
        assert fork.capabilities is not None
        assert fork.capabilities.memory_across_fork
        code = "kept, open('file').read()"
        assert await printed(engine, code, kernel="k", vm_id=fork.id) == "(1, 'x')"
        # What comes next is written as what changed since then.
        await engine.past.snapshot(vm.record.id, SnapshotCreateRequest(name="again"))
        first, second = (each.parent for each in moments(directory))
        assert (first / "memory").samefile(second / "memory")
        assert any((each / "changes").exists() for each in (first, second))


async def test_memory_that_cannot_be_brought_back_leaves_the_files(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(settings(directory)) as engine:
        await counting(engine)
        here = await snapshot(engine)
        (moment,) = moments(directory)
        with (moment.parent / "devices").open("r+b") as file:
            file.write(bytes(1000))
        await printed(engine, "echo new > new", "bash")
        back = RollbackTo(snapshot_id=here, create_pre_rollback_snapshot=False)
        done = await engine.past.rollback(only_vm(engine).record.id, back)
        assert [each.memory for each in done.kernels] == ["lost"]
        assert any("memory_not_restored" in each for each in caplog.messages)
        assert await printed(engine, "ls", "bash") == "counter.py\nlistening\nlog\nold\n"
        assert (await engine.execute(request(ASK))).exit_code != 0
        async with asyncio.timeout(20):
            while len(list(only_vm(engine).stores.vms.disk(done.vm_id).iterdir())) > 2:
                await asyncio.sleep(0.05)  # nothing is left of what was tried


@pytest.mark.parametrize("how", ["merged", "cut", "another"])
async def test_a_snapshot_says_when_its_memory_is_void(
    directory: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(settings(directory)) as engine:
        await printed(engine, "echo older > older", "bash")
        await counting(engine)
        vm = only_vm(engine)
        made = await engine.past.snapshot(vm.record.id, SnapshotCreateRequest(name="here"))
        assert made.whole_memory
        await printed(engine, "kept.append('later')", kernel="k")

        async def said() -> bool:
            listed = await engine.past.snapshots(vm.record.id)
            assert not any(each.whole_memory for each in listed if each.id != made.id)
            (here,) = [each for each in listed if each.id == made.id]
            return here.whole_memory

        assert await said()
        (moment,) = moments(directory)
        if how == "merged":
            note = json.loads(moment.read_text())["note"]
            await engine.past._maintenance.squash(vm.record.agent_id, note["base"])
            assert vm.stores.layers.stack(vm.record.agent_id, note["base"]) != note["layers"]
        elif how == "cut":
            with (moment.parent / "memory").open("r+b") as file:
                file.truncate(5000)
        else:
            moment.write_text(moment.read_text().replace('"stamp":"', '"stamp":"x'))
        assert not await said()
        back = RollbackTo(snapshot_id=made.id, create_pre_rollback_snapshot=False)
        done = await engine.past.rollback(vm.record.id, back)
        assert any("memory_not_restored" in each for each in caplog.messages)
        assert [each.memory for each in done.kernels] == ["kept"]  # the VM did not have to end
        assert await printed(engine, "kept", kernel="k") == "['a']"
        assert await printed(engine, "ls", "bash") == "counter.py\nlistening\nlog\nold\nolder\n"
        assert (await engine.execute(request(ASK))).exit_code != 0
        forked = await engine.past.fork(vm.record.id, ForkRequest(snapshot_id=made.id))
        assert forked.notes
