"""Files that were removed and are still open or mapped: on the disk, and in no directory.

They are found through the processes that hold them, in /proc. What is on its way from one process
to another in a Unix socket is not to be seen there, but that there is something is.
"""

from __future__ import annotations

import os
from errno import ENOSYS
from stat import S_ISREG, S_ISSOCK

from mulligan.guest import procfs

BLOCK = 512  # what st_blocks counts in
MOST_DESCRIPTORS = 100_000


class TooManyError(Exception):
    """There are more descriptors than are looked at."""


class Removed:
    """What processes hold of removed files of one file system.

    Args:
        disk: a directory in it.

    Attributes:
        size: bytes all of them take; of one that is only mapped, as much as is mapped of it.
        in_flight: whether descriptors are on their way in a socket.

    Raises:
        TooManyError: there are more descriptors than ``MOST_DESCRIPTORS``.
    """

    def __init__(self, disk: str) -> None:
        self._shape = _shape(disk)
        self._sizes: dict[tuple[int, int], int] = {}
        self._looked_at = 0
        self.in_flight = False
        for pid in procfs.everything():
            try:
                self._look_at(f"/proc/{pid}")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has just ended
        self.size = sum(self._sizes.values())

    def _look_at(self, process: str) -> None:
        for name in os.listdir(f"{process}/fd"):
            self._looked_at += 1
            if self._looked_at > MOST_DESCRIPTORS:
                raise TooManyError
            try:
                self._open(process, name)
            except (FileNotFoundError, ProcessLookupError):
                continue
        self._mapped(process)

    def _open(self, process: str, name: str) -> None:
        path = f"{process}/fd/{name}"
        status = os.stat(path)
        if S_ISSOCK(status.st_mode):
            self.in_flight = self.in_flight or _carries(f"{process}/fdinfo/{name}")
        elif S_ISREG(status.st_mode) and not status.st_nlink and _shape(path) == self._shape:
            self._sizes[status.st_dev, status.st_ino] = status.st_blocks * BLOCK

    def _mapped(self, process: str) -> None:
        """Adds what is mapped and not open; see proc_pid_maps(5)."""
        device = os.stat(f"{process}/root").st_dev
        here = f"{os.major(device):02x}:{os.minor(device):02x}"
        found: dict[int, int] = {}
        with open(f"{process}/maps", encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.endswith(" (deleted)\n"):
                    continue
                addresses, _, _, its, number, *_ = line.split(maxsplit=5)
                if its == here:
                    start, end = addresses.split("-")
                    length = int(end, 16) - int(start, 16)
                    found[int(number)] = found.get(int(number), 0) + length
        for inode, size in found.items():
            known = self._sizes.get((device, inode), 0)
            self._sizes[device, inode] = known or size


def _shape(path: str) -> tuple[int, int, int] | None:
    """What tells file systems apart, and an overlay not from the one it writes to.

    None for what has none of it: in gVisor, files that were handed in from outside.
    """
    try:
        found = os.statvfs(path)
    except OSError as error:
        if error.errno != ENOSYS:
            raise
        return None
    return found.f_frsize, found.f_blocks, found.f_files


def _carries(information: str) -> bool:
    """Whether descriptors wait in a socket to be received; since Linux 5.18 /proc says so."""
    with open(information, encoding="ascii", errors="replace") as file:
        return any(line.startswith("scm_fds:") and int(line.split()[1]) > 0 for line in file)
