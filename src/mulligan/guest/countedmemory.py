"""Programs that the VM's own Linux has ended for want of memory, told to the host.

In a microVM nobody but its kernel ends them, and nobody but its kernel knows: ``oom_kill`` of
/proc/vmstat (mm/oom_kill.c) is how many processes it was, counted before they are signalled.
"""

from __future__ import annotations

from mulligan.guest import frames
from mulligan.guest.memory import Memory

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

_COUNTED = b"oom_kill "


class CountedMemory(Memory):
    """Looks how many there are when a program has ended; it ends none itself.

    Args:
        running, programs, send: as for ``Memory``.
    """

    def __init__(
        self,
        running: Callable[[], bool],
        programs: Callable[[], list[int]],
        send: Callable[[int, int, dict[str, object]], None],
    ) -> None:
        super().__init__(0, running, programs, send)
        self._told = counted()

    def tell(self) -> None:
        """See ``Memory``."""
        now = counted()
        if now > self._told:
            self._send(frames.MEMORY, 0, {"ended": now - self._told})
        self._told = now


def counted() -> int:
    """How many processes the kernel has ended for want of memory since it booted.

    Raises:
        ValueError: this kernel does not say.
    """
    with open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(_COUNTED):
                return int(line.split()[1])
    raise ValueError("/proc/vmstat does not say how many processes were ended")
