"""Files a Python kernel has open, let go of and opened again. Runs beside ``runner``.

An open file holds the root it was opened in: the VM could not leave that one, and would read and
write what is not its disk any more. By path and position it is the same file again, on the disk as
it is then.
"""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISREG

_NOT_AGAIN = os.O_CREAT | os.O_EXCL | os.O_TRUNC


class File:
    """An open file, as it can be opened again."""

    def __init__(self, number: int, path: str, flags: int, position: int) -> None:
        self.number = number
        self.path = path
        self.flags = flags
        self.position = position

    def release(self, nowhere: int) -> None:
        """Puts another descriptor in its place."""
        os.dup2(nowhere, self.number, inheritable=not self.flags & os.O_CLOEXEC)

    def take_up(self) -> None:
        """Opens it again.

        Raises:
            OSError: it is not there any more, or not in that way.
        """
        opened = os.open(self.path, self.flags & ~_NOT_AGAIN)
        try:
            if S_ISREG(os.fstat(opened).st_mode) and not self.flags & os.O_PATH:
                os.lseek(opened, self.position, os.SEEK_SET)
            os.dup2(opened, self.number, inheritable=not self.flags & os.O_CLOEXEC)
        finally:
            os.close(opened)


def on_the_disk(own: set[int]) -> list[File]:
    """The files of the present root this process has open, but those in ``own``.

    What cannot be opened again (it was deleted, replaced, or made unreadable) is not among them.
    """
    root = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    try:
        mount = _info(root)["mnt_id"]
        names = [int(name) for name in os.listdir("/proc/self/fd")]
        found = (_file(n, mount) for n in sorted(names) if n not in own and n != root)
        return [each for each in found if each is not None]
    finally:
        os.close(root)


def _file(number: int, mount: str) -> File | None:
    try:
        info = _info(number)
        if info["mnt_id"] != mount:
            return None
        status, path = os.fstat(number), os.readlink(f"/proc/self/fd/{number}")
        if not (S_ISREG(status.st_mode) or S_ISDIR(status.st_mode)):
            return None
        if not os.path.samestat(status, os.stat(path)):
            return None
        flags = int(info["flags"], 8)
        os.close(os.open(path, flags & ~_NOT_AGAIN))  # its mode may have been changed since
    except OSError:
        return None
    return File(number, path, flags, int(info["pos"]))


def _info(number: int) -> dict[str, str]:
    """What proc_pid_fdinfo(5) says of a descriptor."""
    with open(f"/proc/self/fdinfo/{number}", encoding="ascii", errors="replace") as file:
        lines = (line.split() for line in file)
        return {words[0].rstrip(":"): words[1] for words in lines if len(words) > 1}


def release(files: list[File]) -> None:
    """Lets go of files; they read as empty meanwhile."""
    if not files:
        return
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for each in files:
        each.release(nowhere)
    os.close(nowhere)


def take_up(files: list[File]) -> list[str]:
    """Opens files again; says of which that was not possible."""
    notes = []
    for each in files:
        try:
            each.take_up()
        except OSError as error:
            notes.append(f"file {each.path} was open and is not any more: {error.strerror}"[:200])
    return notes
