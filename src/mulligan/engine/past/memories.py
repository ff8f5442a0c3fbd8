"""What memory that is kept takes on disk: that of VMs, and that beside their snapshots.

Unlike layers it is counted anew each time: it is a few files, and comes and goes by itself. Forks
have links to the files they came from, so each is counted once.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from mulligan.engine.past.moments import DIRECTORY as MOMENTS
from mulligan.engine.vms.kept import DIRECTORY as MEMORY
from mulligan.engine.vms.vm import Vm

BLOCK = 512  # what st_blocks counts in
MOST_FILES = 1000  # of one memory; drivers write a handful
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
File = tuple[int, int]  # device and inode


class Memories:
    """The memory that VMs of one agent and their snapshots have kept.

    Args:
        files: the bytes of each file, by the id of the VM or snapshot whose memory it is.
    """

    def __init__(self, files: dict[str, dict[File, int]]) -> None:
        self._files = files
        self._holders = Counter(file for held in files.values() for file in held)

    def all(self) -> int:
        """Bytes of all of it."""
        return self.together(self._files)

    def together(self, holders: Iterable[str]) -> int:
        """Bytes that some VMs and snapshots have."""
        return sum(self._held(holders).values())

    def alone(self, holders: Iterable[str]) -> int:
        """Bytes that none but some VMs and snapshots has."""
        chosen = list(holders)
        inside = Counter(file for each in chosen for file in self._files.get(each, ()))
        held = self._held(chosen)
        return sum(held[file] for file, count in inside.items() if count == self._holders[file])

    def _held(self, holders: Iterable[str]) -> dict[File, int]:
        found: dict[File, int] = {}
        for each in holders:
            found |= self._files.get(each, {})
        return found


def memories_of(vms: Iterable[Vm]) -> Memories:
    """What some VMs have kept; blocks, as it reads directories."""
    files: dict[str, dict[File, int]] = {}
    for vm in vms:
        place = os.fspath(vm.stores.vms.disk(vm.record.id).parent)
        with contextlib.suppress(OSError), _opened(place) as own:
            found = _bytes_of(own, MEMORY)
            if found:
                files[vm.record.id] = found
            with (
                contextlib.suppress(OSError),
                _opened(MOMENTS, own) as moments,
                os.scandir(moments) as entries,
            ):
                for entry in entries:
                    if not entry.name.startswith("."):  # a disk on its way to where it is needed
                        files[entry.name] = _bytes_of(moments, entry.name)
    return Memories(files)


@contextlib.contextmanager
def _opened(path: str, at: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, _DIRECTORY, dir_fd=at)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _bytes_of(at: int, name: str, depth: int = 2) -> dict[File, int]:
    """The files in a directory, and in directories in it; a link is none, and not followed."""
    found: dict[File, int] = {}
    with (
        contextlib.suppress(OSError),  # it went meanwhile
        _opened(name, at) as directory,
        os.scandir(directory) as entries,
    ):
        for entry in islice(entries, MOST_FILES):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                found[status.st_dev, status.st_ino] = status.st_blocks * BLOCK
            elif stat.S_ISDIR(status.st_mode) and depth > 1:
                found |= _bytes_of(directory, entry.name, depth - 1)
    return found
