"""A data directory on a file system that is full, again and again. Run by ``small_disk``.

Whatever does not work says so in words; whatever was answered for is there in the end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.errors import VmExecutionError
from mulligan.models import (
    ForkRequest,
    HistoryQueryRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)

PAGE = 4096
LEVELS = [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96]
FULL = ("No space left on device", "is full")
Result = TypeVar("Result")


class Filler:
    """A file beside the data directory that takes all the space but some."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)  # there may be no space for one later

    def leave(self, pages: int) -> None:
        """Has so much free, more or less; the file system rounds."""
        self.free()
        chunk = b"x" * (64 * PAGE)
        while chunk:
            try:
                self._file.write(chunk)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                chunk = chunk[: len(chunk) // 2 // PAGE * PAGE]
        self._file.truncate(max(0, self._file.tell() // PAGE * PAGE - pages * PAGE))

    def free(self) -> None:
        self._file.seek(0)
        self._file.truncate()


class Trial:
    """What is tried, and what was promised meanwhile."""

    def __init__(self, place: Path) -> None:
        # Nothing is refused beforehand: what is under trial is what happens when space runs out.
        self.settings = settings.load(data_dir=place / "data", min_free_mb=0)
        self.engine = Engine(self.settings)
        self.filler = Filler(place / "filler")
        self.executions: list[str] = []
        self.snapshots: dict[str, str] = {}
        self.refused: dict[str, int] = {}

    async def bash(self, code: str, **more: object) -> VmExecuteResponse:
        request = VmExecuteRequest(agent_id="a", language="bash", code=code, **more)
        response = await self.engine.execute(request)
        self.executions.append(response.execution_id)
        return response

    async def tried(self, what: str, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Does something that may be refused, but only in words that say why."""
        try:
            return await work
        except VmExecutionError as error:
            text = f"{error} {error.remedy or ''}"
            assert any(each in text for each in FULL), f"{what}: {text}"
            self.refused[what] = self.refused.get(what, 0) + 1
            return None

    async def keep(self, vm_id: str) -> None:
        snapshot = await self.tried(
            "snapshot", self.engine.past.snapshot(vm_id, SnapshotCreateRequest())
        )
        if snapshot is not None:
            found = await self.tried("look", self.bash("cat f"))
            if found is not None and found.exit_code == 0:
                self.snapshots[snapshot.id] = found.stdout

    async def at(self, vm_id: str, first: str, pages: int) -> None:
        """Everything once, with so much space left."""
        self.filler.leave(pages)
        past = self.engine.past
        written = await self.tried("execute", self.bash(f"echo {pages} > f"))
        if written is not None:
            assert written.exit_code == 0 or FULL[0] in written.stderr, written
        await self.keep(vm_id)
        forked = await self.tried("fork", past.fork(vm_id, ForkRequest(count=2)))
        for vm in forked.vms if forked is not None else ():
            await self.engine.delete_vm(vm.id)
        await self.tried("diff", past.diff(vm_id, first))
        await self.tried("rollback", past.rollback(vm_id, RollbackTo(snapshot_id=first)))
        await self.tried("history", past.history(HistoryQueryRequest(vm_id=vm_id, limit=10**6)))

    async def reopened(self, pages: int) -> None:
        """The server is started anew while there is so little space."""
        self.filler.leave(pages)
        await self.engine.close()
        self.engine = Engine(self.settings)
        if await self.tried("open", self._open()) is None:
            self.filler.free()
            self.engine = Engine(self.settings)
            await self.engine.open()

    async def _open(self) -> bool:
        await self.engine.open()
        return True

    async def check(self, vm_id: str) -> None:
        """There is space again: all that was promised is there, and everything works."""
        self.filler.free()
        past = self.engine.past
        rows = (await past.history(HistoryQueryRequest(vm_id=vm_id, limit=10**6))).entries
        assert set(self.executions) <= {row.id for row in rows}
        for snapshot, content in self.snapshots.items():
            await past.rollback(vm_id, RollbackTo(snapshot_id=snapshot))
            assert (await self.bash("cat f")).stdout == content, snapshot


async def main(place: Path) -> None:
    trial = Trial(place)
    async with trial.engine:
        vm_id = (await trial.bash("echo first > f; echo kept > g")).vm_id
        await trial.keep(vm_id)
        (first,) = trial.snapshots
        for pages in LEVELS:
            await trial.at(vm_id, first, pages)
        await trial.check(vm_id)
        for pages in LEVELS[::4]:
            await trial.reopened(pages)
            await trial.check(vm_id)
        await filled_by_a_program(trial, vm_id)
        await trial.check(vm_id)
        await trial.engine.close()
    assert trial.refused.keys() >= {"execute", "snapshot", "rollback", "fork"}, trial.refused
    told = ", ".join(f"{what} {count}" for what, count in sorted(trial.refused.items()))
    print(f"{len(trial.executions)} executions and {len(trial.snapshots)} snapshots kept; {told}")


async def filled_by_a_program(trial: Trial, vm_id: str) -> None:
    """The program is told, other agents are told, and removing its VM makes space again."""
    request = VmExecuteRequest(
        agent_id="greedy", language="bash", code="head -c 60000000 /dev/zero > big"
    )
    greedy = await trial.tried("greedy", trial.engine.execute(request))
    if greedy is not None:
        assert FULL[0] in greedy.stderr
    await trial.at(vm_id, next(iter(trial.snapshots)), 0)
    trial.filler.free()
    for vm in trial.engine.list_vms("greedy"):
        await trial.engine.delete_vm(vm.id)
    await trial.engine.settle()
    assert (await trial.bash("echo works > f")).exit_code == 0


if __name__ == "__main__":
    os.umask(0o022)
    asyncio.run(main(Path(sys.argv[1])))
