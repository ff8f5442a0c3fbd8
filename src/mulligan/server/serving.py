"""A server from its first signal of life to its last: it starts, serves, drains and stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from mulligan.engine.engine import Engine
from mulligan.server import mcp
from mulligan.server.starting import Door
from mulligan.server.terminals import MOST_MESSAGE
from mulligan.server.websockets import WebSockets

SHUTDOWN_TIMEOUT_S = 10


class Server(uvicorn.Server):
    """Serves an application on sockets that listen already.

    The first SIGTERM or SIGINT has it take no new work (503) and let executions end, for as long as
    ``admission.shutdown_seconds``; the second has it wait no longer. Then all VMs are stopped.

    Args:
        app: as ``create_app`` makes it.
        on_ready: called when it takes requests.
    """

    def __init__(self, app: FastAPI, on_ready: Callable[[], None]) -> None:
        self._app = app
        self._on_ready = on_ready
        self._door = Door(app, self._say, self._give_up)
        self._hurry = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                self._door,
                log_config=None,
                access_log=False,
                lifespan="on",
                ws=WebSockets,
                ws_max_size=MOST_MESSAGE,
                # What is short is not worth it, and it costs memory each.
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            )
        )
        # What is wrong is kept in the application's state; uvicorn would show where it was found.
        uvicorn_log = logging.getLogger("uvicorn.error")
        uvicorn_log.addFilter(lambda _: getattr(app.state, "failure", None) is None)

    @property
    def has_served(self) -> bool:
        """Whether it ever took requests."""
        return self._door.was_open

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn; called in the loop's thread, between any two of its instructions."""
        if self.should_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._hurry.set)
        super().handle_exit(sig, frame)
        self.force_exit = False  # it would leave the application without an end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        self._say()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; connections are taken until executions have ended, to be told so."""
        engine: Engine | None = getattr(self._app.state, "engine", None)
        if engine is not None:
            await engine.drain(self._hurry)
        await mcp.close(self._app)
        if engine is not None:
            await engine.close()
        await super().shutdown(sockets)

    def _say(self) -> None:
        if self.started and self._door.is_open:
            self._on_ready()

    def _give_up(self) -> None:
        self.should_exit = True
