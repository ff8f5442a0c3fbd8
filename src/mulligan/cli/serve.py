"""``mulligan serve``."""

from __future__ import annotations

import contextlib
import gc
import socket
from typing import Annotated

import typer

from mulligan import settings as settings_module
from mulligan.cli.console import err, fail
from mulligan.cli.options import DataDirOption
from mulligan.errors import ConfigError, VmExecutionError
from mulligan.settings import Settings, is_loopback


def serve(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port; 0 for any free one.")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve the HTTP API, on http://127.0.0.1:8080 by default."""
    try:
        settings = settings_module.load(host=host, port=port, data_dir=data_dir)
        _check_guarded(settings)
        listener = _listen(settings)
        with listener:
            _serve(settings, listener)
    except VmExecutionError as error:
        fail(error)


def _serve(settings: Settings, listener: socket.socket) -> None:
    from mulligan import log
    from mulligan.engine.lock import DirectoryLock
    from mulligan.server.app import create_app
    from mulligan.server.descriptors import raise_limit
    from mulligan.server.serving import Server

    log.to_stderr(settings.log_level)
    raise_limit()
    address, port = listener.getsockname()[:2]
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
    app = create_app(settings, DirectoryLock(settings.data_dir, url))
    where = f"Mulligan serves {url} (data in {settings.data_dir}); Ctrl-C stops it"

    def started() -> None:
        gc.freeze()  # what is loaded stays: looking through it again stops every request meanwhile
        err.print(where)

    server = Server(app, started)
    # uvicorn's ways to end after an interrupt and after a failed start
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets=[listener])
    failure = getattr(app.state, "failure", None)
    if failure is not None:
        raise failure
    if not server.has_served:
        raise ConfigError("the server could not start; see the lines above")


def _check_guarded(settings: Settings) -> None:
    """Only this machine is let in as long as nobody can be asked who they are."""
    if is_loopback(settings.host):
        return
    from mulligan.history.tokens import open_tokens
    from mulligan.models import utc_now

    directory = settings.data_dir / "history"
    good = False
    if settings.database_url is not None or (directory / "history.db").exists():
        with open_tokens(directory, url=settings.database_url) as tokens:
            good = any(token.state(utc_now()) == "good" for token in tokens.list())
    if not good:
        raise ConfigError(
            f"refusing to listen on {settings.host}: there is no access token, so anybody who "
            "reaches the port could run code",
            field="host",
            remedy="make one with: mulligan token create --admin (or --agent NAME), with the same "
            "data directory; or listen on 127.0.0.1",
        )


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port)[0][0]
        # The protocol is named, or asyncio would not switch Nagle's algorithm off.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
            field="port",
            remedy="stop what uses the port, or choose another with --port",
        ) from None
    return listener
