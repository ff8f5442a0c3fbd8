"""Executions that belong to the engine and not to whoever asked for them.

One is started, listened to from any of its events on, cancelled by its id, and stays known for a
while after its end. What is kept of ended ones is bounded in number, bytes and time
(``StreamSettings``); after that, and after a restart, the history has the result, and the events
are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from mulligan.engine.executions.events import Event
from mulligan.engine.executions.execution import Execution, Watcher, recalled, status_of
from mulligan.engine.vms.program import OutputCallback
from mulligan.engine.vms.vm import Vm
from mulligan.errors import (
    ExecutionFailed,
    ExecutionNotFound,
    InternalError,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.log import get_logger
from mulligan.models import (
    CommandHistoryEntry,
    ExecutionStatus,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.settings import StreamSettings

log = get_logger()

POLL_S = 0.02
END_S = 10.0  # a cancelled execution has ended by then, or its VM has
CLOSE_S = 1.0
JUDGED_S = 1.0  # hooks have judged its output by then; a person who is asked takes his time


class Execute(Protocol):
    """``Engine.execute``."""

    async def __call__(
        self,
        request: VmExecuteRequest,
        on_output: OutputCallback | None = None,
        *,
        watcher: Watcher | None = None,
    ) -> VmExecuteResponse: ...


class Executions:
    """The executions of an engine that were started to be listened to."""

    def __init__(
        self,
        settings: StreamSettings,
        execute: Execute,
        find: Callable[[str, str | None], Vm],
        recorded: Callable[[str], CommandHistoryEntry | None],
    ) -> None:
        self.settings = settings
        self._execute = execute
        self._find = find
        self._recorded = recorded
        self._starting: set[Execution] = set()  # may be refused yet
        self._known: dict[str, Execution] = {}
        self._ended: dict[str, float] = {}  # in the order they ended: when, by the loop's clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def start(self, request: VmExecuteRequest, execution_id: str | None = None) -> Execution:
        """Starts an execution that runs to its end whether anybody waits for it or not.

        Args:
            request: see the model.
            execution_id: its id, where the caller has chosen one.

        Returns:
            It, when it was not refused; its VM may still have to boot.

        Raises:
            VmExecutionError: it was refused.
        """
        execution = Execution(request, self.settings.buffer_bytes, self._add, execution_id)
        task = execution.task = asyncio.create_task(self._run(execution, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._starting.add(execution)
        task.add_done_callback(lambda _: self._starting.discard(execution))
        try:
            await execution.known
        except asyncio.CancelledError:
            task.cancel()  # nobody got to know its id
            raise
        return execution

    async def _run(self, execution: Execution, request: VmExecuteRequest) -> None:
        final: VmExecuteResponse | VmExecutionError
        try:
            final = await self._execute(request, execution.events.output, watcher=execution)
        except asyncio.CancelledError:
            if execution.vm is None:
                execution.known.cancel()
                return
            final = execution.cancelled()
        except VmExecutionError as error:
            final = error
        except Exception as error:  # a fault of ours must not leave listeners waiting
            log.exception("fault", execution_id=execution.execution_id, exc_info=error)
            final = InternalError("the server failed; its log has the details")
        if execution.vm is None:
            assert isinstance(final, VmExecutionError)
            if not execution.known.done():
                execution.known.set_exception(final)
            return
        execution.finish(final)
        self._ended[execution.execution_id] = asyncio.get_running_loop().time()
        self._prune()

    def _add(self, execution: Execution) -> None:
        self._starting.discard(execution)
        self._known[execution.execution_id] = execution

    def _prune(self) -> None:
        """Lets go of what ended too long ago, or is too much."""
        loop = asyncio.get_running_loop()
        kept = self.settings
        cost = sum(self._known[each].events.cost for each in self._ended)
        for execution_id, ended in list(self._ended.items()):
            expired = ended + kept.keep_ended_seconds <= loop.time()
            if not (expired or len(self._ended) > kept.keep_ended or cost > kept.keep_ended_bytes):
                break
            gone = self._known.pop(execution_id)
            del self._ended[execution_id]
            cost -= gone.events.cost
            gone.events.forget_output()  # somebody may listen still, and take his time
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._ended:
            first = next(iter(self._ended.values()))
            self._expiry = loop.call_at(first + kept.keep_ended_seconds, self._prune)

    async def status(self, execution_id: str, agent_id: str | None = None) -> ExecutionStatus:
        """What is known of an execution, from here or from the history.

        Args:
            execution_id: its id.
            agent_id: if given, it has to be that agent's.

        Raises:
            ExecutionNotFound: there is none.
        """
        execution = self._own(execution_id, agent_id)
        if execution is not None:
            return execution.status()
        return status_of(await self._entry(execution_id, agent_id))

    async def cancel(
        self, execution_id: str, agent_id: str | None = None, why: str | None = None
    ) -> ExecutionStatus:
        """Ends an execution, and returns when nothing of it runs. One that has ended stays so.

        Where its output is being judged for long, as by a person, it has no result then, and is
        "running" yet.

        Args:
            execution_id: its id.
            agent_id: if given, it has to be that agent's.
            why: told in its answer.

        Raises:
            ExecutionNotFound: there is none.
            ExecutionFailed: it would not end.
        """
        execution = self._own(execution_id, agent_id)
        if execution is None:
            return await self._cancel_other(execution_id, agent_id, why)
        assert execution.vm is not None
        assert execution.task is not None
        if not execution.is_over and not await execution.vm.cancel(execution_id, why):
            execution.task.cancel()
        await execution.ended(END_S, JUDGED_S)
        if execution.events.end is None and not execution.is_over:
            raise ExecutionFailed(f"{execution_id} does not end; stop its VM")
        return execution.status()

    def cancel_soon(self, execution_id: str, why: str) -> None:
        """``cancel`` for whoever cannot wait for it, if it still runs here."""
        execution = self._known.get(execution_id)
        if execution is not None and execution.events.end is None:
            task = asyncio.create_task(self._cancel_quietly(execution_id, why))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _cancel_quietly(self, execution_id: str, why: str) -> None:
        try:
            await self.cancel(execution_id, why=why)
        except VmExecutionError as error:
            log.error(  # noqa: TRY400  (where from is no news)
                "not_cancelled", execution_id=execution_id, error=str(error)
            )

    async def _cancel_other(
        self, execution_id: str, agent_id: str | None, why: str | None
    ) -> ExecutionStatus:
        """``cancel`` for one that somebody waits for, or that has ended long ago."""
        entry = await self._entry(execution_id, agent_id)
        if entry.outcome == "running":
            vm, loop = self._find(entry.vm_id, agent_id), asyncio.get_running_loop()
            begin = loop.time()
            patience = END_S
            while entry.outcome == "running" and loop.time() - begin < patience:
                if await vm.cancel(execution_id, why) or not vm.is_beginning:
                    patience = min(patience, loop.time() - begin + JUDGED_S)
                await asyncio.sleep(POLL_S)  # its waiter completes the row
                entry = await self._entry(execution_id, agent_id)
        return status_of(entry)

    def heard_all(self, execution_id: str, after: int) -> bool:
        """Whether an execution has ended and its last event is ``after``."""
        execution = self._known.get(execution_id)
        end = execution.events.end if execution is not None else None
        return end is not None and after == end.number

    async def listen(
        self,
        execution_id: str,
        after: int = 0,
        agent_id: str | None = None,
        heartbeat_s: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The events of an execution after one, up to its last.

        Of one that only the history knows there are two: a gap in place of its output, and its
        end.

        Args:
            execution_id: its id.
            after: the last event that is not wanted any more; 0 for all of them.
            agent_id: if given, it has to be that agent's.
            heartbeat_s: see ``EventBuffer.listen``.

        Raises:
            ExecutionNotFound: there is none, or it has no events.
            ValidationFailed: ``after`` has not happened yet.
        """
        execution = self._own(execution_id, agent_id)
        if execution is not None:
            if after > execution.events.last:
                raise ValidationFailed(
                    f"event {after} of {execution_id} has not happened; its newest is "
                    f"{execution.events.last}",
                    field="after",
                )
            return execution.events.listen(after, heartbeat_s)
        entry = await self._entry(execution_id, agent_id)
        status = status_of(entry)
        final = status.result or status.error
        if final is None:
            raise ExecutionNotFound(
                f"{execution_id} runs, but was not started to be listened to",
                field="execution_id",
                remedy="ask for its state until it has ended",
            )
        return recalled(entry, after, final)

    def _own(self, execution_id: str, agent_id: str | None) -> Execution | None:
        execution = self._known.get(execution_id)
        if execution is not None and agent_id not in (None, execution.agent_id):
            raise _unknown(execution_id)
        return execution

    async def _entry(self, execution_id: str, agent_id: str | None) -> CommandHistoryEntry:
        entry = await asyncio.to_thread(self._recorded, execution_id[:200])
        if entry is None or agent_id not in (None, entry.agent_id):
            raise _unknown(execution_id)
        return entry

    async def close(self) -> None:
        """Ends what still waits to run. The VMs are closed already."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)  # they say themselves how it ended
        for execution in [*self._known.values(), *self._starting]:
            if not execution.is_over and execution.task is not None:
                execution.task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._expiry is not None:
            self._expiry.cancel()


def _unknown(execution_id: str) -> ExecutionNotFound:
    return ExecutionNotFound(f"no execution {execution_id[:100]}", field="execution_id")
