"""The route of the Model Context Protocol."""

from __future__ import annotations

import asyncio
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mulligan.errors import ConfigError, ValidationFailed, VmExecutionError
from mulligan.models import utc_now
from mulligan.server.access import SCOPE_KEY, Caller
from mulligan.server.answers import answer
from mulligan.settings import McpSettings

if TYPE_CHECKING:
    from mulligan.mcp.http import Asker, HttpFace

PATH = "/mcp"
METHODS = ("POST", "GET", "DELETE")
NOT_IMPLEMENTED = 501


class Endpoint:
    """``/mcp``. What it takes is imported for the first who asks: not everybody does.

    Args:
        app: whose engine it serves.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._began = utc_now()
        self._face: HttpFace | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            face = await self._opened()
            await face.handle(self._asker(scope), scope, receive, send)
        except VmExecutionError as error:
            await answer(error)(scope, receive, send)

    def _asker(self, scope: Scope) -> Asker:
        from mulligan.mcp.http import Asker  # noqa: PLC0415

        caller: Caller = scope.get(SCOPE_KEY) or Caller()
        agent_id = caller.agent(_named(scope["query_string"]))
        return Asker(agent_id, by_token=caller.agent_id is not None, who=caller.token_id)

    async def _opened(self) -> HttpFace:
        async with self._opening:
            if self._closed:
                raise ConfigError("the server is shutting down")
            if self._face is None:
                # In a thread, for it takes a second in which others are served.
                module = await asyncio.to_thread(import_module, "mulligan.mcp.http")
                face: HttpFace = module.HttpFace(self._app.state.engine, self._began)
                await face.open()
                self._face = face
            return self._face

    async def close(self) -> None:
        """Ends all sessions; to be called before the engine closes."""
        async with self._opening:
            self._closed = True
            face, self._face = self._face, None
            if face is not None:
                await face.close()


def _named(query: bytes) -> str | None:
    """The agent a query names.

    Raises:
        ValidationFailed: it cannot be read.
    """
    try:
        found = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise ValidationFailed("the query has too many fields", field="query") from None
    return found.get("agent_id", [None])[-1]


class Missing:
    """In its place where the extra is not installed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        error = ConfigError(
            "the Model Context Protocol is not installed here",
            remedy="pip install '.[mcp]' where Mulligan's source is, and start the server again",
        )
        await answer(error, status=NOT_IMPLEMENTED)(scope, receive, send)

    async def close(self) -> None:
        """There is nothing to end."""


def add_routes(app: FastAPI, settings: McpSettings) -> None:
    """Adds it, unless it is switched off; ``app.state.mcp`` has what is to be closed."""
    if not settings.enabled:
        return
    endpoint = Endpoint(app) if find_spec("mcp") is not None else Missing()
    app.state.mcp = endpoint
    app.router.routes.extend(Route(PATH, endpoint, methods=[method]) for method in METHODS)


async def close(app: FastAPI) -> None:
    """Ends what clients of the protocol have begun; before the engine closes. May be repeated."""
    endpoint: Endpoint | Missing | None = getattr(app.state, "mcp", None)
    if endpoint is not None:
        await endpoint.close()
