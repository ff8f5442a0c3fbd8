"""MCP over streamable HTTP, at a path of a server."""

from __future__ import annotations

import asyncio
import functools
import json
from datetime import datetime
from typing import Any, NamedTuple

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from mulligan.client.direct import DirectBackend
from mulligan.engine.engine import Engine
from mulligan.engine.requests.validation import check_agent_id
from mulligan.errors import VmExecutionError
from mulligan.log import get_logger
from mulligan.mcp.calls import Context
from mulligan.mcp.face import Place, make_server
from mulligan.mcp.workspace import Workspace, sweep, temporary_agent

log = get_logger()

DEFAULT_AGENT = "mcp"  # of clients that name none and have no session to have one by
ASKER_KEY = "mulligan.mcp.asker"
AGENT_KEY = "mulligan.mcp.agent"
MOST_WORKSPACES = 1000


class Asker(NamedTuple):
    """Who sends a request.

    Attributes:
        agent_id: the agent it is about; None where none was named.
        by_token: whether that is the agent whose token came along.
        who: which token came along; None where there was none.
    """

    agent_id: str | None
    by_token: bool = False
    who: str | None = None


class OpenEngine(DirectBackend):
    """An engine that somebody else opened, and closes."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.settings)
        self._opened = engine

    async def open(self) -> Engine:
        """The engine."""
        return self._opened

    async def close(self) -> None:
        """Leaves the engine to its owner."""


class HttpFace:
    """The protocol for the clients of a server; ``open`` it before and ``close`` it after use.

    Args:
        engine: opened, and closed after this.
        began: when the server did.
    """

    def __init__(self, engine: Engine, began: datetime) -> None:
        self._began = began
        self._settings = engine.settings
        self._backend = OpenEngine(engine)
        self._workspaces: dict[str, Workspace] = {}
        self._temporary: dict[str, Workspace] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._manager = StreamableHTTPSessionManager(
            make_server(self._locate),
            max_request_body_size=self._settings.max_request_bytes,
            session_idle_timeout=self._settings.mcp.idle_seconds,
            max_sessions=self._settings.mcp.max_sessions,
        )
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Makes ready to serve."""
        await sweep(self._backend, self._began)
        ready = asyncio.Event()
        self._serving = asyncio.create_task(self._serve(ready))
        await ready.wait()

    async def _serve(self, ready: asyncio.Event) -> None:
        """Holds the sessions; what they are made of has to end in the task it began in."""
        async with self._manager.run():
            ready.set()
            await self._stopping.wait()

    async def close(self) -> None:
        """Ends all sessions, and removes the VMs of those that named no agent."""
        self._stopping.set()
        if self._serving is not None:
            await asyncio.wait({self._serving})
        for agent_id in list(self._temporary):
            self._leave(agent_id)
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def handle(self, asker: Asker, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request.

        Raises:
            ValidationFailed: the agent's name is none.
        """
        if asker.agent_id is not None:
            check_agent_id(asker.agent_id)
        # What binds a session to who began it, as far as the SDK is concerned.
        began = json.dumps([asker.agent_id, asker.who])
        scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=began, scopes=[]))
        scope[ASKER_KEY] = asker
        await self._manager.handle_request(scope, receive, send)

    async def _locate(self, context: Context) -> Place:
        """The workspace of the agent of a request, or of its session where it named none."""
        assert context.request is not None  # over HTTP there is one
        asker: Asker = context.request.scope[ASKER_KEY]
        may_answer = self._settings.mcp.approvals == "always" or (
            self._settings.mcp.approvals == "trusted" and not asker.by_token
        )
        if asker.agent_id is not None:
            return Place(self._workspace(asker.agent_id), may_answer)
        return Place(self._of_session(context), may_answer)

    def _workspace(self, agent_id: str) -> Workspace:
        found = self._workspaces.pop(agent_id, None)
        if found is None:
            found = Workspace(self._backend, agent_id, self._settings.default_vm_type)
        self._workspaces[agent_id] = found
        if len(self._workspaces) > MOST_WORKSPACES:
            del self._workspaces[next(iter(self._workspaces))]
        return found

    def _of_session(self, context: Context) -> Workspace:
        """The workspace of a session; it goes when the session ends."""
        # The SDK means this for handlers, but has no public way to it yet.
        connection = context.session._connection  # noqa: SLF001
        if connection.session_id is None:
            return self._workspace(DEFAULT_AGENT)
        state: dict[str, Any] = connection.state
        if AGENT_KEY not in state:
            agent_id = state[AGENT_KEY] = temporary_agent()
            self._temporary[agent_id] = Workspace(
                self._backend, agent_id, self._settings.default_vm_type
            )
            connection.exit_stack.callback(functools.partial(self._leave, agent_id))
        return self._temporary[state[AGENT_KEY]]

    def _leave(self, agent_id: str) -> None:
        """A session has ended; its VMs go, in a task of their own, which takes its time."""
        workspace = self._temporary.pop(agent_id, None)
        if workspace is not None:
            task = asyncio.create_task(_removed(workspace))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)


async def _removed(workspace: Workspace) -> None:
    try:
        await workspace.remove()
    except VmExecutionError as error:
        log.warning("vms_not_removed", agent_id=workspace.agent_id, error=str(error))
