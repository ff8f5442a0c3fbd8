"""How an engine stops: what runs has some time to end."""

from __future__ import annotations

import asyncio

from mulligan.engine.requests.admission import Admission


async def drained(admission: Admission, seconds: float, hurry: asyncio.Event | None) -> None:
    """Takes nothing more, and waits until every request has its answer, or the time is over.

    Args:
        admission: what has let requests in.
        seconds: how long to wait.
        hurry: set when there is no more time.
    """
    admission.stop()
    emptied = asyncio.create_task(admission.emptied())
    hurried = asyncio.create_task((hurry or asyncio.Event()).wait())
    try:
        await asyncio.wait({emptied, hurried}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        emptied.cancel()
        hurried.cancel()
        await asyncio.wait({emptied, hurried})
