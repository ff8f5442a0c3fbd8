"""What a VM leaves to do for later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Background:
    """Does in threads what nobody has to wait for.

    Args:
        failed: told of errors.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Future[None]] = set()

    def do(self, work: Callable[..., None], *arguments: object) -> None:
        """Has it done; ``wait`` waits for it."""
        task = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def wait(self) -> None:
        """Until all of it is done."""
        if self._tasks:
            await asyncio.wait(self._tasks)
