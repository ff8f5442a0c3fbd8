"""Events of an execution over HTTP, through lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError
from pydantic import TypeAdapter, ValidationError

from mulligan.errors import ApiError, ConnectionFailed, VmExecutionError
from mulligan.models import ErrorAnswer, ExecutionEvent, VmExecuteResponse

SILENCE_S = 60.0  # several heartbeats of the server's
ATTEMPTS = 6
FIRST_WAIT_S = 0.1
MOST_WAIT_S = 5.0
_DATA = TypeAdapter(dict[str, object])

Open = Callable[[str | None, int], AbstractAsyncContextManager[httpx.Response]]


async def events(
    open_: Open,
    error_of: Callable[[httpx.Response], VmExecutionError],
    execution_id: str | None,
    after: int,
) -> AsyncIterator[ExecutionEvent]:
    """The events of an execution up to its last, each once.

    Args:
        open_: asks for them: of the execution of that id, after that event; where there is no id
            yet, it starts the execution. That is done once, and never after a failure.
        error_of: the error an answer carries.
        execution_id: the execution; None for one that is yet to start.
        after: the last event that is not wanted.

    Raises:
        ConnectionFailed: the connection was lost, and was not to be had again.
        VmExecutionError: what the server answered.
    """
    failures = 0
    while True:
        try:
            async with open_(execution_id, after) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                if not response.is_success:
                    await response.aread()
                    raise error_of(response)
                execution_id = response.headers.get("x-execution-id", execution_id)
                async for sse in EventSource(response).aiter_sse():
                    event = _event_of(sse, execution_id)
                    after, failures = event.id, 0
                    yield event
                    if event.last:
                        return
            reason = "the server ended the stream"
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        except SSEError as error:
            raise ApiError(f"Failed to parse response: {error}") from None
        failures += 1
        if execution_id is None:
            raise ConnectionFailed(
                f"the connection was lost before the execution had an id: {reason}",
                remedy="it may have started; look into the history before you run it again",
            )
        if failures > ATTEMPTS:
            raise ConnectionFailed(
                f"lost the events of {execution_id} after event {after}: {reason}",
                remedy="it goes on where the server does; listen to it again from there",
            )
        await asyncio.sleep(min(FIRST_WAIT_S * 2 ** (failures - 1), MOST_WAIT_S))


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
