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
DRAW = "time.time(), os.urandom(8).hex(), str(uuid.uuid4()), random.random(), ssl.RAND_bytes(8)"
DRAW_IN_BASH = f"echo $RANDOM$RANDOM$RANDOM $SRANDOM$SRANDOM; {CALLED}"
DRAW_AFRESH = "import random, uuid; print(uuid.uuid4(), random.random())"


async def called(engine: Engine, vm_id: str) -> list[str]:
    """A VM's host name and machine-id."""
    name, again, in_file, machine_id = (await printed(engine, CALLED, "bash", vm_id=vm_id)).split()
    assert name == again == in_file == vm_id
    return [name, machine_id]


@pytest.mark.timeout(900)
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
            before = time.time()
            told, *drawn = eval(await printed(engine, DRAW, kernel="k", vm_id=each))
            assert before <= told <= time.time()
            drawn += (await printed(engine, DRAW_IN_BASH, "bash", kernel="b", vm_id=each)).split()
            assert drawn[-4:-1] == [each] * 3
            *more, asked, address = (
                await printed(engine, f"{DRAW_AFRESH}\n{ASK}\n{BY_NAME}", vm_id=each)
            ).split()
            assert (asked, address) == ("2", "127.0.0.1")  # it has its memory
            for number, what in enumerate([*drawn, *more]):
                seen[number].append(what)
            await engine.fleet.find(each).stop()
        assert {number: len(set(drawn)) for number, drawn in seen.items()} == dict.fromkeys(
            range(12), count + 1
        )


async def test_a_rollback_is_the_same_vm_and_files_that_say_so_can_be_changed(
    directory: Path,
) -> None:
    async with Engine(settings(directory)) as engine:
        await printed(engine, PREPARED, kernel="k")
        vm_id = only_vm(engine).record.id
        before = await called(engine, vm_id)
        assert await printed(engine, BY_NAME) == "127.0.0.1\n"
        request = SnapshotCreateRequest(name="here")
        here = (await engine.past.snapshot(vm_id, request)).id
        drawn = await printed(engine, "random.random()", kernel="k")
        await printed(engine, "echo 127.0.0.1 more >> /etc/hosts; rm /etc/machine-id", "bash")
        assert "more" in await printed(engine, "cat /etc/hosts; ls /etc/machine-id || true", "bash")
        back = await engine.past.rollback(vm_id, RollbackTo(snapshot_id=here))
        assert [each.memory for each in back.kernels] == ["kept"]
        assert await called(engine, vm_id) == before
        assert await printed(engine, BY_NAME) == "127.0.0.1\n"
        assert await printed(engine, "random.random()", kernel="k") == drawn  # all is as it was
        assert "more" not in await printed(engine, "cat /etc/hosts", "bash")
        # What a fork's program has changed of it is the fork's.
        await printed(engine, "echo 127.0.0.1 more >> /etc/hosts", "bash")
        (fork,) = (await engine.past.fork(vm_id, ForkRequest(count=1))).vms
        assert await called(engine, fork.id) != before
        assert "more" in await printed(engine, "cat /etc/hosts", "bash", vm_id=fork.id)
