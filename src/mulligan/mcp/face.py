"""The server as the protocol has it: it lists the tools, and has them do their work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from mulligan.errors import VmExecutionError
from mulligan.log import get_logger
from mulligan.mcp import reports
from mulligan.mcp.calls import APPROVAL, Call, Context, InputRequiredError, Peer
from mulligan.mcp.inputs import Input
from mulligan.mcp.text import clean
from mulligan.mcp.tools import INSTRUCTIONS, TOOLS, Tool
from mulligan.mcp.workspace import Workspace
from mulligan.version import __version__

log = get_logger()

NAME = "mulligan"
STATE_TTL_S = 3600.0  # as long as a question to a person stands by default
MOST_MISTAKES = 5


class Place(NamedTuple):
    """Where a client's calls work, and whether its person's word counts as an approval."""

    workspace: Workspace
    may_answer: bool


Locate = Callable[[Context], Awaitable[Place]]


def make_server(locate: Locate) -> Server[Any]:
    """A server.

    Args:
        locate: says for each call where it works; may raise ``VmExecutionError``.
    """
    definitions = [tool.definition() for tool in TOOLS.values()]
    schemas = {each.name: each.input_schema for each in definitions}

    async def list_tools(
        _: Context, __: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=definitions)

    async def call_tool(
        context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(
                code=types.INVALID_PARAMS,
                message=f"Unknown tool: {params.name[:100]}; there are {', '.join(TOOLS)}",
            )
        try:
            given = tool.takes.model_validate(params.arguments or {})
        except ValidationError as error:
            return _failure(_mistakes(tool, error))
        return await _call(tool, given, locate, context, params)

    server: Server[Any] = Server(
        NAME,
        version=__version__,
        title="Mulligan",
        description="Runs the code language models write, in VMs that can be taken back.",
        instructions=INSTRUCTIONS,
        get_tool_input_schema=schemas.get,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    security = RequestStateSecurity.ephemeral(ttl=STATE_TTL_S)
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


async def _call(
    tool: Tool,
    given: Input,
    locate: Locate,
    context: Context,
    params: types.CallToolRequestParams,
) -> types.CallToolResult | types.InputRequiredResult:
    try:
        place = await locate(context)
        log.info("tool_called", tool=tool.name, agent_id=place.workspace.agent_id)
        call = Call(place.workspace, Peer(context, params, place.may_answer))
        answer = await tool.run(call, given)
    except InputRequiredError as asks:
        return types.InputRequiredResult(
            input_requests={APPROVAL: asks.request},
            request_state=asks.waiting.model_dump_json(),
        )
    except VmExecutionError as error:
        return _failure(reports.of_error(error))
    except Exception as error:  # a fault of ours: the details go to the log, not to the client
        log.exception("fault", tool=tool.name, exc_info=error)
        return _failure("Internal error: the server failed; its log has the details")
    return types.CallToolResult(
        content=list(answer.content), structured_content=answer.data.model_dump(mode="json")
    )


def _failure(message: str) -> types.CallToolResult:
    """A tool's error: its model is to see it, and to do something about it."""
    return types.CallToolResult(content=[reports.text(message)], is_error=True)


def _mistakes(tool: Tool, error: ValidationError) -> str:
    """What was wrong with the parameters, and what they are."""
    found = [
        f"{'.'.join(str(part) for part in each['loc']) or 'arguments'}: {each['msg']}"
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    known = ", ".join(tool.takes.model_fields) or "no parameters"
    told = "; ".join(clean(each)[:200] for each in found[:MOST_MISTAKES])
    return f"Parameters of {tool.name} are wrong: {told} (it takes: {known})"
