"""One execution that can be listened to, while it runs and as the history recalls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import TYPE_CHECKING

from mulligan.engine.executions.events import Event, EventBuffer, json_body
from mulligan.engine.vms.store import new_id
from mulligan.errors import ExecutionFailed, VmExecutionError
from mulligan.models import (
    CommandHistoryEntry,
    ErrorAnswer,
    ExecutionStatus,
    VmExecuteRequest,
    VmExecuteResponse,
    utc_now,
)

if TYPE_CHECKING:
    from mulligan.engine.vms.vm import Vm

NEVER_STARTED = -1
CANCELLED = "Execution cancelled before it started"


class Watcher:
    """Told how far an execution is. This one only names it."""

    def __init__(self, execution_id: str | None = None) -> None:
        self.execution_id = execution_id or new_id("exec")

    def admitted(self, vm: Vm, language: str) -> None:
        """It was not refused, and will run in this VM."""

    def queued(self, ahead: int | None) -> None:
        """It waits for its turn, behind so many; None where nobody knows."""

    def started(self, queue_ms: int) -> None:
        """Its turn has come, after so long."""

    def progress(self, text: str) -> None:
        """It waits for something, in a few words, before it starts."""

    def over(self) -> None:
        """Its program has ended, or never will start; what is left is book-keeping."""

    def waits(self) -> None:
        """It is not over after all: a person is asked, and it may start then."""


class Execution(Watcher):
    """One that was started here: its events, and what it takes to cancel it."""

    def __init__(
        self,
        request: VmExecuteRequest,
        most_bytes: int,
        on_admitted: Callable[[Execution], None],
        execution_id: str | None = None,
    ) -> None:
        super().__init__(execution_id)
        self._on_admitted = on_admitted
        self.agent_id = request.agent_id
        self.language = request.language
        self.events = EventBuffer(most_bytes)
        self.vm: Vm | None = None
        self.started_at = utc_now()
        self.completed_at: datetime | None = None
        self._over = asyncio.Event()
        self.is_queued = False
        self.queue_ms = 0
        self.known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    def admitted(self, vm: Vm, language: str) -> None:
        """See the base class."""
        if self.vm is not None:
            return  # it waited for a person, and starts only now
        self.vm, self.language = vm, language
        self._on_admitted(self)
        if not self.known.done():
            self.known.set_result(None)

    def queued(self, ahead: int | None) -> None:
        """See the base class."""
        assert self.vm is not None
        self.is_queued = not self.events.has_started
        self.events.queued(self.vm.record.id, ahead)

    def started(self, queue_ms: int) -> None:
        """See the base class."""
        assert self.vm is not None
        self.is_queued = False
        self.queue_ms = queue_ms
        self.events.begin(self.vm.record.id, queue_ms)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs, or will."""
        return self._over.is_set()

    def progress(self, text: str) -> None:
        """See the base class."""
        self.events.progress(text)

    def over(self) -> None:
        """See the base class."""
        self._over.set()

    def waits(self) -> None:
        """See the base class."""
        self._over.clear()

    async def ended(self, seconds: float, more: float) -> None:
        """Waits for its program's end, and then for its answer, for so many seconds each."""
        assert self.task is not None
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait(
                {self.task, over}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            over.cancel()
        await asyncio.wait({self.task}, timeout=more)

    def finish(self, final: VmExecuteResponse | VmExecutionError) -> None:
        """It has ended so."""
        self.completed_at = utc_now()
        if isinstance(final, VmExecuteResponse):
            self.events.finish(final)
        else:
            self.events.finish(ErrorAnswer.of(final))

    def cancelled(self) -> VmExecuteResponse:
        """The answer where it was cancelled before its program started."""
        assert self.vm is not None
        now = utc_now()
        passed_ms = max(0, int((now - self.started_at).total_seconds() * 1000))
        queue_ms = passed_ms if self.is_queued else self.queue_ms
        return VmExecuteResponse(
            execution_id=self.execution_id,
            vm_id=self.vm.record.id,
            exit_code=NEVER_STARTED,
            stdout="",
            stderr="",
            duration_ms=max(0, passed_ms - queue_ms),
            queue_ms=queue_ms,
            started_at=self.started_at,
            completed_at=now,
            error=CANCELLED,
            outcome="cancelled",
        )

    def status(self) -> ExecutionStatus:
        """It as its users see it."""
        assert self.vm is not None
        end = self.events.end
        final = end.final if end is not None else None
        failed = isinstance(final, ErrorAnswer)
        under_way = "queued" if self.is_queued else "running"
        return ExecutionStatus(
            execution_id=self.execution_id,
            agent_id=self.agent_id,
            vm_id=self.vm.record.id,
            language=self.language,
            state=under_way if final is None else "failed" if failed else "ended",
            started_at=self.started_at,
            completed_at=self.completed_at,
            last_event=self.events.last,
            result=final if isinstance(final, VmExecuteResponse) else None,
            error=final if isinstance(final, ErrorAnswer) else None,
        )


def status_of(entry: CommandHistoryEntry) -> ExecutionStatus:
    """A row of the history as the state of an execution. Values of cells are not in it."""
    error = result = None
    if entry.outcome == "error":
        error = ErrorAnswer.of(ExecutionFailed(entry.error or "no reason is known"))
    elif entry.outcome != "running":
        fields = entry.model_dump(include=set(VmExecuteResponse.model_fields))
        completed = entry.completed_at or entry.executed_at
        result = VmExecuteResponse(
            **fields
            | {
                "execution_id": entry.id,
                "started_at": entry.executed_at,
                "completed_at": completed,
            }
        )
    return ExecutionStatus(
        execution_id=entry.id,
        agent_id=entry.agent_id,
        vm_id=entry.vm_id,
        language=entry.language,
        state="running" if not (error or result) else "failed" if error else "ended",
        started_at=entry.executed_at,
        completed_at=entry.completed_at,
        result=result,
        error=error,
    )


async def recalled(
    entry: CommandHistoryEntry, after: int, final: VmExecuteResponse | ErrorAnswer
) -> AsyncGenerator[Event, None]:
    """The events there are of an execution that only the history knows."""
    size = len(entry.stdout.encode()) + len(entry.stderr.encode())
    if size:  # of which a listener that had some of it may have missed less
        yield Event(after + 1, "gap", dropped_bytes=None if after else size)
    kind = "result" if isinstance(final, VmExecuteResponse) else "error"
    yield Event(after + 2, kind, final=final, body=json_body(final))
