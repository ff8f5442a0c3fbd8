"""Bodies that are taken as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from fastapi import Request, Response

from mulligan.errors import VmExecutionError
from mulligan.server.answers import answer

BYTES = "application/octet-stream"
REQUEST_TIMEOUT = 408


def declared_size(request: Request) -> int | None:
    """How many bytes a body says it has."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() else None


async def chunks(request: Request, idle_s: float) -> AsyncGenerator[bytes, None]:
    """A body as it comes.

    Raises:
        ClientDisconnect: it ended too early.
        TimeoutError: nothing came for too long.
    """
    body = aiter(request.stream())
    while True:
        async with asyncio.timeout(idle_s):
            chunk = await anext(body, None)
        if chunk is None:
            return
        yield chunk


def too_slow(kind: type[VmExecutionError], idle_s: float) -> Response:
    """The answer to a body that stopped coming."""
    error = kind(
        f"nothing of the body came for {idle_s:g} s; nothing of it was kept",
        field="body",
        remedy="send it again, or raise files.idle_seconds",
    )
    response = answer(error, status=REQUEST_TIMEOUT)
    response.headers["connection"] = "close"
    return response
