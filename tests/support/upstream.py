"""Servers of the tests' own on loopback, and a proxy in front of them without a VM."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address

from mulligan.models import NetworkConnection
from mulligan.network.conversation import Terms
from mulligan.network.limits import Limits
from mulligan.network.proxy import Listener, Owner, Proxy
from mulligan.network.rules import AllowList

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Upstream:
    """A server that keeps what it was sent and answers the same every time."""

    def __init__(self, answer: bytes = OK) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.peers = 0
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            lower = head.lower()
            body = b""
            if b"content-length:" in lower:
                size = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(size)
            elif b"transfer-encoding: chunked" in lower:
                while size := int(await reader.readline(), 16):
                    body += await reader.readexactly(size)
                    await reader.readline()
                await reader.readline()
            self.bodies.append(body)
            writer.write(self.answer)
            await writer.drain()
            if b"content-length" not in self.answer.lower():
                writer.write_eof()
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()
            writer.close()


@contextlib.asynccontextmanager
async def listening(handler: Handler, host: str = "127.0.0.1", **options) -> AsyncIterator[int]:
    """A server, and its port."""
    server = await asyncio.start_server(handler, host, 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Front:
    """A proxy for one test."""

    def __init__(self, port: int, proxy: Proxy, terms: Terms) -> None:
        self.port = port
        self.proxy = proxy
        self.terms = terms
        self.notes: list[NetworkConnection] = []

    async def raw(self, request: bytes) -> bytes:
        """Everything that is answered to some bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()

    async def noted(self, count: int = 1) -> list[NetworkConnection]:
        """What was written down, when there is so much of it."""
        async with asyncio.timeout(20):
            while len(self.notes) < count:
                await asyncio.sleep(0.01)
        return self.notes


@contextlib.asynccontextmanager
async def fronted(
    allow: list[str], names: Mapping[str, list[str]] | None = None, **limits
) -> AsyncIterator[Front]:
    """A proxy that lets some be reached, with names of the test's own."""
    asked: list[str] = []

    async def resolve(name: str):
        asked.append(name)
        if names is None or name not in names:
            raise OSError("no such name")
        return [ip_address(each) for each in names[name]]

    listener = socket.create_server(("127.0.0.1", 0))
    terms = Terms(AllowList(allow), replace(Limits(), **limits), resolve)

    async def ask(_: int) -> Owner:
        return Owner(("exec-1",), certain=True)

    proxy = Proxy(
        Listener(listener, terms.limits.idle_seconds),
        terms,
        ask,
        lambda _, note: front.notes.append(note),
    )
    front = Front(listener.getsockname()[1], proxy, terms)
    front.asked = asked
    proxy.start()
    try:
        yield front
    finally:
        await proxy.close()
