"""Bounds on what a client may send, kept before anything is parsed."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulligan.errors import ValidationFailed
from mulligan.server.answers import answer


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
        remedy="send less, or raise max_request_bytes in the settings",
    )
    response = answer(error, status=413)
    response.headers["connection"] = "close"
    return response


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
