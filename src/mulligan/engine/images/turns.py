"""Whose turn it is to make an image, and work that is not to be left half way."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from mulligan.errors import ExecutionFailed

LOOK_S = 0.2
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def finished(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Does something in a thread and waits for its end, also where this is cancelled.

    What it works on would be removed under it otherwise.
    """
    task = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody else will ask
        raise


@contextmanager
def alone(
    directory: Path, progress: Callable[[str], None], stopped: Callable[[], bool]
) -> Iterator[None]:
    """Waits until nobody else makes an image in a data directory, and keeps others waiting."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        waiting = False
        while not _locked(descriptor):
            if stopped():
                raise ExecutionFailed("it was stopped before its turn came")
            if not waiting:
                progress("waiting for another image to be made")
            waiting = True
            time.sleep(LOOK_S)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
