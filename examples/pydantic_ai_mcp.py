"""An agent of Pydantic AI whose tools are Mulligan's MCP server, ``mulligan mcp``.

Any framework that speaks MCP takes the same command, such as the OpenAI Agents SDK.
"""

import asyncio
import os
import sys
from typing import Any

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from scripted_model import MODEL, Call, ScriptedModel

SCRIPT = [
    Call("run_code", {"language": "python", "code": "words = ['undo', 'redo']\nlen(words)"}),
    Call("run_code", {"language": "python", "code": "words.clear()\nwords[0]"}),
    Call("rollback", {}),
    Call("run_code", {"language": "python", "code": "words"}),
    "They are there again.",
]


def told(content: dict[str, Any]) -> str:
    """The line of a tool's answer that a person wants to see."""
    if "restored_snapshot_id" in content:
        return f"{len(content['undone_executions'])} execution undone"
    return content["result"] or content["stderr"]["text"].splitlines()[-1]


async def main() -> None:
    # Yours may be MCPToolset("http://localhost:8080/mcp"), where `mulligan serve` runs.
    command = StdioTransport(sys.executable, ["-m", "mulligan", "mcp"], env=dict(os.environ))
    with ScriptedModel(SCRIPT) as server:
        # Yours: Agent("openai:…", toolsets=[…]).
        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(server.url, api_key="none"))
        agent = Agent(model, toolsets=[MCPToolset(command, init_timeout=30)])
        result = await agent.run("Look after the words.")
    for message in result.all_messages():
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                print(f"{part.tool_name}:", told(part.content))
    print(result.output)


if __name__ == "__main__":
    asyncio.run(main())
