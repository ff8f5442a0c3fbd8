"""How fast this processor's time stamp counter runs.

An emulated machine shows its guest the host's counter. A guest finds out how fast that is by
waiting for a timer, which a busy host serves too late: its kernel then gives the counter up and may
hang in its first moments. It is told instead (``tsc_early_khz`` of the kernel's parameters).
"""

from __future__ import annotations

import ctypes
import mmap
import time
from functools import cache

# rdtsc; shl $32, %rdx; or %rdx, %rax; ret
_READ = bytes((0x0F, 0x31, 0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0, 0xC3))
WAIT_S = 0.05
LOOKS = 5


@cache
def tsc_khz() -> int:
    """Its ticks in a millisecond; x86-64 alone.

    Raises:
        OSError: this process may not run what it has just written.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_READ)
    window = ctypes.c_char.from_buffer(page)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(window))
    first, start = _together(read)
    time.sleep(WAIT_S)
    last, end = _together(read)
    del window
    return round((last - first) * 1_000_000 / (end - start))


def _together(read: ctypes._CFunctionType) -> tuple[int, int]:
    """The counter and the monotonic clock, in nanoseconds, of one moment as near as can be had."""
    best: tuple[int, int, int] | None = None
    for _ in range(LOOKS):
        before = time.monotonic_ns()
        ticks = read()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, ticks, (before + after) // 2)
    assert best is not None
    return best[1], best[2]
