"""The other end of an ``AgentConnection``, that says whatever a test wants it to."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Any, Self

from mulligan.engine.vms.connection import AgentConnection
from mulligan.engine.vms.program import Program
from mulligan.guest import frames

EXIT: dict[str, object] = {
    "status": 0,
    "reason": "exit",
    "message": "",
    "stdout_bytes": 0,
    "stderr_bytes": 0,
    "truncated": False,
    "user_us": 0,
    "system_us": 0,
    "max_rss_kb": 0,
    "background": 0,
}


def program(**more: Any) -> Program:
    """One that is never really run."""
    fields: dict[str, Any] = {
        "runtime": "exec",
        "steps": [["true"]],
        "files": {},
        "env": {},
        "cwd": "/",
        "timeout_ms": 60_000,
        "output_limit": 1000,
    }
    return Program(**(fields | more))


def frame(kind: int, channel: int = 0, payload: bytes | dict[str, object] = b"") -> bytes:
    """The bytes of a frame, however it is."""
    return frames.encode(kind, channel, payload)


def header(length: int, kind: int, channel: int = 0, version: int = frames.VERSION) -> bytes:
    """The head of a frame of which nothing else may ever come."""
    return frames.HEADER.pack(length, version, kind, channel)


class Peer:
    """A connection under test, and the end an agent would have. An async context manager."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.connection = AgentConnection(self.reasons.append)

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.connection, sock=ours)
        self.reader, self.writer = await asyncio.open_connection(sock=theirs)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connection.give_up("the test is over")
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def heard(self, wanted: int) -> frames.Frame:
        """The next frame of a kind."""
        while True:
            head = await self.reader.readexactly(frames.HEADER.size)
            length, _, kind, channel = frames.HEADER.unpack(head)
            payload = await self.reader.readexactly(length)
            if kind == wanted:
                return frames.Frame(kind, channel, payload)

    def say(self, data: bytes) -> None:
        """Sends bytes."""
        self.writer.write(data)

    async def given_up(self) -> str:
        """Why the connection was given up, as soon as it was."""
        while not self.reasons:
            await asyncio.sleep(0.001)
        return self.reasons[0]
