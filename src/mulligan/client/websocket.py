"""A terminal of a server, over a WebSocket. See docs/terminal.md for the messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode, urlsplit

import httpx
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from mulligan.client.terminals import Terminal
from mulligan.client.transport import Transport, trace_headers
from mulligan.errors import ApiError, ConnectionFailed
from mulligan.models import TerminalExit, TerminalRequest, TerminalStarted
from mulligan.models.terminal import SAID, Resize, SendSignal, TerminalError

MOST_MESSAGE = 1024 * 1024
PIECE = 64 * 1024
OPEN_TIMEOUT_S = 60.0  # its VM may have to boot


class HttpTerminal(Terminal):
    """One behind a WebSocket."""

    def __init__(self, socket: ClientConnection, base_url: str) -> None:
        self._socket = socket
        self._base_url = base_url

    async def begin(self) -> None:
        """Hears who it is.

        Raises:
            VmExecutionError: it is none.
        """
        said = await self._next()
        if not isinstance(said, TerminalStarted):
            raise ApiError("the server did not begin with what it started")
        self.execution_id, self.vm_id = said.execution_id, said.vm_id

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            await self._send(data[start : start + PIECE])

    async def receive(self) -> bytes:
        while self.exit is None:
            said = await self._next()
            if isinstance(said, TerminalExit):
                self.exit = said
            elif isinstance(said, bytes) and said:
                return said
        return b""

    async def control(self, asked: Resize | SendSignal) -> None:
        await self._send(asked.model_dump_json())

    async def close(self) -> None:
        await self._socket.close()

    async def _send(self, message: bytes | str) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed:
            return  # ``receive`` says how it ended

    async def _next(self) -> bytes | TerminalStarted | TerminalExit:
        try:
            message = await self._socket.recv()
        except ConnectionClosed as error:
            reason = str(error.rcvd or error.sent or "no reason was given")
            raise ConnectionFailed(
                f"the terminal at {self._base_url} was lost: {reason}",
                remedy="what ran in it was ended; the history has how it began",
            ) from None
        if isinstance(message, bytes):
            return message
        try:
            said = SAID.validate_json(message)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ApiError(f"Failed to parse response: {first['msg']}") from None
        if isinstance(said, TerminalError):
            raise said.exception()
        return said


@asynccontextmanager
async def open_terminal(
    transport: Transport, vm_id: str, request: TerminalRequest
) -> AsyncIterator[Terminal]:
    """Opens a terminal of a server's VM.

    Args:
        transport: to the server.
        vm_id: the VM's id, as a segment of a path.
        request: what is asked for.

    Raises:
        ConnectionFailed: the server cannot be reached.
        VmExecutionError: what it answered.
    """
    asked = urlencode(request.model_dump(exclude_none=True))
    path = f"/api/vms/{vm_id}/terminal?{asked}"
    headers = trace_headers()
    token = transport.http.headers.get("Authorization")
    if token is not None:
        headers["Authorization"] = token
    try:
        socket = await connect(
            _websocket_url(transport.base_url) + path,
            additional_headers=headers,
            proxy=True if transport.http.trust_env else None,
            compression=None,
            open_timeout=OPEN_TIMEOUT_S,
            max_size=MOST_MESSAGE,
            user_agent_header=None,
        )
    except InvalidStatus as error:
        raise await transport.error_of(_answer(error, transport.base_url + path)) from None
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        reason = str(error) or type(error).__name__
        raise transport.lost(httpx.ConnectError(reason)) from None
    try:
        terminal = HttpTerminal(socket, transport.base_url)
        await terminal.begin()
        yield terminal
    finally:
        await socket.close()


def _answer(error: InvalidStatus, url: str) -> httpx.Response:
    """What the server answered in place of the handshake."""
    said = error.response
    asked = httpx.Request("GET", url)
    return httpx.Response(said.status_code, content=bytes(said.body or b""), request=asked)


def _websocket_url(base_url: str) -> str:
    scheme = "wss" if urlsplit(base_url).scheme == "https" else "ws"
    return f"{scheme}://{base_url.partition('://')[2]}"
