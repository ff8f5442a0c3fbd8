"""One request on its way to a server, and the answer on its way back."""

from __future__ import annotations

import asyncio
import contextlib

import h11

from mulligan.network.injection import Exchange
from mulligan.network.messages import Outgoing, end_to_end
from mulligan.network.streams import AnyStream, Bucket
from mulligan.network.talk import Talk

SWITCHING = 101


class ProgramGoneError(ConnectionError):
    """The program closed its connection before it had its answer."""


class UpstreamError(Exception):
    """The server did not answer as HTTP has it; the text says how."""


class Passage:
    """Both directions of one request.

    Args:
        talk: with the program.
        server: where the request goes; the caller closes it.
        outgoing: the request.
        exchange: the secrets that go with it.
        bucket: holds it to a rate.
        header_bytes: the longest head of an answer that is taken.
        idle: seconds after which nothing more is expected.
    """

    def __init__(
        self,
        talk: Talk,
        server: AnyStream,
        outgoing: Outgoing,
        exchange: Exchange,
        bucket: Bucket,
        header_bytes: int,
        idle: float,
    ) -> None:
        self._talk = talk
        self._server = server
        self._outgoing = outgoing
        self._exchange = exchange
        self._bucket = bucket
        self._idle = idle
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=header_bytes)
        self.answered = False  # whether the program has the beginning of an answer

    async def run(self, *, guarded: bool) -> None:
        """Sends the request and passes the answer back.

        Args:
            guarded: whether the server knows secrets that must not come back.

        Raises:
            ProgramGoneError: nobody waits for the answer any more.
            UpstreamError: there was none that could be passed on.
            OSError, TimeoutError: a connection broke.
        """
        await self._send_head(guarded=guarded)
        upward = asyncio.create_task(self._upward())
        downward = asyncio.create_task(self._downward(guarded=guarded))
        try:
            await asyncio.wait({upward, downward}, return_when=asyncio.FIRST_COMPLETED)
            if upward.done() and not downward.done():
                upward.result()
                await downward
            elif downward.done():
                downward.result()
        finally:
            for task in (upward, downward):
                task.cancel()
            await asyncio.gather(upward, downward, return_exceptions=True)

    async def _send_head(self, *, guarded: bool) -> None:
        outgoing, exchange = self._outgoing, self._exchange
        headers = [(name, exchange.header(value)) for name, value in outgoing.headers]
        if guarded:
            headers = [each for each in headers if each[0].lower() != b"accept-encoding"]
            headers.append((b"Accept-Encoding", b"identity"))
        request = h11.Request(
            method=outgoing.method, target=exchange.target(outgoing.target), headers=headers
        )
        await self._server.send(self._http.send(request) or b"")

    async def _upward(self) -> None:
        """The request's content; then waits for the program to go, or to ask for more."""
        talk, http = self._talk, self._talk.http
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise ProgramGoneError(f"the request's content: {error}") from None
            if event is h11.NEED_DATA:
                await talk.fill()
            elif isinstance(event, h11.Data):
                await self._bucket.take(len(event.data))
                await self._content(self._exchange.body.feed(bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                await self._content(self._exchange.body.finish())
                await self._server.send(self._http.send(h11.EndOfMessage()) or b"")
                break
            else:
                raise ProgramGoneError("the program closed its connection")
        if not http.trailing_data[0] and not await talk.fill():
            raise ProgramGoneError("the program closed its connection")

    async def _content(self, data: bytes) -> None:
        if data:
            await self._server.send(self._http.send(h11.Data(data=data)) or b"")

    async def _downward(self, *, guarded: bool) -> None:
        """The answer."""
        replacer = self._exchange.answer()
        while True:
            event = await self._next()
            if isinstance(event, h11.InformationalResponse):
                if event.status_code != SWITCHING and self._talk.http.their_http_version != b"1.0":
                    plain = h11.InformationalResponse(status_code=event.status_code, headers=[])
                    await self._talk.send(plain)
            elif isinstance(event, h11.Response):
                await self._answer_head(event, guarded=guarded)
            elif isinstance(event, h11.Data):
                await self._bucket.take(len(event.data))
                data = replacer.feed(bytes(event.data)) if guarded else event.data
                if data:
                    await self._talk.send(h11.Data(data=data))
            else:
                if held := replacer.finish():
                    await self._talk.send(h11.Data(data=held))
                await self._talk.send(h11.EndOfMessage())
                return

    async def _next(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise UpstreamError(f"its answer is no HTTP: {error}") from None
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._server.receive(self._idle))
                await asyncio.sleep(0)  # others are due, too, where data never fails to be there
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise UpstreamError("it closed the connection instead of answering")
            else:
                assert isinstance(event, h11.Event)
                return event

    async def _answer_head(self, answer: h11.Response, *, guarded: bool) -> None:
        if guarded and any(
            name == b"content-encoding" and value.strip().lower() not in (b"", b"identity")
            for name, value in answer.headers
        ):
            raise UpstreamError(
                "its answer is compressed though that was not asked for, and secrets could not be "
                "kept out of it"
            )
        headers = end_to_end(answer.headers)
        if guarded:
            headers = [(name, self._exchange.answer_header(value)) for name, value in headers]
        for name, value in answer.headers:
            if name == b"content-length":
                headers.append((b"Content-Length", value))
        reason = bytes(answer.reason)
        response = h11.Response(status_code=answer.status_code, headers=headers, reason=reason)
        self.answered = True
        with contextlib.suppress(h11.LocalProtocolError):
            await self._talk.send(response)
            return
        raise UpstreamError("its answer fits no request of this kind")
