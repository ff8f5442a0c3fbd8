"""Machines of one VM that are being ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mulligan.drivers.interface import Machine
from mulligan.errors import ExecutionFailed
from mulligan.log import get_logger

log = get_logger()


class Endings:
    """Ends machines, whether anybody waits for it or not.

    Args:
        ended: called with each when nothing of it is left, or it would not end.
        first: awaited before each is ended.
    """

    def __init__(
        self, ended: Callable[[], None], first: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._ended = ended
        self._first = first
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, vm_id: str, machine: Machine) -> asyncio.Task[None]:
        """Has a machine ended; the task ends with it."""
        task = asyncio.create_task(self._stop(vm_id, machine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _stop(self, vm_id: str, machine: Machine) -> None:
        try:
            if self._first is not None:
                await self._first()
            await machine.stop()
        except (OSError, ExecutionFailed) as error:
            log.error(  # noqa: TRY400  (where from is no news)
                "vm_not_ended", vm_id=vm_id, pid=machine.pid, error=str(error)
            )
        finally:
            self._ended()

    async def wait(self) -> None:
        """Returns when none is being ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
