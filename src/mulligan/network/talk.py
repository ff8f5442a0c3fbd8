"""A program's HTTP connection to the proxy, from the proxy's side."""

from __future__ import annotations

import asyncio
from typing import Any

import h11

from mulligan.network.messages import BadRequestError
from mulligan.network.streams import AnyStream

AGENT = b"mulligan"


class Talk:
    """Requests that come over a stream, one after the other, and answers to them.

    Args:
        stream: the connection.
        header_bytes: the longest head of a request that is taken.
        idle: seconds after which nothing more is expected.
        known: nothing is answered before it is done.
    """

    def __init__(
        self,
        stream: AnyStream,
        header_bytes: int,
        idle: float,
        known: asyncio.Future[Any] | None = None,
    ) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=header_bytes)
        self._idle = idle
        self._known = known
        self._reading: asyncio.Task[bytes] | None = None
        self._head = False

    async def fill(self) -> bool:
        """Waits for the next bytes; false at their end. What was read meanwhile is not lost.

        Raises:
            TimeoutError, OSError: as of the stream.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self.stream.receive(self._idle))
        await asyncio.wait({self._reading})
        done, self._reading = self._reading, None
        data = done.result()
        self.http.receive_data(data)
        return bool(data)

    async def request(self, timeout: float) -> h11.Request | None:
        """The next request; None where there is none.

        Raises:
            BadRequestError: what came is none.
            TimeoutError: its head was not there in time.
            OSError: the connection broke.
        """
        try:
            async with asyncio.timeout(timeout):
                while (event := self.http.next_event()) is h11.NEED_DATA:
                    await self.fill()
        except h11.RemoteProtocolError as error:
            raise BadRequestError(f"no HTTP request: {error}", error.error_status_hint) from None
        if not isinstance(event, h11.Request):
            return None
        self._head = event.method == b"HEAD"
        return event

    async def send(self, event: h11.Event) -> None:
        """Sends a part of an answer."""
        if self._known is not None:
            await asyncio.wait({self._known})
            self._known = None
        data = self.http.send(event)
        if data:
            await self.stream.send(data)

    async def say(self, status: int, why: str) -> None:
        """Answers a request that is not passed on, where an answer is still possible."""
        state = self.http.our_state
        if state is not h11.IDLE and state is not h11.SEND_RESPONSE:
            return
        body = f"mulligan: {why}\n".encode()
        headers = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", str(len(body)).encode()),
            (b"Proxy-Agent", AGENT),
            (b"Connection", b"close"),
        ]
        await self.send(h11.Response(status_code=status, headers=headers))
        if not self._head:
            await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())
        await self.stream.finish()

    async def close(self) -> None:
        """Ends the connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self.stream.close()
