"""Forks of one memory are VMs of their own; after a rollback it is the same VM."""

import time
from collections import defaultdict
from pathlib import Path

import pytest

from integration.test_qemu_kept_memory import directory, only_vm, printed, settings
from mulligan.engine.engine import Engine
from mulligan.models import ForkRequest, RollbackTo, SnapshotCreateRequest
from support.keeping import ASK, COUNTER

__all__ = ["directory"]  # a fixture
pytestmark = [pytest.mark.anyio, pytest.mark.long]

CALLED = "hostname; uname -n; cat /etc/hostname /etc/machine-id"
BY_NAME = "import socket; print(socket.gethostbyname(socket.gethostname()))"
PREPARED = "import os, random, ssl, time, uuid; random.seed(1); ssl.RAND_bytes(1)"
DRAW = "os.urandom(8).hex(), str(uuid.uuid4()), random.random(), ssl.RAND_bytes(8).hex()"
DRAW_IN_BASH = "echo $RANDOM$RANDOM$RANDOM $SRANDOM$SRANDOM"
DRAW_AFRESH = "import os, random, uuid; print(os.urandom(8).hex(), uuid.uuid4(), random.random())"


async def called(engine: Engine, vm_id: str) -> list[str]:
    """A VM's host name and machine-id."""
    name, again, in_file, machine_id = (await printed(engine, CALLED, "bash", vm_id=vm_id)).split()
    assert name == again == in_file == vm_id
    assert await printed(engine, BY_NAME, vm_id=vm_id) == "127.0.0.1\n"
    return [name, machine_id]


@pytest.mark.parametrize("count", [2, 20])
async def test_no_two_forks_have_the_same(directory: Path, count: int) -> None:
    async with Engine(settings(directory)) as engine:
        await printed(engine, PREPARED, kernel="k")
        await printed(engine, "RANDOM=1", "bash", kernel="b")
        await printed(engine, COUNTER, "bash")
        assert await printed(engine, ASK) == "1\n"
        vm = only_vm(engine)
        forked = await engine.past.fork(vm.record.id, ForkRequest(count=count))
        assert forked.notes == []
        seen: dict[int, list[object]] = defaultdict(list)
        for each in (vm.record.id, *(fork.id for fork in forked.vms)):
            drawn = list(eval(await printed(engine, DRAW, kernel="k", vm_id=each)))
            drawn += (await printed(engine, DRAW_IN_BASH, "bash", kernel="b", vm_id=each)).split()
            drawn += (await printed(engine, DRAW_AFRESH, vm_id=each)).split()
            drawn += await called(engine, each)
            before = time.time()
            told = float(await printed(engine, "time.time()", kernel="k", vm_id=each))
            assert before <= told <= time.time()
            assert await printed(engine, ASK, vm_id=each) == "2\n"  # it has its memory
            for number, what in enumerate(drawn):
                seen[number].append(what)
            await engine.fleet.find(each).stop()
        assert {number: len(set(drawn)) for number, drawn in seen.items()} == dict.fromkeys(
            range(11), count + 1
        )


async def test_a_rollback_is_the_same_vm_and_files_that_say_so_can_be_changed(
    directory: Path,
) -> None:
    async with Engine(settings(directory)) as engine:
        await printed(engine, PREPARED, kernel="k")
        vm_id = only_vm(engine).record.id
        before = await called(engine, vm_id)
        request = SnapshotCreateRequest(name="here")
        here = (await engine.past.snapshot(vm_id, request)).id
        drawn = await printed(engine, "random.random()", kernel="k")
        await printed(engine, "echo 127.0.0.1 more >> /etc/hosts; rm /etc/machine-id", "bash")
        assert "more" in await printed(engine, "cat /etc/hosts; ls /etc/machine-id || true", "bash")
        back = await engine.past.rollback(vm_id, RollbackTo(snapshot_id=here))
        assert [each.memory for each in back.kernels] == ["kept"]
        assert await called(engine, vm_id) == before
        assert await printed(engine, "random.random()", kernel="k") == drawn  # all is as it was
        assert "more" not in await printed(engine, "cat /etc/hosts", "bash")
        # What a fork's program has changed of it is the fork's.
        await printed(engine, "echo 127.0.0.1 more >> /etc/hosts", "bash")
        (fork,) = (await engine.past.fork(vm_id, ForkRequest(count=1))).vms
        assert (await called_by_itself(engine, fork.id)) != before
        assert "more" in await printed(engine, "cat /etc/hosts", "bash", vm_id=fork.id)


async def called_by_itself(engine: Engine, vm_id: str) -> list[str]:
    """Its names, where /etc/hosts is a program's."""
    name, *_, machine_id = (await printed(engine, CALLED, "bash", vm_id=vm_id)).split()
    assert name == vm_id
    return [name, machine_id]
