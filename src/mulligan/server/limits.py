"""Bounds on what a client may send, kept before anything is parsed."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulligan.errors import ValidationFailed
from mulligan.server.answers import answer


class _TooLarge(Exception):
    pass


class BodyLimit:
    """Refuses bodies over a size, by what they say of it and by what really comes.

    Args:
        app: the application behind it.
        most: in bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._most:
            await self._refuse(scope, receive, send)
            return
        received = 0
        answered = False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise _TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except _TooLarge:
            if not answered:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = ValidationFailed(
            f"the request is over {self._most} bytes",
            field="body",
            remedy="send less, or raise max_request_bytes in the settings",
        )
        response = answer(error, status=413)
        response.headers["connection"] = "close"
        await response(scope, receive, send)
