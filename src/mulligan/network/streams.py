"""Byte streams over sockets, with and without TLS, counted and held to a rate."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from typing import Protocol

CHUNK = 256 * 1024
_TLS_CHUNK = 64 * 1024


class Bucket:
    """Holds a VM to an amount a second, of bytes or of requests; 0: any."""

    def __init__(self, per_second: int) -> None:
        self._rate = per_second
        self._due = 0.0

    async def take(self, size: int) -> None:
        """Waits until so much more is allowed; a quarter of a second's worth may come at once."""
        if not self._rate:
            return
        now = time.monotonic()
        self._due = max(self._due, now - 0.25) + size / self._rate
        if self._due > now:
            await asyncio.sleep(self._due - now)


class AnyStream(Protocol):
    """Bytes both ways; see ``Stream``, which says what each of these does."""

    @property
    def received(self) -> int: ...

    @property
    def sent(self) -> int: ...

    async def receive(self, timeout: float | None = None) -> bytes: ...

    async def send(self, data: bytes) -> None: ...

    async def finish(self) -> None: ...

    def close(self) -> None: ...


class Stream:
    """A connected socket, which it owns.

    Attributes:
        received, sent: bytes so far.
    """

    def __init__(self, connected: socket.socket, idle: float) -> None:
        connected.setblocking(False)
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._idle = idle
        self.received = 0
        self.sent = 0

    async def receive(self, timeout: float | None = None) -> bytes:
        """What has come, at least a byte of it; nothing at its end.

        Raises:
            TimeoutError: nothing came for ``timeout`` seconds; None waits for ever.
            OSError: the connection broke.
        """
        async with asyncio.timeout(timeout):
            data = await self._loop.sock_recv(self._socket, CHUNK)
        self.received += len(data)
        return data

    async def send(self, data: bytes) -> None:
        """Sends all of it.

        Raises:
            TimeoutError: the other side took too little for too long.
            OSError: the connection broke.
        """
        async with asyncio.timeout(self._idle):
            await self._loop.sock_sendall(self._socket, data)
        self.sent += len(data)

    async def finish(self) -> None:
        """Says that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes the socket. May be repeated."""
        self._socket.close()


class TlsStream:
    """TLS over a stream, which it owns.

    Args:
        below: the stream.
        context: as the ``ssl`` module takes it.
        server_side: whether the other side is the client.
        server_hostname: of the server, for a client's side.
        early: what has come over the stream already.
    """

    def __init__(
        self,
        below: AnyStream,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        early: bytes = b"",
    ) -> None:
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._incoming.write(early)
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._sending = asyncio.Lock()

    @property
    def received(self) -> int:
        """Bytes that came, as they were on the way."""
        return self._below.received

    @property
    def sent(self) -> int:
        """Bytes that went."""
        return self._below.sent

    async def handshake(self, timeout: float) -> None:
        """Makes it secure.

        Raises:
            ssl.SSLError: it is not, or the other side does not think so.
            TimeoutError, OSError: as of ``Stream``.
        """
        async with asyncio.timeout(timeout):
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    if not await self._fill(timeout):
                        raise ConnectionError("it was closed during the TLS handshake") from None
                except ssl.SSLError:
                    await self._flush()  # the alert, which says why
                    raise
                else:
                    await self._flush()
                    return

    async def receive(self, timeout: float | None = None) -> bytes:
        """See ``Stream``; an end without TLS' own is an error."""
        while True:
            try:
                return self._tls.read(_TLS_CHUNK)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill(timeout)

    async def send(self, data: bytes) -> None:
        """See ``Stream``."""
        for start in range(0, len(data), _TLS_CHUNK):
            self._tls.write(data[start : start + _TLS_CHUNK])
            await self._flush()

    async def finish(self) -> None:
        """See ``Stream``."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        with contextlib.suppress(OSError, TimeoutError):
            await self._flush()
        await self._below.finish()

    def close(self) -> None:
        """See ``Stream``."""
        self._below.close()

    async def _fill(self, timeout: float | None) -> bool:
        data = await self._below.receive(timeout)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    async def _flush(self) -> None:
        async with self._sending:
            if self._outgoing.pending:
                await self._below.send(self._outgoing.read())
