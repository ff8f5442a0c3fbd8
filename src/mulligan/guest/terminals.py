"""Pseudo-terminals of programs: what flows through one, bounded both ways.

The agent has both ends open for as long as the execution lasts. So reading never fails because
every process happens to have closed the terminal, and what was written last is not lost.

Output is sent as far as the host has granted it (a window, as SSH's channels have one: RFC 4254,
5.2); then the terminal is not read on, and whoever writes to it waits. Input the terminal has taken
is told to the host, which sends no more than it keeps in flight.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from mulligan.guest import processes
from mulligan.guest.captures import CHUNK, Capture
from mulligan.guest.frames import LAST_WORDS

HANGUP_S = 0.25  # between the hang-up and the end of what does not end by itself
_SIZE = struct.Struct("=HHHH")


class Terminal(Capture):
    """A pseudo-terminal: its output, as the capture of stdout, and ways to act on it.

    ``slave`` is the program's end, and ``credit`` the bytes that may be sent.

    Args:
        body: ``cols`` and ``rows``, and ``window``, the bytes of output that may be sent at first.

    Raises:
        OSError: there is none to be had.
    """

    __slots__ = ("credit", "slave")

    def __init__(self, body: dict[str, int]) -> None:
        master, self.slave = os.openpty()
        super().__init__(master, 0)
        self.credit = body["window"]
        os.set_blocking(master, False)
        self.resize(body["cols"], body["rows"])

    def read(self) -> bytes | None:
        """See the base class. None once it was let go of."""
        if not self.credit:
            raise BlockingIOError
        chunk = os.read(self.descriptor, min(CHUNK, self.credit))
        self.credit -= len(chunk)
        self.total += len(chunk)
        self.passed = self.total
        return chunk or None

    def resize(self, cols: int, rows: int) -> None:
        """Sets the size; the kernel tells the foreground process group by SIGWINCH."""
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, _SIZE.pack(rows, cols, 0, 0))

    def signal(self, number: int) -> None:
        """Signals the foreground process group, whatever its input is."""
        group = os.tcgetpgrp(self.descriptor)
        if group > 1:  # not the agent's own
            processes.send([-group], number)

    def last_words(self) -> None:
        """It is over: what was written is sent, and nothing more will be."""
        self.credit += LAST_WORDS

    def let_go(self) -> None:
        """Closes the program's end. With the other one closed the kernel hangs up."""
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1


def control() -> None:
    """In a child that leads a session: makes its stdin, a terminal, the session's."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
