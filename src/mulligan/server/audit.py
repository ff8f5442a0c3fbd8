"""Writes down every request and its answer's status; ``audit_log`` says in which form."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulligan.models import utc_now
from mulligan.server.access import MOST_ID, SCOPE_KEY, Caller
from mulligan.server.audit_log import AuditLog
from mulligan.server.request_ids import request_id

MOST_QUERY = 4096
UNWRITTEN = frozenset({"/health"})
FAULT = 500
SWITCHING = 101
FORBIDDEN = 403
IDS = frozenset({"agent_id", "vm_id", "execution_id", "snapshot_id", "approval_id", "from", "to"})


class Audit:
    """Has the log know of each request, when its answer starts.

    Args:
        app: the application behind it; ``state.tokens`` and the routes are the whole one's.
        log: the log.
    """

    def __init__(self, app: ASGIApp, log: AuditLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in UNWRITTEN:
            await self._app(scope, receive, send)
            return
        written = False

        def write(status: int | None) -> None:
            nonlocal written
            if not written:
                written = True
                self._log.write(_entry(scope, status))

        async def watched(message: Message) -> None:
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start"):
                write(message["status"])
            elif kind == "websocket.accept":
                write(SWITCHING)
            elif kind == "websocket.close":
                write(FORBIDDEN)  # what a server makes of it where nothing was accepted
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            write(FAULT)
            raise
        finally:
            write(None)


def _entry(scope: Scope, status: int | None) -> dict[str, Any]:
    caller: Caller | None = scope.get(SCOPE_KEY)
    route, params = _route(scope)
    client = scope.get("client")
    ids: dict[str, Any] = {k: str(v)[:MOST_ID] for k, v in params.items() if k.endswith("_id")}
    ids |= _of_query(scope["query_string"])
    ids |= caller.noted if caller is not None else {}
    return {
        "time": utc_now().isoformat().replace("+00:00", "Z"),
        "request_id": request_id(),
        "client": client[0] if client else None,
        "who": caller.kind if caller is not None else None,
        "agent": caller.agent_id if caller is not None else None,
        "token": caller.token_id if caller is not None else None,
        "method": scope.get("method", "WEBSOCKET"),
        "route": route,
        "ids": ids,
        "status": status,
    }


def _route(scope: Scope) -> tuple[str | None, dict[str, Any]]:
    """The template a request's path fits, and what stands in its places."""
    route = scope.get("route")
    if route is not None:
        return route.path, scope.get("path_params", {})
    for each in scope["app"].routes:  # it was refused before it was led anywhere
        match, found = each.matches(scope)
        if match is Match.FULL:
            return each.path, found.get("path_params", {})
    return None, {}


def _of_query(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query[:MOST_QUERY].decode("latin-1"), max_num_fields=100)
    except ValueError:
        return {}
    return {name: value[:MOST_ID] for name, value in pairs if name in IDS}
