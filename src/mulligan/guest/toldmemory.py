"""A bound on the memory of a VM's programs where the VM's own kernel says what there is of it.

gVisor counts what it has given out: ``Active(anon)`` of its /proc/meminfo is the anonymous memory
and the files in memory of all processes, each page once (pkg/sentry/fsimpl/proc/tasks_files.go).
It has nobody who would end a program for it. So the agent looks, and ends the largest, one at a
time, until the rest fits. Around the VM there is the host's limit, which ends all of it.
"""

from __future__ import annotations

import time
from _signal import SIGKILL

from mulligan.guest import frames, processes
from mulligan.guest.memory import (
    BACKGROUND_S,
    FASTEST,
    KIB,
    LONGEST_S,
    SHORTEST_S,
    Memory,
    resident,
)

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

GOING_S = 0.05  # in which what was ended gives its memory back
_TOLD = b"Active(anon):"


class ToldMemory(Memory):
    """Watches the memory of all programs together, by what the kernel says of it.

    What there is when it begins, the agent and its zygote, is not the programs'.

    Args:
        limit, running, programs, send: as for ``Memory``.
    """

    def __init__(
        self,
        limit: int,
        running: Callable[[], bool],
        programs: Callable[[], list[int]],
        send: Callable[[int, int, dict[str, object]], None],
    ) -> None:
        super().__init__(limit, running, programs, send)
        self._before = told()

    def on_time(self) -> None:
        """See ``Memory``."""
        if time.monotonic() < self._due:
            return
        running = self._running()
        left = self._limit + self._before - told()
        longest = LONGEST_S if running else BACKGROUND_S
        wait = max(SHORTEST_S, left / FASTEST)
        there = self._programs() if left < 0 or not running else []
        if not running and not there:
            self._due = float("inf")  # until the next program starts
            return
        if left < 0 and there:
            self._send(frames.MEMORY, 0, {"ended": 1})  # before how it ended
            processes.send([max(there, key=resident)], SIGKILL)
            wait = GOING_S
        self._due = time.monotonic() + min(longest, wait)


def told() -> int:
    """Bytes of memory that no file of a disk is behind, of all processes of the VM.

    Raises:
        ValueError: this kernel does not say.
    """
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith(_TOLD):
                return int(line.split()[1]) * KIB
    raise ValueError("/proc/meminfo does not say how much memory is in use")
