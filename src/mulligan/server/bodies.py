"""Bodies that are taken as they come."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from fastapi import Request, Response

from mulligan.errors import FileTooLarge, VmExecutionError
from mulligan.server.answers import answer

BYTES = "application/octet-stream"
REQUEST_TIMEOUT = 408


def declared_size(request: Request) -> int | None:
    """How many bytes a body says it has."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() else None


class Body:
    """A body as it comes, and its digest. It is read once.

    Iterating raises a ClientDisconnect where it ends too early, and a TimeoutError where nothing
    comes for too long.

    Args:
        request: whose body it is.
        idle_s: for how long nothing may come.
        most: so many bytes are read for the digest alone, and no more.

    Attributes:
        size: how many bytes it says it has.
    """

    def __init__(self, request: Request, idle_s: float, most: int) -> None:
        self.size = declared_size(request)
        self._idle_s = idle_s
        self._most = most
        self._stream = aiter(request.stream())
        self._sum = hashlib.sha256()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        async with asyncio.timeout(self._idle_s):
            chunk = await anext(self._stream)
        self._sum.update(chunk)
        return chunk

    async def digest(self) -> str:
        """SHA-256 of all of it, in hex; what nobody has read yet is read for that.

        Raises:
            FileTooLarge: there is too much of it.
        """
        left = self._most
        async for chunk in self:
            left -= len(chunk)
            if left < 0:
                raise FileTooLarge(
                    f"the body is over {self._most} bytes",
                    field="body",
                    remedy="send what was sent with this Idempotency-Key before, or use a new one",
                )
        return self._sum.hexdigest()


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
