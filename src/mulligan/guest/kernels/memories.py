"""What is kept of a kernel's memory at a snapshot: a frozen process, or a text."""

from __future__ import annotations

import os
from _signal import SIGCONT, SIGKILL, SIGSTOP

from mulligan.guest import processes
from mulligan.guest.kernels.links import PacketLink

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from mulligan.guest.kernels.live import CellFiles, Live


class Memory:
    """Memory of one kernel at one snapshot."""

    def __init__(self, language: str, cell_program: str) -> None:
        self.language = language
        self.program = cell_program
        self.notes: list[str] = []

    def close(self) -> None:
        """Lets go of it, and ends what waits for it."""


class Frozen(Memory):
    """A process forked from the kernel, which forks a live one whenever it is revived.

    It is stopped while it waits: whatever a program made of it, it does nothing unasked.
    """

    def __init__(self, language: str, program: str, live: Live) -> None:
        super().__init__(language, program)
        self.link = PacketLink()
        self.namespace = live.namespace
        self.files: CellFiles = live.files
        self.pid = 0
        self.listen: Callable[[], None] = lambda: None

    def owns(self, pid: int) -> bool:
        """Whether a process is one of its kernel's, as only those are stopped, moved and ended."""
        return bool(self.namespace) and processes.mounts_of(pid) == self.namespace

    def stop(self) -> None:
        """Has it stand still."""
        processes.send_member(self.pid, self.namespace, SIGSTOP)

    def revive(self, live: Live) -> None:
        """Has it go on as ``live``; a fork takes its place, and says so with its number.

        Raises:
            LinkError: it is gone.
        """
        processes.send_member(self.pid, self.namespace, SIGCONT)
        self.pid = 0
        self.link.send("revive", [live.link.theirs.fileno(), *live.inner])

    def close(self) -> None:
        """See ``Memory.close``."""
        self.link.close()
        if self.pid:
            processes.send_member(self.pid, self.namespace, SIGKILL)
            self.pid = 0


class Text(Memory):
    """Commands that bring a fresh shell to the same state; held outside the agent's own heap."""

    def __init__(self, language: str, program: str, text: bytes) -> None:
        super().__init__(language, program)
        self._memory = os.memfd_create("state", os.MFD_CLOEXEC)
        os.write(self._memory, text)

    def text(self) -> bytes:
        """The commands."""
        return os.pread(self._memory, os.fstat(self._memory).st_size, 0)

    def close(self) -> None:
        """See ``Memory.close``."""
        os.close(self._memory)
