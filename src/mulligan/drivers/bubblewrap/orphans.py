"""Ends what a server that was killed left of VMs; standard library only.

VMs die with their server, but for a moment: bubblewrap's child is not yet tied to its parent while
it waits for its user to be set up, and one that was orphaned then waits for ever. Who is left is
found by its command line, which names the data directory.

Run as a program it is what ``sentinel.py`` starts when the server is gone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

BWRAP = "MULLIGAN_SENTINEL_BWRAP"
DIRECTORY = "MULLIGAN_SENTINEL_DIRECTORY"
LOOKS = 8
PAUSE_S = 0.05


def layers_of(directory: Path) -> bytes:
    """What an argument of every VM of a data directory begins with."""
    return os.fsencode(f"{directory}/layers/")


def end_all(bwrap: Path, directory: Path) -> list[int]:
    """Ends every process of bubblewrap for VMs of a data directory, and returns their numbers."""
    return [pid for pid in _found(bwrap, directory) if _end(pid, bwrap, directory)]


def end_orphans(bwrap: Path, directory: Path, reaper: int) -> list[int]:
    """The same, but for those that have a living server.

    Args:
        bwrap: the bubblewrap executable VMs are started with.
        directory: the data directory.
        reaper: who is the parent of orphans here.
    """
    ended = []
    found = set(_found(bwrap, directory))
    for pid in found:
        parent = _parent(pid)
        while parent in found:
            parent = _parent(parent)
        if parent == reaper and _end(pid, bwrap, directory):
            ended.append(pid)
    return ended


def _found(bwrap: Path, directory: Path) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _is_one(int(process.name), bwrap, directory):
            yield int(process.name)


def _is_one(pid: int, bwrap: Path, directory: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended
    layers = layers_of(directory)
    return arguments[0] == os.fsencode(bwrap) and any(each.startswith(layers) for each in arguments)


def _parent(pid: int) -> int:
    """The number of a process's parent; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])


def _end(pid: int, bwrap: Path, directory: Path) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _is_one(pid, bwrap, directory):
            return False  # the number is another's by now
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def main() -> None:
    """Looks for orphans until for a moment there was no new one, and ends them.

    Whoever is started by the server when it ends may come after the first look.
    """
    bwrap, directory = Path(os.environ[BWRAP]), Path(os.environ[DIRECTORY])
    reaper = os.getppid()  # the server was our parent, too
    left = LOOKS
    while left:
        left = LOOKS if end_orphans(bwrap, directory, reaper) else left - 1
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
