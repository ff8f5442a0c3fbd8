"""Ten agents with four VMs each, all at once: nobody meets anybody else, and nothing is left."""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.errors import SnapshotNotFound, VmNotAvailable
from mulligan.models import (
    ForkRequest,
    HistoryQueryRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmCreateRequest,
    VmExecuteRequest,
)
from support import host

AGENTS, VMS = 10, 4
pytestmark = pytest.mark.anyio

LOOK = "cat marker; ls"


class Worker:
    """One VM of an agent, what it should hold, and who else there is."""

    def __init__(self, engine: Engine, agent: str, vm_id: str, others: list[str]) -> None:
        self.engine = engine
        self.agent = agent
        self.vm_id = vm_id
        self.others = others
        self.count = 0
        self.written = 0
        self.snapshots: dict[str, int] = {}
        self.executions: list[str] = []
        self.done: Counter[str] = Counter()

    async def run(self, code: str, vm_id: str | None = None) -> str:
        request = VmExecuteRequest(
            agent_id=self.agent, vm_id=vm_id or self.vm_id, language="bash", code=code
        )
        response = await self.engine.execute(request)
        assert response.vm_id == (vm_id or self.vm_id)
        assert response.exit_code == 0, response
        if vm_id is None:
            self.executions.append(response.execution_id)
        return response.stdout

    def holds(self, count: int) -> str:
        return f"{self.agent} {self.vm_id} {count}\nmarker\n"

    async def work(self, until: float, rng: random.Random) -> None:
        await self.write(rng)
        await self.keep(rng)
        steps = [
            self.write,
            self.write,
            self.keep,
            self.back,
            self.fork,
            self.compare,
            self.trespass,
        ]
        while time.monotonic() < until:
            step = rng.choice(steps)
            await step(rng)
            self.done[step.__name__] += 1
        assert await self.run(LOOK) == self.holds(self.count)
        await self.check_history()

    async def write(self, _: random.Random) -> None:
        self.written += 1
        self.count = self.written
        seen = await self.run(f"echo {self.agent} {self.vm_id} {self.count} > marker; {LOOK}")
        assert seen == self.holds(self.count)

    async def keep(self, _: random.Random) -> None:
        made = await self.engine.past.snapshot(self.vm_id, SnapshotCreateRequest(), self.agent)
        self.snapshots[made.id] = self.count

    async def back(self, rng: random.Random) -> None:
        snapshot = rng.choice(list(self.snapshots))
        keep = rng.random() < 0.3
        to = RollbackTo(snapshot_id=snapshot, create_pre_rollback_snapshot=keep)
        done = await self.engine.past.rollback(self.vm_id, to, self.agent)
        if done.pre_rollback_snapshot_id is not None:
            self.snapshots[done.pre_rollback_snapshot_id] = self.count
        self.count = self.snapshots[snapshot]
        assert await self.run(LOOK) == self.holds(self.count)

    async def fork(self, rng: random.Random) -> None:
        snapshot = rng.choice(list(self.snapshots))
        request = ForkRequest(snapshot_id=snapshot)
        made = await self.engine.past.fork(self.vm_id, request, self.agent)
        fork = made.vms[0].id
        assert await self.run(LOOK, fork) == self.holds(self.snapshots[snapshot])
        await self.run("echo stranger > marker", fork)
        await self.engine.delete_vm(fork, self.agent)

    async def compare(self, rng: random.Random) -> None:
        snapshot = rng.choice(list(self.snapshots))
        found = await self.engine.past.diff(self.vm_id, snapshot, agent_id=self.agent)
        differs = self.snapshots[snapshot] != self.count
        assert [entry.path for entry in found.entries] == ["/workspace/marker"] * differs
        if differs:
            assert f"+{self.agent} {self.vm_id} {self.count}\n" in found.entries[0].text_diff

    async def trespass(self, rng: random.Random) -> None:
        """Another agent's VM is nobody's, and another VM's snapshot is not found."""
        other = rng.choice(self.others)
        with pytest.raises(VmNotAvailable):
            await self.run("true", other)
        to = RollbackTo(snapshot_id=rng.choice(list(self.snapshots)))
        with pytest.raises(VmNotAvailable):
            await self.engine.past.rollback(other, to, self.agent)
        with pytest.raises(SnapshotNotFound):
            await self.engine.past.rollback(other, to)

    async def check_history(self) -> None:
        request = HistoryQueryRequest(vm_id=self.vm_id, limit=10**6)
        found = (await self.engine.past.history(request, self.agent)).entries
        assert [entry.id for entry in found] == self.executions[::-1]
        assert {entry.agent_id for entry in found} == {self.agent}


async def play(seconds: float, capsys: pytest.CaptureFixture[str]) -> None:
    async with asyncio.timeout(600):
        with host.data_directory() as directory:
            before = left_over(directory)
            done = await load(directory / "data", seconds)
            after = left_over(directory)
            # What other tests had running may have ended meanwhile.
            assert (after[0] - before[0], after[1]) == (set(), before[1])
            assert (after[2] <= before[2], after[3]) == (True, before[3])
    with capsys.disabled():
        told = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
        print(f"\n{AGENTS} agents with {VMS} VMs each, {seconds:g} s: {told}")


def left_over(directory: Path) -> tuple[set[int], list[int], int, list[str]]:
    return (
        host.descendants(os.getpid()),
        host.naming(directory),
        host.descriptors(),
        host.mounts(),
    )


async def load(data: Path, seconds: float) -> Counter[str]:
    done: Counter[str] = Counter()
    wanted = settings.load(data_dir=data, history={"max_history_entries": 10**6})
    async with Engine(wanted) as engine:
        vms = {f"agent-{number}": await four(engine, f"agent-{number}") for number in range(AGENTS)}
        until = time.monotonic() + seconds
        workers = [
            Worker(engine, agent, vm_id, [v for a, some in vms.items() if a != agent for v in some])
            for agent, some in vms.items()
            for vm_id in some
        ]
        async with asyncio.TaskGroup() as group:
            for number, worker in enumerate(workers):
                group.create_task(worker.work(until, random.Random(number)))
        for worker in workers:
            done += worker.done
        assert len(engine.list_vms()) == AGENTS * VMS
        for vm in engine.list_vms():
            await engine.delete_vm(vm.id)
        await engine.settle()
    assert not list(data.glob("vms/*"))
    assert not list(data.glob("layers/*/*"))
    assert not list(data.glob("history/outputs/*/*"))
    return done


async def four(engine: Engine, agent: str) -> list[str]:
    made = [await engine.create_vm(VmCreateRequest(agent_id=agent)) for _ in range(VMS)]
    return [vm.id for vm in made]


async def test_mixed_load(capsys: pytest.CaptureFixture[str]) -> None:
    await play(10, capsys)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_mixed_load_for_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    await play(60, capsys)
