"""The WebSocket of a terminal: bytes are binary messages, everything else is JSON in text messages.

See docs/terminal.md for the messages. What the engine refuses is answered as any request would be,
with its status and the JSON form of errors, in place of the handshake.
"""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from starlette import status

from mulligan.engine.terminals.pty import KEPT
from mulligan.engine.terminals.terminals import Terminal
from mulligan.errors import ExecutionFailed, ValidationFailed, VmExecutionError
from mulligan.models import ErrorAnswer, TerminalRequest, TerminalStarted
from mulligan.models.terminal import CONTROL, Resize, SendSignal, TerminalError
from mulligan.server.access import CallerDependency
from mulligan.server.answers import of_invalid, refuse
from mulligan.server.engines import EngineDependency

MOST_MESSAGE = 1024 * 1024
MOST_CONTROL = 4096
PIECE = 64 * 1024
NUMBERS = ("cols", "rows")
MOST_DIGITS = 9
STALLED_S = 15


def add_routes(app: FastAPI) -> None:
    """Adds them."""

    @app.websocket("/api/vms/{vm_id}/terminal")
    async def terminal(
        socket: WebSocket, vm_id: str, engine: EngineDependency, caller: CallerDependency
    ) -> None:
        """A shell, or a command, in a terminal of a VM, for as long as the socket is open."""
        try:
            request, agent_id = _asked(socket)
        except ValidationFailed as error:
            await _refuse(socket, error, status.HTTP_422_UNPROCESSABLE_CONTENT)
            return
        try:
            agent = caller.agent(agent_id)
            if not engine.settings.terminal.agents:
                engine.get_vm(vm_id, agent)  # another's is not there, whatever may be had
                caller.require_admin("terminals (terminal.agents allows them to agents)")
            opened = await engine.terminals.open(vm_id, request, agent)
        except VmExecutionError as error:
            await _refuse(socket, error)
            return
        caller.note(execution_id=opened.execution_id)
        try:
            await _serve(socket, opened)
        except WebSocketDisconnect:
            pass  # while something was sent to it
        finally:
            await engine.terminals.close_one(opened)


def _asked(socket: WebSocket) -> tuple[TerminalRequest, str | None]:
    """What the address asks for, and whose VM it is to be.

    Raises:
        ValidationFailed: it is nothing that can be asked for.
    """
    given: dict[str, object] = dict(socket.query_params)
    agent_id = given.pop("agent_id", None)
    for name in NUMBERS:
        text = given.get(name)
        if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS:
            given[name] = int(text)
    try:
        request = TerminalRequest.model_validate(given)
    except ValidationError as error:
        raise of_invalid(error.errors(include_url=False)[0]) from None
    return request, None if agent_id is None else str(agent_id)


async def _refuse(socket: WebSocket, error: VmExecutionError, code: int | None = None) -> None:
    await refuse(error, socket.scope, socket.receive, socket.send, code)


async def _serve(socket: WebSocket, terminal: Terminal) -> None:
    """Until the program has ended and all it wrote was sent, or the client has gone."""
    await socket.accept()
    started = TerminalStarted(execution_id=terminal.execution_id, vm_id=terminal.vm_id)
    await _send(socket, started.model_dump_json())
    inward = asyncio.create_task(_inward(socket, terminal))
    outward = asyncio.create_task(_outward(socket, terminal))
    try:
        await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
        if not outward.done():
            inward.result()
            return
        outward.result()
        await _tell_end(socket, terminal)
    finally:
        for task in (inward, outward):
            task.cancel()
        await asyncio.gather(inward, outward, return_exceptions=True)


async def _send(socket: WebSocket, message: str | bytes) -> None:
    """Sends a message; raises WebSocketDisconnect where nobody is there any more."""
    try:
        if isinstance(message, str):
            await socket.send_text(message)
        else:
            await socket.send_bytes(message)
    except RuntimeError as error:  # uvicorn's, where a client's fault had it close the socket
        raise WebSocketDisconnect(status.WS_1006_ABNORMAL_CLOSURE) from error


async def _close(socket: WebSocket, code: int) -> None:
    with contextlib.suppress(RuntimeError):  # as above
        await socket.close(code)


async def _outward(socket: WebSocket, terminal: Terminal) -> None:
    while data := await terminal.receive():
        for start in range(0, len(data), PIECE):
            await _send(socket, data[start : start + PIECE])


async def _inward(socket: WebSocket, terminal: Terminal) -> None:
    """What the client sends. A program that does not read its input has the client wait."""
    while (message := await socket.receive())["type"] == "websocket.receive":
        data, text = message.get("bytes"), message.get("text")
        if max(len(data or b""), len(text or "")) > MOST_MESSAGE:  # where the server let it through
            await _close(socket, status.WS_1009_MESSAGE_TOO_BIG)
            return
        if data is not None:
            try:
                await _type(terminal, data)
            except ExecutionFailed as error:
                await _tell(socket, error, fatal=True)
                await _close(socket, status.WS_1008_POLICY_VIOLATION)
                return
            continue
        try:
            terminal.control(_control(text or ""))
        except ValidationFailed as error:
            await _tell(socket, error, fatal=False)


async def _type(terminal: Terminal, data: bytes) -> None:
    """Waits for a program that takes its time, as long as it does something.

    Meanwhile the socket is not read, and nobody would notice that the client has gone.

    Raises:
        ExecutionFailed: it does nothing.
    """
    sending = asyncio.create_task(terminal.send(data))
    try:
        while not (await asyncio.wait({sending}, timeout=STALLED_S))[0]:
            if terminal.idle_for() >= STALLED_S:
                raise ExecutionFailed(
                    f"the program has not taken its input for {STALLED_S} s, and "
                    f"{KEPT // MOST_MESSAGE} MiB of it waits",
                    remedy="send no more than it reads",
                )
    finally:
        sending.cancel()


def _control(text: str) -> Resize | SendSignal:
    """What a text message asks for.

    Raises:
        ValidationFailed: nothing that can be done.
    """
    if len(text) > MOST_CONTROL:
        raise ValidationFailed(
            f"a control message is over {MOST_CONTROL} characters",
            field="type",
            remedy="send what is to be typed as binary messages",
        )
    try:
        return CONTROL.validate_json(text)
    except ValidationError as error:
        raise of_invalid(error.errors(include_url=False)[0]) from None


async def _tell_end(socket: WebSocket, terminal: Terminal) -> None:
    try:
        ended = await terminal.ended()
    except VmExecutionError as error:
        await _tell(socket, error, fatal=True)
        await _close(socket, status.WS_1011_INTERNAL_ERROR)
        return
    await _send(socket, ended.model_dump_json())
    await _close(socket, status.WS_1000_NORMAL_CLOSURE)


async def _tell(socket: WebSocket, error: VmExecutionError, *, fatal: bool) -> None:
    said = TerminalError(fatal=fatal, **ErrorAnswer.of(error).model_dump())
    await _send(socket, said.model_dump_json())
