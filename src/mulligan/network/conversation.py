"""One connection of a program to the proxy, from its first byte to its last."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h11

from mulligan.models import NetworkConnection, utc_now
from mulligan.network import messages, names
from mulligan.network.injection import Exchange, Injection
from mulligan.network.limits import Limits
from mulligan.network.messages import BadRequestError, Outgoing
from mulligan.network.names import Host
from mulligan.network.passage import Passage, ProgramGoneError, UpstreamError
from mulligan.network.resolving import (
    RefusedError,
    Resolver,
    UnreachableError,
    Way,
    connect,
    find_way,
)
from mulligan.network.rules import AllowList
from mulligan.network.streams import AnyStream, Bucket, Stream, TlsStream
from mulligan.network.talk import Talk

if TYPE_CHECKING:  # what it needs is heavy
    from mulligan.network.authority import Authority

HTTPS_PORT = 443
MOST_REASON = 300


@dataclass
class Terms:
    """What one VM's connections stand under.

    Attributes:
        allowed: who may be reached.
        limits: see the class.
        resolver: turns names into addresses.
        injections: the secrets the VM has placeholders of.
        authority: made when there is a secret.
        trusted: whom connections on behalf of programs trust.
        bucket, pace: hold all of them together to bytes, and to requests, a second.
        passed: bytes so far.
    """

    allowed: AllowList
    limits: Limits
    resolver: Resolver
    injections: list[Injection] = field(default_factory=list)
    authority: Authority | None = None
    trusted: ssl.SSLContext | None = None
    bucket: Bucket = field(default_factory=lambda: Bucket(0))
    pace: Bucket = field(default_factory=lambda: Bucket(0))
    passed: int = 0

    def secrets_for(self, host: Host, port: int) -> list[Injection]:
        """Those a host may be given."""
        return [each for each in self.injections if each.goes_to(host, port)]

    def check_spent(self) -> None:
        """Refuses what comes after as much has passed as may.

        Raises:
            RefusedError: it has.
        """
        most = self.limits.total_bytes
        if 0 < most <= self.passed:
            raise RefusedError(f"the VM has had the {most} bytes it may have")


class Attempt:
    """What is written down of one connection, or one request, while it is under way."""

    def __init__(self, terms: Terms, host: Host | str, port: int, via: str) -> None:
        self._terms = terms
        self._start = time.monotonic()
        self._at = utc_now()
        self.host, self.port, self.via = str(host)[: names.MAX_NAME], port, via
        self.verdict = "failed"
        self.reason: str | None = None
        self.way: Way | None = None
        self.server: Stream | None = None
        self.secrets: list[str] = []

    def record(self) -> NetworkConnection:
        """What came of it."""
        server = self.server
        peer = str(self.way.addresses[0]) if self.way is not None else None
        return NetworkConnection(
            host="".join(c if c.isprintable() else "?" for c in self.host),
            port=self.port,
            via=self.via,
            verdict=self.verdict,
            reason=self.reason[:MOST_REASON] if self.reason is not None else None,
            address=peer,
            bytes_up=server.sent if server is not None else 0,
            bytes_down=server.received if server is not None else 0,
            started_at=self._at,
            duration_ms=int((time.monotonic() - self._start) * 1000),
            secrets=self.secrets,
        )


Told = Callable[[NetworkConnection], None]


class Conversation:
    """Serves one connection.

    Args:
        connected: the program's connection, which it owns.
        terms: of its VM.
        tell: called with each connection and request, when it is over.
        known: done when it is known whose the connection is. The program is answered only then:
            one that has had its answer may be gone before anybody looks.
    """

    def __init__(
        self,
        connected: AnyStream,
        terms: Terms,
        tell: Told,
        known: asyncio.Future[Any] | None = None,
    ) -> None:
        self._client = connected
        self._terms = terms
        self._limits = terms.limits
        self._tell = tell
        self._known = known

    async def run(self) -> None:
        """Serves it to its end. Cancelling this ends it."""
        limits = self._limits
        talk = Talk(self._client, limits.header_bytes, limits.idle_seconds, self._known)
        try:
            while await self._one(talk):
                talk.http.start_next_cycle()
                await self._terms.pace.take(1)
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # the program is gone, or was too slow: nobody is left to be told
        finally:
            await talk.close()

    async def _one(self, talk: Talk) -> bool:
        """One request; whether another may come."""
        try:
            request = await talk.request(self._limits.header_seconds)
            if request is None:
                return False
            if request.method == b"CONNECT":
                await self._connect(talk, request)
                return False
            outgoing = messages.forward(request)
        except BadRequestError as error:
            self._note_bad(error)
            await talk.say(error.status, str(error))
            return False
        return await self._forward(talk, outgoing, "http", None)

    def _note_bad(self, error: BadRequestError) -> None:
        attempt = Attempt(self._terms, "", 0, "http")
        attempt.verdict, attempt.reason = "refused", str(error)
        self._tell(attempt.record())

    @contextlib.asynccontextmanager
    async def _attempt(self, talk: Talk, host: Host, port: int, via: str) -> AsyncIterator[Attempt]:
        """Writes down what happens inside, and tells the program where it failed."""
        attempt = Attempt(self._terms, host, port, via)
        shown = names.shown(host, port)
        try:
            try:
                yield attempt
            except RefusedError as error:
                attempt.verdict, attempt.reason = "refused", str(error)
                await talk.say(403, f"{shown} is refused: {error}")
            except (UnreachableError, UpstreamError, ssl.SSLError) as error:
                attempt.reason = str(error)
                await talk.say(502, f"{shown} failed: {error}")
            except ProgramGoneError as error:
                attempt.reason = str(error)
                raise
            except TimeoutError:
                attempt.reason = f"nothing moved for {self._limits.idle_seconds:g} s"
                await talk.say(504, f"{shown}: {attempt.reason}")
            except OSError as error:
                attempt.reason = f"the connection broke: {error.strerror or error}"
                await talk.say(502, f"{shown}: {attempt.reason}")
            except asyncio.CancelledError:
                attempt.reason = "it was closed here: its program, or its VM, has ended"
                raise
        finally:
            if attempt.server is not None:
                attempt.server.close()
                self._terms.passed += attempt.server.sent + attempt.server.received
            self._tell(attempt.record())

    async def _reach(self, attempt: Attempt, host: Host, port: int) -> Stream:
        """A connection to a host that may be reached."""
        limits, terms = self._limits, self._terms
        terms.check_spent()
        way = await find_way(host, port, terms.allowed, terms.resolver, limits.resolve_seconds)
        attempt.way = way
        connected, address = await connect(way, limits.connect_seconds)
        attempt.way = Way(host, port, (address,))
        attempt.server = Stream(connected, limits.idle_seconds)
        attempt.verdict = "allowed"
        return attempt.server

    # Plain HTTP

    async def _forward(
        self, talk: Talk, outgoing: Outgoing, via: str, tls: ssl.SSLContext | None
    ) -> bool:
        """Passes a request on, and its answer back; whether the connection can be used again."""
        limits = self._limits
        host, port = outgoing.host, outgoing.port
        secrets = self._terms.secrets_for(host, port)
        async with self._attempt(talk, host, port, via) as attempt:
            server: AnyStream = await self._reach(attempt, host, port)
            exchange = Exchange(secrets)
            try:
                if tls is not None:
                    server = await self._secure(server, host, tls)
                passage = Passage(
                    talk,
                    server,
                    outgoing,
                    exchange,
                    self._terms.bucket,
                    limits.header_bytes,
                    limits.idle_seconds,
                )
                await passage.run(guarded=bool(secrets))
            finally:
                attempt.secrets = exchange.used()
        http = talk.http
        return http.our_state is h11.DONE and http.their_state is h11.DONE

    async def _secure(self, server: AnyStream, host: Host, tls: ssl.SSLContext) -> TlsStream:
        """TLS with the server, whose certificate has to be good for its name."""
        secure = TlsStream(server, tls, server_side=False, server_hostname=str(host))
        try:
            await secure.handshake(self._limits.header_seconds)
        except ssl.SSLCertVerificationError as error:
            raise UnreachableError(f"its certificate is not good: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise UnreachableError(f"TLS: {error.reason or error}") from None
        return secure

    # Tunnels

    async def _connect(self, talk: Talk, request: h11.Request) -> None:
        host, port = messages.tunnel(request)
        if self._terms.secrets_for(host, port) and self._terms.authority is not None:
            await self._terminate(talk, host, port)
            return
        async with self._attempt(talk, host, port, "connect") as attempt:
            server = await self._reach(attempt, host, port)
            early = await self._open(talk)
            if early:
                await server.send(early)
            await self._relay(server)

    async def _open(self, talk: Talk) -> bytes:
        """Says that the tunnel is open; returns what has come through it already."""
        while talk.http.next_event() is h11.NEED_DATA:
            await talk.fill()
        await talk.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        return talk.http.trailing_data[0]

    async def _relay(self, server: AnyStream) -> None:
        """Bytes both ways until both sides are done, or nothing moves."""
        moves = Moves()
        tasks = {
            asyncio.create_task(self._pipe(self._client, server, moves)),
            asyncio.create_task(self._pipe(server, self._client, moves)),
        }
        pending = tasks
        try:
            while pending:
                left = moves.last + self._limits.idle_seconds - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                done, pending = await asyncio.wait(
                    pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pipe(self, source: AnyStream, target: AnyStream, moves: Moves) -> None:
        while data := await source.receive():
            moves.last = time.monotonic()
            await self._terms.bucket.take(len(data))
            await target.send(data)
            await asyncio.sleep(0)  # others are due, too, where data never fails to be there
        await target.finish()

    # Tunnels that are read, to put secrets in

    async def _terminate(self, talk: Talk, host: Host, port: int) -> None:
        """Is the host to the program, and asks the host on its behalf, request by request."""
        authority, trusted = self._terms.authority, self._terms.trusted
        assert authority is not None
        assert trusted is not None
        if not self._terms.allowed.takes(host, port):
            async with self._attempt(talk, host, port, "https"):
                raise RefusedError("it is not on the allow-list")
        early = await self._open(talk)
        context = authority.context(host)
        inner = TlsStream(self._client, context, server_side=True, early=early)
        try:
            await inner.handshake(self._limits.header_seconds)
        except (ssl.SSLError, ConnectionError, TimeoutError) as error:
            attempt = Attempt(self._terms, host, port, "https")
            why = getattr(error, "reason", None) or str(error) or "it took too long"
            attempt.reason = f"the program did not finish the TLS handshake with the proxy: {why}"
            self._tell(attempt.record())
            return
        secure = Talk(inner, self._limits.header_bytes, self._limits.idle_seconds)
        try:
            while await self._inside(secure, host, port, trusted):
                secure.http.start_next_cycle()
                await self._terms.pace.take(1)
            await inner.finish()
        finally:
            await secure.close()

    async def _inside(self, talk: Talk, host: Host, port: int, tls: ssl.SSLContext) -> bool:
        try:
            request = await talk.request(self._limits.header_seconds)
            if request is None:
                return False
            outgoing = messages.inside(request, host, port, HTTPS_PORT)
        except BadRequestError as error:
            self._note_bad(error)
            await talk.say(error.status, str(error))
            return False
        return await self._forward(talk, outgoing, "https", tls)


class Moves:
    """When something last moved, in the loop's own seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()
