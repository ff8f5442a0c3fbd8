"""Waiting for one's turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mulligan.telemetry import Stage


@asynccontextmanager
async def queued(lock: asyncio.Lock) -> AsyncIterator[float]:
    """Holds a lock, and gives the seconds until it had it, which are a stage."""
    begin = time.monotonic()
    with Stage("queue"):
        await lock.acquire()
    try:
        yield time.monotonic() - begin
    finally:
        lock.release()
