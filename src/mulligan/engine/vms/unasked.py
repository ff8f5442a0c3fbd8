"""What a VM's agent says without having been asked: little, or the VM is given up.

Late words of what has ended, and news of its disk, are a few frames a second. A flood of them would
take the server's time from all other VMs, for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mulligan.guest import frames

BURST = 1024 * 1024  # bytes at once
PER_SECOND = 256 * 1024
FRAME_COST = 64  # bytes a frame counts beside its payload


class Unasked:
    """A token bucket over the bytes of unasked frames.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(BURST)
        self._at = clock()

    def take(self, frame: frames.Frame) -> None:
        """Counts a frame nobody waits for.

        Raises:
            FrameError: there are too many.
        """
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._at) * PER_SECOND)
        self._at = now
        self._left -= len(frame.payload) + FRAME_COST
        if self._left < 0:
            raise frames.FrameError("it goes on saying what nobody asked for")
