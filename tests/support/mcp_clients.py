"""Official clients of the Model Context Protocol, connected to real servers."""

import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from support.server import clean_environment, command

MODERN, LEGACY = "auto", "legacy"  # without a handshake, and with one
ERAS = (MODERN, LEGACY)
Person = Callable[[str], Awaitable[types.ElicitResult]]


class Connected:
    """A client with few words."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **given: Any) -> types.CallToolResult:
        """Calls a tool; its answer."""
        return await self.client.call_tool(tool, given)

    async def data(self, tool: str, **given: Any) -> dict[str, Any]:
        """Calls a tool that is to succeed; its structured content."""
        result = await self.call(tool, **given)
        assert not result.is_error, said(result)
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    async def run(self, code: str, **given: Any) -> dict[str, Any]:
        """Runs code that is to be let run."""
        return await self.data("run_code", code=code, **given)

    async def refused(self, tool: str, **given: Any) -> str:
        """Calls a tool that is to fail; what it says."""
        result = await self.call(tool, **given)
        assert result.is_error, said(result)
        return said(result)


def said(result: types.CallToolResult) -> str:
    """The text of an answer."""
    return "\n".join(each.text for each in result.content if each.type == "text")


def answering(action: Any, asked: list[str], **content: str) -> Person:
    """A person who always answers the same, and writes down what was asked."""

    async def answer(message: str) -> types.ElicitResult:
        asked.append(message)
        return types.ElicitResult(action=action, content=content or None)

    return answer


def _callback(person: Person | None) -> Any:
    if person is None:
        return None

    async def ask(_: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert isinstance(params, types.ElicitRequestFormParams)
        return await person(params.message)

    return ask


@asynccontextmanager
async def over_http(
    url: str, era: str = MODERN, person: Person | None = None, query: str = ""
) -> AsyncIterator[Connected]:
    """A client of a server."""
    address = f"{url}/mcp{query}"
    async with Client(address, mode=era, elicitation_callback=_callback(person)) as client:
        yield Connected(client)


@asynccontextmanager
async def over_stdio(
    data_dir: Path,
    *arguments: str,
    era: str = MODERN,
    person: Person | None = None,
    **env: str,
) -> AsyncIterator[Connected]:
    """A client of a process of its own; what that logs is in ``log`` of the data directory."""
    line = command("mcp", "--data-dir", str(data_dir), *arguments)
    parameters = StdioServerParameters(command=line[0], args=line[1:], env=clean_environment(**env))
    with (data_dir.parent / f"{data_dir.name}.log").open("w+") as log:
        os.unlink(log.name)
        transport = stdio_client(parameters, errlog=log)
        async with Client(transport, mode=era, elicitation_callback=_callback(person)) as client:
            yield Connected(client)


class Process:
    """``mulligan mcp`` without a client: lines are sent and read by hand. A context manager."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self._command = command("mcp", "--data-dir", str(data_dir), *arguments)

    def __enter__(self) -> "Process":
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def close_input(self) -> None:
        """What a client does that has done with it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None

    def send(self, message: dict[str, Any] | str) -> None:
        """A message, or a line as it is."""
        assert self.process.stdin is not None
        line = message if isinstance(message, str) else json.dumps(message)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """The next message."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process has closed its output"
        found: dict[str, Any] = json.loads(line)
        return found

    def answer(self, number: int) -> dict[str, Any]:
        """The answer to a request; what comes before it is passed over."""
        while (message := self.read()).get("id") != number:
            pass
        return message

    def initialize(self) -> dict[str, Any]:
        """The handshake; its answer."""
        self.request(
            0,
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "by-hand", "version": "1"},
        )
        answer = self.answer(0)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    def request(self, number: int, method: str, **params: Any) -> None:
        """A request."""
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    def call(self, number: int, tool: str, **given: Any) -> None:
        """A call of a tool."""
        self.request(number, "tools/call", name=tool, arguments=given)
