"""One call of a tool: where it works, who is at the other end, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict, ValidationError

from mulligan.mcp.outputs import Output
from mulligan.mcp.text import MOST_MESSAGE, clean
from mulligan.mcp.workspace import Workspace

APPROVAL = "approval"
PROGRESS_EVERY_S = 0.1

Context = ServerRequestContext[Any, Any]


class Answer(NamedTuple):
    """What a tool gives back: for a model, and as data."""

    content: Sequence[types.ContentBlock]
    data: Output


def told(text: str, data: Output) -> Answer:
    """An answer of text alone."""
    return Answer([types.TextContent(text=text)], data)


class Waiting(BaseModel):
    """A call that waits for a person's answer, as its client brings it back.

    ``done`` are the executions it has made already, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    approval_id: str
    done: list[str] = []


class InputRequiredError(Exception):
    """The client has to ask its person, and to call again with the answer."""

    def __init__(self, request: types.ElicitRequest, waiting: Waiting) -> None:
        super().__init__("a person has to be asked")
        self.request = request
        self.waiting = waiting


@dataclass
class Peer:
    """The client of a call.

    Attributes:
        context: of its request.
        params: what it sent.
        may_answer: whether what its person says counts as an approval.
    """

    context: Context
    params: types.CallToolRequestParams
    may_answer: bool
    _started: float = field(default_factory=time.monotonic)
    _sent: float = 0.0

    @property
    def name(self) -> str:
        """What it calls itself."""
        about = self.context.session.client_params
        return clean(about.client_info.name)[:100] if about is not None else "a client"

    @property
    def can_ask(self) -> bool:
        """Whether it can show its person a form."""
        capabilities = self.context.session.client_capabilities
        elicitation = capabilities.elicitation if capabilities is not None else None
        if not self.may_answer or elicitation is None:
            return False
        return elicitation.form is not None or elicitation.url is None

    @property
    def waiting(self) -> Waiting | None:
        """What this call goes on with, if it was made before."""
        if self.params.request_state is None or not self.params.input_responses:
            return None
        try:  # sealed on its way, so it is as it was
            return Waiting.model_validate_json(self.params.request_state)
        except ValidationError:
            return None

    @property
    def said(self) -> types.ElicitResult | None:
        """What its person answered meanwhile."""
        response = (self.params.input_responses or {}).get(APPROVAL)
        return response if isinstance(response, types.ElicitResult) else None

    async def ask(
        self,
        message: str,
        schema: dict[str, Any],
        waiting: Waiting,
        seconds: float,
    ) -> types.ElicitResult:
        """Has the client show its person a form, and waits for the answer.

        Raises:
            InputRequiredError: the protocol of this client has it asked between two calls.
            MCPError: the client could not ask, or took longer than ``seconds``.
        """
        form = types.ElicitRequestFormParams(message=message, requested_schema=schema)
        request = types.ElicitRequest(params=form)
        session = self.context.session
        if session.protocol_version in MODERN_PROTOCOL_VERSIONS:
            raise InputRequiredError(request, waiting)
        from mcp.shared.message import ServerMessageMetadata  # noqa: PLC0415

        return await session.send_request(
            request,
            types.ElicitResult,
            request_read_timeout_seconds=seconds,
            metadata=ServerMessageMetadata(related_request_id=self.context.request_id),
        )

    async def progress(self, text: str, *, now: bool = False) -> None:
        """Tells a client that asked for it how far the call is; not too often.

        Args:
            text: what is new.
            now: even if it was told something a moment ago.
        """
        at = time.monotonic()
        if not now and at - self._sent < PROGRESS_EVERY_S:
            return
        self._sent = at
        message = clean(text[-MOST_MESSAGE:])
        await self.context.session.report_progress(at - self._started, None, message)


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    workspace: Workspace
    peer: Peer
