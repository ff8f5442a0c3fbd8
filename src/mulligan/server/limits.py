"""Bounds on what a client may send, kept before anything is parsed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulligan.errors import Forbidden, ValidationFailed
from mulligan.server.answers import answer, refuse
from mulligan.settings import is_loopback


class TooLarge(HTTPException):
    """More came than may; an HTTPException, which frameworks let through."""

    def __init__(self, most: int) -> None:
        super().__init__(413)
        self.most = most


def refusal(most: int) -> JSONResponse:
    """The answer to a request over the size."""
    error = ValidationFailed(
        f"the request is over {most} bytes",
        field="body",
        remedy="send less, or raise max_request_bytes (MULLIGAN_MAX_REQUEST_BYTES)",
    )
    response = answer(error, status=413)
    response.headers["connection"] = "close"
    return response


class BodyLimit:
    """Refuses bodies over a size, by what they say of it and by what really comes.

    Args:
        app: the application behind it.
        most: in bytes.
        spared: which requests are bounded by others.
    """

    def __init__(self, app: ASGIApp, most: int, spared: Callable[[Scope], bool]) -> None:
        self._app = app
        self._most = most
        self._spared = spared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or self._spared(scope):
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._most:
            await refusal(self._most)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise TooLarge(self._most)
            return message

        await self._app(scope, counted, send)


class LocalOnly:
    """Refuses what a web page could send to a server on the loopback address.

    A page under a name that leads here (DNS rebinding) says so in Host, a page of any other origin
    in Origin. Elsewhere Host alone is looked at, and where ``allowed_hosts`` are given alone: a
    page cannot send a token it does not have.

    Args:
        app: the application behind it.
        host: the address the server listens on.
        allowed_hosts: other names the server goes by.
        origins: of pages that may use it.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        allowed_hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._local = is_loopback(host)
        named = {name.lower() for name in allowed_hosts}
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()} if self._local else set()
        self._names |= named
        self._looks = self._local or bool(named)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if self._looks and scope["type"] in ("http", "websocket"):
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1")
            origin = headers.get(b"origin", b"").decode("latin-1")
            if not self._is_known(f"//{host}"):
                await refuse(self._wrong_host(), scope, receive, send)
                return
            if self._local and origin and not self._may_use(origin):
                await refuse(self._wrong_origin(), scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _wrong_host(self) -> Forbidden:
        if self._local:
            return Forbidden(
                "this server takes requests from this machine only",
                field="Host",
                remedy="ask it as localhost or 127.0.0.1, or name it in allowed_hosts "
                "(MULLIGAN_ALLOWED_HOSTS)",
            )
        return Forbidden(
            "this server does not go by that name",
            field="Host",
            remedy="ask it by one of allowed_hosts (MULLIGAN_ALLOWED_HOSTS)",
        )

    def _wrong_origin(self) -> Forbidden:
        return Forbidden(
            "this server takes nothing from pages of that origin",
            field="Origin",
            remedy="name it in cors_origins (MULLIGAN_CORS_ORIGINS), if it is to run code here",
        )

    def _may_use(self, origin: str) -> bool:
        return origin.lower() in self._origins or self._is_known(origin)

    def _is_known(self, url: str) -> bool:
        try:
            return urlsplit(url).hostname in self._names
        except ValueError:
            return False
