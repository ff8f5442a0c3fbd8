"""Everything mixed, with faults, for a while; each answer is checked. Run by ``small_disk``.

Prints counts. Whatever is asked has to be answered: with what is right, or with an error in words.
An agent that was answered with an error does not know what its VM holds until it has set it anew.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.errors import VmExecutionError
from mulligan.models import RollbackTo, SnapshotCreateRequest, VmExecuteRequest, VmExecuteResponse
from support import host
from support.full_disk import Filler

SECONDS = "SOAK_SECONDS"
AGENTS = 4
ANSWER_S = 90.0  # a VM that does not answer is given up before


class Wrong(AssertionError):  # noqa: N818  (it is no fault of a caller)
    """An answer that is not true."""


class Agent:
    """One agent with one VM, and what it knows of it: the number in its file, its snapshots."""

    def __init__(self, engine: Engine, name: str, rng: random.Random) -> None:
        self.engine, self.name, self.rng = engine, name, rng
        self.number: int | None = None
        self.snapshots: dict[str, int] = {}
        self.vm_id: str | None = None
        self.counts: Counter[str] = Counter()

    def request(self, code: str, language: str = "bash", **more: object) -> VmExecuteRequest:
        return VmExecuteRequest(agent_id=self.name, language=language, code=code, **more)

    async def run(self, code: str, language: str = "bash", **more: object) -> VmExecuteResponse:
        done = await self.engine.execute(self.request(code, language, **more))
        self.vm_id = done.vm_id
        return done

    async def compute(self) -> None:
        a, b = self.rng.randrange(10**6), self.rng.randrange(10**6)
        kernel = self.rng.choice([None, "k"])
        done = await self.run(f"print({a} * {b})", "python", kernel=kernel)
        if done.outcome == "success" and done.stdout != f"{a * b}\n":
            raise Wrong(f"{a} * {b}: {done}")
        self.counts[f"compute: {done.outcome}"] += 1

    async def set_number(self) -> None:
        wanted, self.number = self.rng.randrange(10**9), None
        done = await self.run(f"echo {wanted} > n && cat n")
        if done.outcome == "success":
            if done.stdout != f"{wanted}\n":
                raise Wrong(f"wrote {wanted}: {done}")
            self.number = wanted

    async def look(self) -> None:
        done = await self.run("cat n")
        if self.number is not None and done.outcome == "success":
            self.check(done.stdout.encode())

    def check(self, found: bytes) -> None:
        if found != f"{self.number}\n".encode():
            raise Wrong(f"{self.name} holds {found!r}, not {self.number}")

    async def file(self) -> None:
        if self.vm_id is None:
            return
        wanted, self.number = self.rng.randrange(10**9), None
        await self.engine.files.write(self.vm_id, "/workspace/n", f"{wanted}\n".encode())
        self.number = wanted
        self.check(await self.engine.files.read(self.vm_id, "/workspace/n"))

    async def snapshot(self) -> None:
        if self.vm_id is None or self.number is None:
            return
        kept = await self.engine.past.snapshot(self.vm_id, SnapshotCreateRequest())
        self.snapshots[kept.id] = self.number
        if len(self.snapshots) > 4:
            oldest = next(iter(self.snapshots))
            del self.snapshots[oldest]
            await self.engine.past.delete_snapshot(self.vm_id, oldest)

    async def rollback(self) -> None:
        if self.vm_id is None or not self.snapshots:
            return
        snapshot = self.rng.choice(list(self.snapshots))
        known, self.number = self.snapshots[snapshot], None
        to = RollbackTo(snapshot_id=snapshot, create_pre_rollback_snapshot=False)
        await self.engine.past.rollback(self.vm_id, to)
        self.number = known
        await self.look()

    async def cancel(self) -> None:
        execution = await self.engine.executions.start(self.request("sleep 60"))
        await asyncio.sleep(self.rng.random() / 20)
        state = await self.engine.executions.cancel(execution.execution_id)
        if state.result is not None and state.result.outcome not in ("cancelled", "failed"):
            raise Wrong(f"cancelled: {state}")

    async def work(self, until: float) -> None:
        steps: list[Callable[[], Awaitable[None]]] = [
            self.compute,
            self.compute,
            self.set_number,
            self.look,
            self.file,
            self.snapshot,
            self.rollback,
            self.cancel,
        ]
        while time.monotonic() < until:
            await self.step(self.rng.choice(steps))

    async def step(self, step: Callable[[], Awaitable[None]]) -> None:
        name = getattr(step, "__name__", "step")
        try:
            async with asyncio.timeout(ANSWER_S):
                await step()
        except VmExecutionError as error:
            self.counts[f"{name}: {type(error).__name__}"] += 1
        except TimeoutError:
            raise Wrong(f"{name} of {self.name} was not answered in {ANSWER_S:g} s") from None
        else:
            self.counts[name] += 1


class Faults:
    """What goes wrong, at random."""

    def __init__(self, engine: Engine, directory: Path, rng: random.Random) -> None:
        self.engine, self.rng = engine, rng
        self.filler = Filler(directory.parent / "filler")
        self.database = directory / "history" / "history.db"
        self.counts: Counter[str] = Counter()

    async def work(self, until: float) -> None:
        ways = (self.agent_killed, self.vm_killed, self.disk_full, self.database_locked)
        while time.monotonic() < until:
            await asyncio.sleep(0.3 + self.rng.random())
            way = self.rng.choice(ways)
            if await way():
                self.counts[way.__name__] += 1

    def processes(self) -> list[int]:
        """Process numbers of a VM, of its process 1 and below; only ones that this one started."""
        machines = [vm._machine for vm in self.engine.fleet.vms.values()]
        ours = host.descendants(os.getpid())
        up = [machine.pid for machine in machines if machine is not None and machine.pid in ours]
        return sorted(host.descendants(self.rng.choice(up))) if up else []

    async def vm_killed(self) -> bool:
        """The first process of its namespace: the kernel ends the rest."""
        found = self.processes()
        if found:
            kill(found[0])
        return bool(found)

    async def agent_killed(self) -> bool:
        found = self.processes()
        if len(found) > 1:
            kill(found[1])
        return len(found) > 1

    async def disk_full(self) -> bool:
        self.filler.leave(self.rng.choice([0, 2, 16]))
        await asyncio.sleep(self.rng.random() / 2)
        self.filler.free()
        return True

    async def database_locked(self) -> bool:
        await asyncio.to_thread(self._lock, self.rng.random())
        return True

    def _lock(self, seconds: float) -> None:
        with closing(sqlite3.connect(self.database, timeout=5, isolation_level=None)) as database:
            try:
                database.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                return  # it is busy already
            time.sleep(seconds)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended by itself


async def soak(directory: Path, seconds: float, seed: int) -> None:
    limits = settings.load(data_dir=directory, min_free_mb=0, log_level="error")
    async with Engine(limits) as engine:
        agents = [Agent(engine, f"agent-{n}", random.Random(f"{seed}.{n}")) for n in range(AGENTS)]
        faults = Faults(engine, directory, random.Random(seed))
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(agent.work(until))
            group.create_task(faults.work(until))
        for agent in agents:  # when nothing goes wrong any more, all is well
            done = await agent.run("print(6 * 7)", "python")
            if done.stdout != "42\n":
                raise Wrong(f"afterwards: {done}")
            await agent.look()
        total = sum((agent.counts for agent in agents), Counter[str]())
    print(f"seed {seed}, {seconds:g} s, answers:", told(total))
    print("faults:", told(faults.counts))


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    given_seed = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
    print(f"seed {given_seed}", file=sys.stderr)
    asyncio.run(soak(Path(sys.argv[1]) / "data", float(os.environ[SECONDS]), given_seed))
