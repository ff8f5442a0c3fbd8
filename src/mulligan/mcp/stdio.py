"""MCP over standard input and output, for a client that starts this process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from mulligan.client.backends import Backend
from mulligan.errors import VmExecutionError
from mulligan.log import get_logger
from mulligan.mcp.calls import Context
from mulligan.mcp.face import Place, make_server
from mulligan.mcp.streams import Files, Lines, Writer, as_files, private_streams
from mulligan.mcp.workspace import Workspace, temporary_agent
from mulligan.settings import Settings

log = get_logger()

REMOVE_S = 15.0
GONE = (BrokenPipeError, anyio.BrokenResourceError, anyio.ClosedResourceError)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def serve(backend: Backend, settings: Settings, agent_id: str | None) -> None:
    """Serves one client until it closes standard input, or a signal comes.

    Args:
        backend: where VMs are; stays open.
        settings: those in force on this machine.
        agent_id: whose VMs they are; None: of an agent of this connection's own, whose VMs are
            removed at its end.
    """
    workspace = Workspace(backend, agent_id or temporary_agent(), settings.default_vm_type)

    async def locate(_: Context) -> Place:
        return Place(workspace, may_answer=settings.mcp.approvals != "off")

    server = make_server(locate)
    with private_streams() as (stdin, stdout):
        files = as_files(Lines(stdin, settings.max_request_bytes), Writer(stdout))
        serving = asyncio.create_task(_serve(server, files))
        try:
            with _ending(serving):
                await asyncio.wait({serving})
        finally:
            serving.cancel()
            await asyncio.wait({serving})
            if agent_id is None:
                await _remove(workspace)
    if not serving.cancelled():
        serving.result()


async def _serve(server: Server[Any], files: Files) -> None:
    try:
        async with stdio_server(*files) as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    except* GONE:
        log.info("client_gone")


async def _remove(workspace: Workspace) -> None:
    try:
        async with asyncio.timeout(REMOVE_S):
            await workspace.remove()
    except (TimeoutError, VmExecutionError) as error:
        log.warning("vms_not_removed", agent_id=workspace.agent_id, error=str(error))


@contextlib.contextmanager
def _ending(serving: asyncio.Task[None]) -> Iterator[None]:
    """Within it, a signal that asks this process to end cancels a task."""
    loop = asyncio.get_running_loop()
    for each in SIGNALS:
        loop.add_signal_handler(each, serving.cancel)
    try:
        yield
    finally:
        for each in SIGNALS:
            loop.remove_signal_handler(each)
