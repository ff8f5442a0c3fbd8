"""Waiting for one's turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mulligan.telemetry import Stage


@asynccontextmanager
async def queued(lock: asyncio.Lock, stage: str = "queue") -> AsyncIterator[None]:
    """Holds a lock; the time until it has it is a stage."""
    with Stage(stage):
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()
