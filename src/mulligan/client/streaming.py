"""Events of an execution over HTTP, through lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError
from pydantic import TypeAdapter, ValidationError

from mulligan.errors import ApiError, ConnectionFailed, VmExecutionError
from mulligan.models import ErrorAnswer, ExecutionEvent, VmExecuteResponse

SILENCE_S = 60.0  # several heartbeats of the server's
ATTEMPTS = 8
FIRST_WAIT_S = 0.1
MOST_WAIT_S = 5.0
NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)
_DATA = TypeAdapter(dict[str, object])

Open = Callable[[str | None, int], AbstractAsyncContextManager[httpx.Response]]


class Listener:
    """Who listens to an execution, and how far he is.

    Args:
        open_: asks for the events: of the execution of that id, after that event; where there is
            no id yet, it starts the execution. That is done once, and never after a failure, unless
            ``again`` says so.
        error_of: the error an answer carries.
        execution_id: the execution; None for one that is yet to start.
        after: the last event that is not wanted.
        again: whether an execution may be started again that was started perhaps: where it came
            with an idempotency key, and the server knows keys.
    """

    def __init__(
        self,
        open_: Open,
        error_of: Callable[[httpx.Response], Awaitable[VmExecutionError]],
        execution_id: str | None,
        after: int,
        again: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._again = again
        self._open = open_
        self._error_of = error_of
        self._execution_id = execution_id
        self._after = after
        self._failures = 0
        self._ended = False

    async def events(self) -> AsyncGenerator[ExecutionEvent, None]:
        """The events up to the last, each once.

        Raises:
            ConnectionFailed: the connection was lost, and was not to be had again.
            httpx.TransportError: there was none to begin with.
            VmExecutionError: what the server answered.
        """
        while True:
            try:
                async with aclosing(self._listen()) as events:
                    async for event in events:
                        yield event
                if self._ended:
                    return
                reason = "the server ended the stream"
            except SSEError as error:
                raise ApiError(f"Failed to parse response: {error}") from None
            except httpx.TransportError as error:
                first = self._execution_id is None and self._failures == 0
                if first and isinstance(error, NOTHING_SENT):
                    raise
                reason = str(error) or type(error).__name__
            await self._wait(reason)

    async def _listen(self) -> AsyncGenerator[ExecutionEvent, None]:
        """What comes over one connection."""
        async with self._open(self._execution_id, self._after) as response:
            if response.status_code == httpx.codes.NO_CONTENT:
                self._ended = True
                return
            if not response.is_success:
                await response.aread()
                raise await self._error_of(response)
            self._execution_id = response.headers.get("x-execution-id", self._execution_id)
            async with aclosing(EventSource(response).aiter_sse()) as source:
                async for sse in source:
                    if not sse.data:  # httpx-sse gives these for comments with an empty line
                        continue
                    event = _event_of(sse, self._execution_id)
                    self._after, self._failures, self._ended = event.id, 0, event.last
                    yield event
                    if event.last:
                        return

    async def _may_start_again(self) -> bool:
        if self._again is None:
            return False
        try:
            return await self._again()
        except httpx.TransportError:
            return True  # the next attempt finds out whether it is there again

    async def _wait(self, reason: str) -> None:
        """Until the next attempt, if there is to be one."""
        if self._execution_id is None and not await self._may_start_again():
            raise ConnectionFailed(
                f"the connection was lost before the execution had an id: {reason}",
                remedy="it may have started; look into the history before you run it again",
            )
        self._failures += 1
        if self._failures > ATTEMPTS:
            raise ConnectionFailed(
                f"lost the events of {self._execution_id} after event {self._after}: {reason}",
                remedy="it goes on where the server does; listen to it again from there",
            )
        await asyncio.sleep(min(FIRST_WAIT_S * 2 ** (self._failures - 1), MOST_WAIT_S))


def _event_of(sse: ServerSentEvent, execution_id: str | None) -> ExecutionEvent:
    try:
        number = int(sse.id)
        if sse.event == "result":
            result = VmExecuteResponse.model_validate_json(sse.data)
            return ExecutionEvent(
                id=number, event="result", execution_id=result.execution_id, result=result
            )
        fields = _DATA.validate_json(sse.data)
        if sse.event == "error":
            fields = {"error": ErrorAnswer.model_validate(fields)}
        given = {"execution_id": execution_id or "", "id": number, "event": sse.event}
        return ExecutionEvent.model_validate(given | fields)
    except (ValidationError, ValueError) as error:
        raise ApiError(
            f"Failed to parse response: event {sse.event!r} {sse.id!r}: {str(error)[:200]}"
        ) from None
