"""Routes of executions that are streamed, batched, watched and cancelled."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import anyio
from fastapi import FastAPI, Header, Query, Response
from pydantic import ValidationError
from sse_starlette.sse import EventSourceResponse
from starlette.background import BackgroundTask

from mulligan.engine.executions.events import LINE_BREAKS, Event
from mulligan.engine.executions.executions import Executions
from mulligan.engine.executions.joined import start_once
from mulligan.engine.requests.batch import Asked, run_batch
from mulligan.engine.requests.once import STREAM
from mulligan.errors import (
    ValidationFailed,
    VmExecutionError,
)
from mulligan.models import (
    BatchRequest,
    BatchResponse,
    ErrorAnswer,
    ExecutionStatus,
    VmExecuteRequest,
)
from mulligan.server.access import Caller, CallerDependency
from mulligan.server.answers import of_invalid
from mulligan.server.engines import EngineDependency
from mulligan.server.once import REPLAYED, Key, KeyDependency
from mulligan.telemetry import Stage

PIECE = 64 * 1024  # of an event, so that a slow reader has no more of it in memory
LAST_WORDS_S = 8.0  # for the end of executions to reach their listeners when the server stops
MOST_DIGITS = 19

Agent = Annotated[str | None, Query(description="If given, the execution has to be this agent's.")]
Cancel = Annotated[
    bool, Query(description="Whether the execution is cancelled when this client goes away.")
]
EVENTS = """\
id: 1
event: started
data: {"execution_id":"exec-595dfc5c548404e4","vm_id":"vm-1d901466dd508b06"}

id: 2
event: stdout
data: {"text":"hi\\n"}

id: 3
event: result
data: {"execution_id":"exec-595dfc5c548404e4","exit_code":0,"stdout":"hi\\n"}

"""


def _described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    stream = {"schema": {"title": "Events"}, "example": EVENTS}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer} for status in statuses
    }
    return errors | {
        200: {
            "description": "Server-sent events: queued (where it waits), started, stdout, stderr, "
            "gap, and at last result or error",
            "content": {"text/event-stream": stream},
        }
    }


def add_routes(app: FastAPI) -> None:
    """Adds them."""
    _add_starts(app)
    _add_watching(app)
    _add_cancelling(app)


def _add_starts(app: FastAPI) -> None:
    @app.post(
        "/api/llm/execute/stream",
        summary="Run code and listen to it",
        response_class=Response,
        responses=_described(400, 404, 422),
    )
    async def execute_stream(
        request: VmExecuteRequest, key: KeyDependency, cancel_on_disconnect: Cancel = False
    ) -> Response:
        """The body is that of `/api/llm/execute`.

        Output comes as it is written. The execution goes on if the client goes away, unless
        `cancel_on_disconnect`; `/api/executions/{id}/events` with `Last-Event-ID` has what it
        missed.
        """
        agent_id = key.caller.agent(request.agent_id)
        key.caller.note(vm_id=request.vm_id, approval=request.approval)
        executions = key.engine.executions
        heartbeat = key.engine.settings.streams.heartbeat_seconds
        if key.text is None:
            execution = await executions.start(request)
            execution_id, replayed = execution.execution_id, False
            events = execution.events.listen(0, heartbeat)
            vm_id = execution.vm.record.id if execution.vm is not None else None
            key.caller.note(execution_id=execution_id, vm_id=vm_id)
        else:
            execution_id, replayed, events = await _start_once(key, agent_id, request, heartbeat)
        gone = None
        if cancel_on_disconnect:
            gone = BackgroundTask(_on_gone, executions, execution_id)
        return _answer(execution_id, events, gone, replayed=replayed)

    @app.post(
        "/api/llm/execute/batch",
        response_model=BatchResponse,
        summary="Run several requests",
        responses={400: {"model": ErrorAnswer}},
    )
    async def execute_batch(request: BatchRequest, key: KeyDependency) -> Response:
        """Answers come in the order of the requests, each with a `result` or its own `error`.

        Up to 100 requests. Those to one VM run one after the other, in their order; those to
        different VMs beside each other, up to four at once.
        """
        asked = [_read(each, key.caller) for each in request.requests]
        return await key.answer(
            key.caller.agent(),
            "batch",
            {"request": request},
            lambda _: run_batch(asked, key.engine.execute, key.engine.list_vms),
            note=lambda done: {
                "execution_id": [each.result.execution_id for each in done.results if each.result]
            },
        )


def _add_watching(app: FastAPI) -> None:
    @app.get(
        "/api/executions/{execution_id}",
        response_model=ExecutionStatus,
        summary="An execution, running or ended",
        responses={404: {"model": ErrorAnswer}},
    )
    async def get_execution(
        execution_id: str,
        engine: EngineDependency,
        caller: CallerDependency,
        agent_id: Agent = None,
    ) -> Response:
        """From memory while it runs and for a while after it, from the history later."""
        found = await engine.executions.status(execution_id, caller.agent(agent_id))
        return Response(found.model_dump_json(), media_type="application/json")

    @app.get(
        "/api/executions/{execution_id}/events",
        summary="Listen to an execution, from its start or from where one left off",
        response_class=Response,
        responses=_described(400, 404) | {204: {"description": "There is nothing more to come"}},
    )
    async def execution_events(
        execution_id: str,
        engine: EngineDependency,
        caller: CallerDependency,
        after: Annotated[
            int, Query(ge=0, description="The last event that was seen; 0 for none.")
        ] = 0,
        last_event_id: Annotated[
            str | None,
            Header(
                description="The same, as reconnecting clients say it; it wins.",
                json_schema_extra={"pattern": f"^[0-9]{{1,{MOST_DIGITS}}}$"},
            ),
        ] = None,
        agent_id: Agent = None,
        cancel_on_disconnect: Cancel = False,
    ) -> Response:
        """Any number of clients may listen, each at its own pace; none slows the program.

        Who is too slow, or asks for what is no longer kept, gets a `gap` event with the number of
        bytes he missed. Of an execution that ended long ago, or before the server started, there
        is the end alone.
        """
        seen = _number(last_event_id) if last_event_id is not None else after
        executions = engine.executions
        found = await executions.listen(
            execution_id, seen, caller.agent(agent_id), engine.settings.streams.heartbeat_seconds
        )
        if executions.heard_all(execution_id, seen):
            return Response(status_code=204)
        gone = BackgroundTask(_on_gone, executions, execution_id) if cancel_on_disconnect else None
        return _answer(execution_id, found, gone)


def _add_cancelling(app: FastAPI) -> None:
    @app.post(
        "/api/executions/{execution_id}/cancel",
        response_model=ExecutionStatus,
        summary="End an execution; one that has ended stays as it is",
        responses={404: {"model": ErrorAnswer}},
    )
    async def cancel_execution(
        execution_id: str, key: KeyDependency, agent_id: Agent = None
    ) -> Response:
        """The answer comes when nothing of it runs any more. May be repeated."""
        owner = key.caller.agent(agent_id)
        return await key.answer(
            owner,
            "cancel",
            {"execution_id": execution_id},
            lambda _: key.engine.executions.cancel(execution_id, owner),
        )


async def _start_once(
    key: Key, agent_id: str, request: VmExecuteRequest, heartbeat_s: float
) -> tuple[str, bool, AsyncGenerator[Event, None]]:
    """The id and the events of the execution that was started with a key, now or before."""
    executions = key.engine.executions
    asked = key.asked(agent_id, STREAM, {"request": request})
    state, replayed = await start_once(key.engine.once, executions, asked, request)
    key.caller.note(vm_id=state.vm_id, execution_id=state.execution_id)
    events = await executions.listen(state.execution_id, 0, None, heartbeat_s)
    return state.execution_id, replayed, events


async def _on_gone(executions: Executions, execution_id: str) -> None:
    executions.cancel_soon(execution_id, "its client went away")


def _read(value: object, caller: Caller) -> Asked:
    try:
        request = VmExecuteRequest.model_validate(value)
        caller.agent(request.agent_id)
    except ValidationError as error:
        return of_invalid(error.errors(include_url=False)[0])
    except VmExecutionError as error:
        return error
    return request


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise ValidationFailed(
            "Last-Event-ID is no number of an event",
            field="Last-Event-ID",
            remedy="send the id of the last event, or leave it out",
        )
    return int(text)


def _answer(
    execution_id: str,
    events: AsyncGenerator[Event, None],
    gone: BackgroundTask | None,
    *,
    replayed: bool = False,
) -> Response:
    return EventSourceResponse(
        _frames(execution_id, events),
        headers={"X-Execution-Id": execution_id} | (REPLAYED if replayed else {}),
        background=gone,
        ping=0,  # heartbeats are ours: they must not come between the pieces of an event
        shutdown_event=anyio.Event(),
        shutdown_grace_period=LAST_WORDS_S,
    )


async def _frames(execution_id: str, source: AsyncGenerator[Event, None]) -> AsyncIterator[bytes]:
    with Stage("stream"):
        async with aclosing(source) as events:
            async for event in events:
                if event.kind == "idle":
                    # No empty line: some clients would take it for an event.
                    yield b": still there\n"
                    continue
                head = f"id: {event.number}\nevent: {event.kind}\ndata: ".encode()
                body = memoryview(event.body or _body(execution_id, event))
                yield head + body[:PIECE]
                for start in range(PIECE, len(body), PIECE):
                    yield bytes(body[start : start + PIECE])
                yield b"\n\n"


def _body(execution_id: str, event: Event) -> bytes:
    """The data of an event that is neither result nor error."""
    data: dict[str, object]
    if event.kind == "queued":
        data = {"execution_id": execution_id, "vm_id": event.vm_id, "ahead": event.ahead}
    elif event.kind == "started":
        data = {"execution_id": execution_id, "vm_id": event.vm_id, "queue_ms": event.queue_ms}
    elif event.kind == "gap":
        data = {"dropped_bytes": event.dropped_bytes}
    else:
        data = {"text": event.text}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for char in LINE_BREAKS:
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()
