"""The application behind a door that is shut until it can do its work.

The socket is open before the engine is (somebody else might take the port, and clients are let wait
no longer than they must): what comes until then is answered 503, ``/health`` with "starting".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Response
from starlette.types import Message, Receive, Scope, Send

from mulligan.errors import Unavailable, VmExecutionError
from mulligan.log import get_logger
from mulligan.server.answers import refuse
from mulligan.server.watching import HealthAnswer

log = get_logger()

SOON_S = 1


class Door:
    """An ASGI application whose lifespan has begun when ``app``'s has not yet.

    Args:
        app: the application behind it.
        opened: called when it takes requests.
        failed: called when it never will; why is the application's to keep.

    Attributes:
        is_open: whether requests go through.
        was_open: whether they ever did.
    """

    def __init__(
        self, app: FastAPI, opened: Callable[[], None], failed: Callable[[], None]
    ) -> None:
        self._app = app
        self._opened = opened
        self._failed = failed
        self.is_open = False
        self.was_open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self.is_open:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/health":
            body = HealthAnswer(status="starting").model_dump_json()
            headers = {"Retry-After": str(SOON_S)}
            answer = Response(body, 503, headers, media_type="application/json")
            await answer(scope, receive, send)
        else:
            error = Unavailable(
                "Mulligan is starting", retry_after_s=SOON_S, remedy="ask again in a moment"
            )
            await refuse(error, scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The lifespan: the inner one's start is not waited for, its end is."""
        await receive()
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        told.put_nowait({"type": "lifespan.startup"})

        async def tell(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self.is_open = self.was_open = True
                self._opened()
            elif message["type"] == "lifespan.startup.failed":
                self._failed()

        inner = asyncio.create_task(self._inside(scope, told.get, tell))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        told.put_nowait({"type": "lifespan.shutdown"})
        await inner
        await send({"type": "lifespan.shutdown.complete"})

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if not isinstance(error, VmExecutionError):  # that one the application has kept
                log.exception("fault", exc_info=error)
        finally:
            self.is_open = False
