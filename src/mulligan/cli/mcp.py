"""``mulligan mcp``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mulligan import settings as settings_module
from mulligan.cli.console import err, run_async
from mulligan.cli.options import DataDirOption, ServerOption
from mulligan.errors import ConfigError
from mulligan.settings import Settings

if TYPE_CHECKING:
    from mulligan.client.backends import Backend
    from mulligan.engine.lock import Holder

LOCK_WAIT_S = 5.0  # for a process before this one to end


def mcp(
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            help="Whose VMs it works in; they stay. Default: an agent of this connection's own, "
            "whose VMs are removed when it ends.",
        ),
    ] = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve the Model Context Protocol (MCP) to the client that starts this command."""
    if find_spec("mcp") is None:
        raise ConfigError(
            "the Model Context Protocol is not installed",
            remedy="pip install '.[mcp]' where Mulligan's source is",
        )
    run_async(_mcp(agent, server, data_dir))


async def _mcp(agent: str | None, server: str | None, data_dir: Path | None) -> None:
    from mulligan import log
    from mulligan.engine.requests.validation import check_agent_id
    from mulligan.mcp.stdio import serve

    settings = settings_module.load(data_dir=data_dir)
    log.to_stderr(settings.log_level)
    if agent is not None:
        check_agent_id(agent)
    async with _backend(settings, server) as backend:
        await serve(backend, settings, agent)


@asynccontextmanager
async def _backend(settings: Settings, server: str | None) -> AsyncIterator[Backend]:
    """The server that is named or has the data directory, else an engine in this process."""
    from mulligan.cli.session import given_token
    from mulligan.client.direct import DirectBackend
    from mulligan.client.http import HttpBackend
    from mulligan.engine import lock
    from mulligan.mcp.workspace import sweep
    from mulligan.models import utc_now

    backend: Backend
    other = None if server else lock.holder(settings.data_dir)
    server = server or (other.url if other else None)
    if server is not None:
        backend = HttpBackend(server, settings.execution_timeout_ms, given_token())
        err.print(f"Mulligan speaks MCP on standard input and output, for the server {server}")
    else:
        held = await lock.take(settings.data_dir, LOCK_WAIT_S, _on_wait)
        backend = DirectBackend(settings, held)
        err.print(f"Mulligan speaks MCP on standard input and output (data in {settings.data_dir})")
    try:
        await backend.healthy()
        if server is None:
            await sweep(backend, utc_now())
        yield backend
    finally:
        await backend.close()


def _on_wait(other: Holder | None) -> None:
    err.print(f"waiting for {f'process {other.pid}' if other else 'another process'} to end")
