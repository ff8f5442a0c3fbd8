"""Sessions through a server."""

from __future__ import annotations

import functools
import re
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from mulligan.client.transport import ANSWER_SLACK_S, Transport
from mulligan.errors import SessionNotFound
from mulligan.languages import LANGUAGES
from mulligan.models import (
    RollbackResponse,
    Session,
    SessionCommand,
    SessionCreateRequest,
    SessionOutput,
    SessionRollback,
    SessionSnapshot,
    SessionSnapshotRequest,
)

STATE_TIMEOUT_S = 600.0  # a copy of a large disk takes its time
_SESSIONS = TypeAdapter(list[Session])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,199}")


class HttpSessions:
    """See ``SessionsBackend``.

    Args:
        transport: to the server.
        timeout_ms: for commands that name no timeout of their own.
        key: an idempotency key, sent with each request.
    """

    def __init__(self, transport: Transport, timeout_ms: int, key: str | None) -> None:
        self._transport = transport
        self._timeout_ms = timeout_ms
        self._send = functools.partial(transport.send, key=key)
        self._parse = transport.parse

    async def create(self, request: SessionCreateRequest) -> Session:
        return self._parse(Session, await self._send("POST", "/sessions", request))

    async def execute(
        self, name: str, request: SessionCommand, agent_id: str | None
    ) -> SessionOutput:
        base_ms = (request.timeout_seconds or 0) * 1000 or self._timeout_ms
        timeout = base_ms / 1000 * LANGUAGES["bash"].timeout_multiplier + ANSWER_SLACK_S
        response = await self._send(
            "POST",
            f"{_path(name)}/execute",
            request,
            params=_params(agent_id),
            timeout=timeout,
        )
        return self._parse(SessionOutput, response)

    async def snapshot(
        self, name: str, request: SessionSnapshotRequest, agent_id: str | None
    ) -> SessionSnapshot:
        response = await self._send(
            "POST",
            f"{_path(name)}/snapshots",
            request,
            params=_params(agent_id),
            timeout=STATE_TIMEOUT_S,
        )
        return self._parse(SessionSnapshot, response)

    async def rollback(
        self, name: str, request: SessionRollback, agent_id: str | None
    ) -> RollbackResponse:
        response = await self._send(
            "POST",
            f"{_path(name)}/rollback",
            request,
            params=_params(agent_id),
            timeout=STATE_TIMEOUT_S,
        )
        return self._parse(RollbackResponse, response)

    async def info(self, name: str, agent_id: str | None) -> Session:
        path = f"{_path(name)}/info"
        return self._parse(Session, await self._send("GET", path, params=_params(agent_id)))

    async def list(self, agent_id: str | None) -> list[Session]:
        response = await self._send("GET", "/sessions", params=_params(agent_id))
        try:
            return _SESSIONS.validate_json(response.content)
        except ValidationError as error:
            raise self._transport.unreadable(response, error) from None

    async def delete(self, name: str, agent_id: str | None) -> None:
        await self._send("DELETE", _path(name), params=_params(agent_id))


def _params(agent_id: str | None) -> dict[str, str]:
    return {} if agent_id is None else {"agent_id": agent_id}


def _path(name: str) -> str:
    """The path of a session; what could be no name is not even asked for.

    Raises:
        SessionNotFound: no session has such a name.
    """
    if not _NAME.fullmatch(name):
        raise SessionNotFound(name[:100], field="name")
    return f"/sessions/{quote(name, safe='')}"
