"""Where a guest's kernel complains: a pipe that takes so much and no more.

QEMU waits for nobody here: what does not fit is dropped.
"""

from __future__ import annotations

import contextlib
import os

LIMIT = 64 * 1024
SHOWN = 4096
MOST_COMPLAINT = 300


class Console:
    """Open until it is closed.

    Attributes:
        descriptor: the end QEMU writes to.
    """

    def __init__(self) -> None:
        self._pipe, self.descriptor = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._heard = b""

    def said(self) -> str:
        """The last of what was said."""
        with contextlib.suppress(BlockingIOError):
            self._heard = (self._heard + os.read(self._pipe, LIMIT))[-SHOWN:]
        return self._heard.decode(errors="replace").strip()

    def complaint(self) -> str:
        """The last line of a program's, else of the kernel's, which says much of itself."""
        lines = self.said().splitlines()
        by_programs = [line for line in lines if not line.startswith("[")]
        return (by_programs or lines or [""])[-1][:MOST_COMPLAINT]

    def close(self) -> None:
        """Lets go of it; call it once."""
        os.close(self.descriptor)
        os.close(self._pipe)
