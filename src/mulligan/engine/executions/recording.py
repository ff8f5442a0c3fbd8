"""An execution's row in the history: begun before the program starts, ended before the answer."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable
from typing import Protocol

from mulligan.engine.executions.execution import NEVER_STARTED
from mulligan.engine.executions.gates import Judged
from mulligan.engine.past.maintenance import Maintenance
from mulligan.engine.past.timemachine import TimeMachine
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ExecutionFailed, VmExecutionError, VmNotAvailable
from mulligan.history import Dropped, HistoryStore
from mulligan.history.records import REFUSED
from mulligan.log import get_logger
from mulligan.models import (
    CommandHistoryEntry,
    NetworkConnection,
    Snapshot,
    VmExecuteResponse,
    utc_now,
)
from mulligan.network.notes import cleaned
from mulligan.settings import HistorySettings

log = get_logger()

NO_RESTORE_POINT = (
    "nothing to go back to: when this started, another execution ran in the VM, or a terminal or a "
    "program in the background did and more had been written than is copied under it, or it could "
    "not be halted for that"
)


class Permit(Protocol):
    """See ``Gates.permit``."""

    async def __call__(self, *, pinned: bool) -> str | None: ...


class Recording:
    """One execution on its way into the history.

    An execution whose row cannot be written does not run: what ran is in the history.
    """

    def __init__(
        self,
        settings: HistorySettings,
        history: HistoryStore,
        machine: TimeMachine,
        maintenance: Maintenance,
        clean: Callable[[str, str], str],
        vm: Vm,
        judged: Judged,
        execution_id: str,
    ) -> None:
        asked = judged.request.history
        options = asked.model_dump(exclude_none=True) if asked is not None else {}
        self._settings = settings.model_copy(update=options)
        self._history = history
        self._machine = machine
        self._clean = clean
        self._maintenance = maintenance
        self._vm = vm
        self._begun = False
        self._turn = 0
        self._approval: str | None = None
        self._failed: BaseException | None = None
        request = judged.request
        stdin = request.stdin
        proposed = judged.proposed
        self._entry = CommandHistoryEntry(
            id=execution_id,
            vm_id=vm.record.id,
            agent_id=vm.record.agent_id,
            command=clean(request.agent_id, request.code),
            proposed_command=clean(request.agent_id, proposed) if proposed is not None else None,
            verdicts=list(judged.verdicts),
            language=judged.language,
            success=False,
            exit_code=0,
            stdout="",
            stderr="",
            executed_at=utc_now(),
            duration_ms=0,
            outcome="running",
            kernel=request.kernel,
            stdin_sha256=hashlib.sha256(stdin.encode()).hexdigest() if stdin is not None else None,
        )

    async def begin(self, permit: Permit) -> None:
        """For the holder of ``vm.steady()``: keeps the state it starts from, and makes the row.

        Args:
            permit: the id of a person's yes, where one is needed; called when the state is kept.

        Raises:
            SnapshotFailed, HistoryError: it must not start.
            ExecutionFailed: it has failed already.
            VmExecutionError: whatever ``permit`` raises.
        """
        self._still_wanted()
        if not self._settings.enabled:
            pinned = await self._machine.pin(self._vm)
            self._still_wanted()
            self._approval = await permit(pinned=pinned)
            return
        point = await self._machine.restore_point(self._vm)
        unrecorded = point.unrecorded if point is not None else None
        try:
            self._still_wanted()
            self._approval = await permit(pinned=point is not None)
        except BaseException:
            if unrecorded is not None:
                await self._machine.let_go(self._vm, [unrecorded[0].id])
            raise
        self._entry = self._entry.model_copy(
            update={
                "snapshot_before": point.snapshot_id if point is not None else None,
                "approval": self._approval,
            }
        )
        try:
            dropped = await self._add(self._entry, unrecorded)
        except VmExecutionError:
            if unrecorded is not None:
                await self._machine.let_go(self._vm, [unrecorded[0].id])
            raise
        self._begun = True
        self._turn = self._vm.writing.turns + 1
        await self._let_go(dropped)
        if self._failed is not None:  # meanwhile: the row is complete only now
            await self.fail(self._failed)
            self._still_wanted()

    async def _add(
        self, entry: CommandHistoryEntry, snapshot: tuple[Snapshot, str | None] | None = None
    ) -> Dropped:
        begin = functools.partial(
            self._history.begin,
            entry,
            max_entries=self._settings.max_history_entries,
            snapshot=snapshot,
        )
        return await asyncio.to_thread(begin)

    async def _let_go(self, dropped: Dropped) -> None:
        if dropped.snapshots:
            await self._machine.let_go(self._vm, list(dropped.snapshots))
            self._maintenance.look_at(self._vm.record.agent_id)

    def _still_wanted(self) -> None:
        if self._failed is not None:
            raise ExecutionFailed("it was cancelled before it started")

    async def refuse(self, refusal: VmExecutionError) -> None:
        """It is not let run; that it was asked for is part of what happened.

        Raises:
            HistoryError: the row could not be written.
        """
        await self.never_started(REFUSED, str(refusal))

    async def never_started(self, outcome: str, reason: str) -> None:
        """Makes the row of an execution whose program never started.

        Raises:
            HistoryError: it could not be written.
        """
        if not self._settings.enabled:
            return
        update = {
            "outcome": outcome,
            "error": self._clean(self._entry.agent_id, reason)[:2000],
            "completed_at": utc_now(),
            "exit_code": NEVER_STARTED,
        }
        try:
            async with self._vm.steady():
                await self._let_go(await self._add(self._entry.model_copy(update=update)))
        except VmNotAvailable:
            return  # it is gone, and its history with it

    async def _reached(self, *, goes_on: bool = False) -> list[NetworkConnection]:
        """What it reached over the network; see ``VmNetwork.ended``."""
        network = self._vm.network
        if network is None:
            return []
        clean = functools.partial(self._clean, self._entry.agent_id)
        notes = await network.ended(self._entry.id, goes_on=goes_on)
        return [cleaned(note, clean) for note in notes]

    def _noted(self, written: int) -> None:
        """So much of what it reached is written; what comes later follows by itself."""
        if self._vm.network is not None:
            self._vm.network.ledger.close(self._entry.id, written)

    async def fail(self, error: BaseException) -> None:
        """It has no answer: it was cancelled, or the VM failed under it.

        ``begin`` may still be under way; it then sees to the row itself.
        """
        self._failed = error
        reached = await self._reached()
        if not self._begun:
            self._noted(len(reached))
            return
        cancelled = isinstance(error, asyncio.CancelledError)
        update = {
            "outcome": "cancelled" if cancelled else "error",
            "error": None if cancelled else self._clean(self._entry.agent_id, str(error))[:2000],
            "completed_at": utc_now(),
            "exit_code": -1,
            "network": reached,
        }
        entry = self._entry.model_copy(update=update)
        try:
            await asyncio.to_thread(self._history.finish, entry)
        except VmExecutionError as failure:
            log.error(  # noqa: TRY400  (the first error is the one to raise)
                "history_not_written", execution_id=entry.id, error=str(failure)
            )
        self._noted(len(reached))

    async def finish(
        self, response: VmExecuteResponse, *, rollback: str | None = None
    ) -> VmExecuteResponse:
        """Keeps what the settings ask for, completes the row, and returns the answer to give.

        Args:
            response: the answer so far.
            rollback: why a gate wants the VM taken back to before it.

        Raises:
            HistoryError: the row could not be written.
        """
        notes = list(response.notes)
        goes_on = response.background_processes > 0 or response.kernel is not None
        reached = await self._reached(goes_on=goes_on)
        if not self._begun:
            self._noted(len(reached))
            if rollback is not None:
                notes.append(f"not rolled back, since history is off: {rollback}")
            return response.model_copy(update={"approval": self._approval, "notes": notes})
        update: dict[str, object] = {
            "snapshot_before": self._entry.snapshot_before,
            "approval": self._approval,
            "change_bytes": self._vm.writing.change_of(response.execution_id),
        }
        if self._entry.snapshot_before is None:
            notes.append(NO_RESTORE_POINT)
        failed = response.outcome not in ("success", "cancelled")
        if self._settings.snapshot_on_execution or (failed and self._settings.snapshot_on_failure):
            update["snapshot_after"] = await self._keep(response, notes)
        if rollback is not None:
            notes.append(f"rolled back: {rollback}")
        if rollback is not None or (failed and self._settings.auto_rollback_on_failure):
            update["rolled_back_to"] = await self._go_back(notes)
        answer = response.model_copy(update=update | {"notes": notes})
        row = self._row(answer).model_copy(update={"network": reached})
        await asyncio.to_thread(self._history.finish, row)
        self._noted(len(reached))
        return answer

    def _is_last(self) -> bool:
        """Whether nothing has started since it did, and the VM went to no other state."""
        return not self._vm.running and self._vm.writing.turns == self._turn

    async def _keep(self, response: VmExecuteResponse, notes: list[str]) -> str | None:
        """The snapshot after it; none where another execution runs, whose work would be in it."""
        try:
            async with self._vm.steady():
                if not self._is_last() or response.outcome == "cancelled":
                    notes.append("no snapshot after it: another execution ran")
                    return None
                kept = await self._machine.snapshot(
                    self._vm, "execution", execution_id=response.execution_id
                )
        except VmExecutionError as error:
            notes.append(f"no snapshot after it: {error}")
            return None
        return kept.id

    async def _go_back(self, notes: list[str]) -> str | None:
        point = self._entry.snapshot_before
        if point is None:
            return None
        try:
            async with self._vm.steady():
                if not self._is_last():
                    notes.append("not rolled back: another execution ran, or a rollback came first")
                    return None
                found = await self._machine.find(self._vm, point)
                await self._machine.go_to(self._vm, *found)
        except VmExecutionError as error:
            notes.append(f"not rolled back: {error}")
            return None
        return point

    def _row(self, response: VmExecuteResponse) -> CommandHistoryEntry:
        return self._entry.model_copy(
            update={
                "snapshot_id": response.snapshot_after,
                "success": response.outcome == "success",
                "exit_code": response.exit_code,
                "stdout": response.stdout,
                "stderr": response.stderr,
                "executed_at": response.started_at,
                "duration_ms": response.duration_ms,
                "outcome": response.outcome,
                "error": response.error,
                "truncated": response.truncated,
                "stdout_bytes": response.stdout_bytes,
                "stderr_bytes": response.stderr_bytes,
                "completed_at": response.completed_at,
                "cpu_ms": response.cpu_ms,
                "max_rss_kb": response.max_rss_kb,
                "snapshot_after": response.snapshot_after,
                "verdicts": response.verdicts,
                "change_bytes": response.change_bytes,
                "packages": response.packages,
            }
        )
