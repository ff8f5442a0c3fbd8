"""Every request has an id: the one it brings, if it is fit for a log, else a new one."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, get_contextvars

HEADER = "X-Request-Id"
_FIT = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


def request_id() -> str | None:
    """The id of the request this is done for; None outside of one."""
    found: str | None = get_contextvars().get("request_id")
    return found


class RequestIds:
    """Gives each request its id, in all lines it logs and in the header of its answer.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        brought = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"")
        chosen = brought.decode() if _FIT.fullmatch(brought) else f"req-{secrets.token_hex(8)}"
        # Never unbound: the task, and so the context, is this request's alone, and whoever answers
        # a fault of this does it outside of here.
        bind_contextvars(request_id=chosen)

        async def named(message: Message) -> None:
            if message["type"] in _STARTS:
                MutableHeaders(scope=message)[HEADER] = chosen
            await send(message)

        await self._app(scope, receive, named)
