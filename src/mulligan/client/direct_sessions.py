"""Sessions through the engine in the client's own process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel

from mulligan.engine.engine import Engine
from mulligan.engine.requests.once import COMMAND, Asked, Attempt
from mulligan.engine.requests.sessions import Sessions
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

Model = TypeVar("Model", bound=BaseModel)
Work = Callable[[Sessions, Attempt], Coroutine[Any, Any, Model]]


class DirectSessions:
    """See ``SessionsBackend``.

    Args:
        open_: gives the engine, opened.
        key: an idempotency key: what does something is done once.
    """

    def __init__(self, open_: Callable[[], Awaitable[Engine]], key: str | None = None) -> None:
        self._open = open_
        self._key = key

    async def _do(
        self,
        agent_id: str | None,
        operation: str,
        model: type[Model],
        work: Work[Model],
        **subject: Any,
    ) -> Model:
        engine = await self._open()
        if self._key is None:
            return await work(engine.sessions, Attempt())
        asked = Asked(self._key, agent_id or "", operation, subject)
        done = await engine.once.do(asked, lambda attempt: work(engine.sessions, attempt))
        return done.read(model)

    async def create(self, request: SessionCreateRequest) -> Session:
        return await self._do(
            request.agent_id,
            "session",
            Session,
            lambda sessions, _: sessions.create(request),
            request=request,
        )

    async def execute(
        self, name: str, request: SessionCommand, agent_id: str | None
    ) -> SessionOutput:
        return await self._do(
            agent_id,
            COMMAND,
            SessionOutput,
            lambda sessions, attempt: sessions.execute(name, request, agent_id, attempt),
            session=name,
            request=request,
        )

    async def snapshot(
        self, name: str, request: SessionSnapshotRequest, agent_id: str | None
    ) -> SessionSnapshot:
        return await self._do(
            agent_id,
            "snapshot",
            SessionSnapshot,
            lambda sessions, _: sessions.snapshot(name, request, agent_id),
            session=name,
            request=request,
        )

    async def rollback(
        self, name: str, request: SessionRollback, agent_id: str | None
    ) -> RollbackResponse:
        return await self._do(
            agent_id,
            "rollback",
            RollbackResponse,
            lambda sessions, _: sessions.rollback(name, request.snapshot_id, agent_id),
            session=name,
            request=request,
        )

    async def info(self, name: str, agent_id: str | None) -> Session:
        return await (await self._open()).sessions.info(name, agent_id)

    async def list(self, agent_id: str | None) -> list[Session]:
        return (await self._open()).sessions.all(agent_id)

    async def delete(self, name: str, agent_id: str | None) -> None:
        await (await self._open()).sessions.delete(name, agent_id)
