"""Measuring a VM's disk, in a process of its own so that the agent goes on meanwhile."""

from __future__ import annotations

import os
import time
from _signal import SIGKILL

from mulligan.guest import processes

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import NoReturn

MOST_ANSWER = 65536
GLANCE_ENTRIES = 32
WRITER = 1 << 20  # who wrote less is not why the host's disk is full
BLOCK = 512  # what st_blocks counts in


class Measuring:
    """A count under way.

    Args:
        paths: directories to measure; the first is the one that is written to, and what was removed
            from it and is still open counts with it.
        names: what the caller calls them; kept, not used.
    """

    def __init__(self, paths: list[str], names: list[str]) -> None:
        self.names = names
        self._began = time.monotonic()
        self._over = False
        self._read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.pid = os.fork()
        except OSError:
            os.close(write)
            self.pid = 0  # and the answer will be none
            return
        if self.pid == 0:
            _count(paths, write)
        os.close(write)

    def result(self) -> list[int] | None:
        """Bytes of each directory; none where it could not be measured; None: not done yet."""
        try:
            said = os.read(self._read, MOST_ANSWER)
        except BlockingIOError:
            return None
        self._close()
        return [int(part) for part in said.split()]

    @property
    def took(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def abandon(self) -> None:
        """Ends it, if it has not ended."""
        if not self._over and self.pid:
            processes.send([self.pid], SIGKILL)
        self._close()

    def _close(self) -> None:
        if not self._over:
            self._over = True
            os.close(self._read)


def _count(paths: list[str], answer: int) -> NoReturn:
    """In the child."""
    try:
        from mulligan.guest import launch
        from mulligan.guest.jobs.size import size
        from mulligan.guest.removed import Removed

        launch.restore_signals()
        sizes = [int(str(size([path])["bytes"])) for path in paths]
        removed = Removed(paths[0])
        sizes[0] = max(sizes[0] + removed.size, WRITER if removed.in_flight else 0)
        os.write(answer, b" ".join(b"%d" % number for number in sizes))
    finally:
        os._exit(0)


def glance(path: str) -> int | None:
    """Bytes a directory takes that little was written to; None where counting takes longer.

    As ``jobs.size`` counts; 0 where there is nothing in it, which takes microseconds to see.
    """
    pending, seen = [path], 0
    try:
        total = os.stat(path).st_blocks
        while pending:
            here = pending.pop()
            with os.scandir(here) as entries:
                for entry in entries:
                    seen += 1
                    if seen > GLANCE_ENTRIES:
                        return None
                    status = entry.stat(follow_symlinks=False)
                    inside = entry.is_dir(follow_symlinks=False)
                    if status.st_nlink > 1 and status.st_blocks and not inside:
                        return None  # of several names, to be counted once
                    total += status.st_blocks
                    if inside:
                        pending.append(f"{here}/{entry.name}")
    except OSError:
        return None
    return total * BLOCK if seen else 0
