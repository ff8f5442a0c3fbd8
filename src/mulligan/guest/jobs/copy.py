"""Copies a live upper tree while its writers stand still."""

from __future__ import annotations

import errno
import os
import stat

from mulligan.guest.jobs.content import copy_content
from mulligan.guest.jobs.walk import OPEN_DIRECTORY, Cursor, beneath, open_file, xattrs

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy(source: str, target: str) -> dict[str, object]:
    """Makes ``target`` what ``source`` is: content, modes, times, attributes, links, whiteouts.

    Sparse files stay sparse and names of one inode stay names of one inode. What overlayfs only
    noted down for itself is left out (see ``walk.MARKS``). Nothing is synced to disk.

    Raises:
        OSError: something could not be read or made; what was made is left.
        ValueError: ``target`` is not empty.
    """
    make_target(target)
    entries = 0
    with Cursor(source, 2) as old, Cursor(target, 2) as new, Copier(new.fd) as copier:
        pending = [_fill(old, new, copier)]
        while pending:
            if pending[-1]:
                name = pending[-1].pop()
                old.enter(name)
                os.mkdir(name, 0o700, dir_fd=new.fd)
                new.enter(name)
                pending.append(_fill(old, new, copier))
                entries += 1
                continue
            pending.pop()
            if not pending:
                copier.close()
            finish_directory(old.fd, new.fd, xattrs(old.fd, marks=True))
            if pending:
                old.leave()
                new.leave()
        return {"entries": entries + copier.made}


def _fill(old: Cursor, new: Cursor, copier: Copier) -> list[str]:
    """Copies all of a directory but the directories in it, whose names it returns."""
    directories = []
    with os.scandir(old.fd) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                copier.copy(old.fd, entry.name, new.fd)
    return directories


def make_target(path: str) -> None:
    """Makes a directory to build a tree in, or takes an empty one.

    Raises:
        ValueError: it is there and holds something.
        OSError: it cannot be made, or is no directory.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        descriptor = os.open(path, OPEN_DIRECTORY)
        try:
            if os.listdir(descriptor):
                raise ValueError(f"target {path!r} is not empty") from None
        finally:
            os.close(descriptor)


def finish_directory(source: int, target: int, attributes: dict[str, bytes]) -> None:
    """Gives a directory that is filled the attributes stated, and all else that another has.

    Last of all, as filling it changes its time, and entries made in it would take on its lists.
    """
    status = os.fstat(source)
    _give(status, target)
    for name, value in attributes.items():
        os.setxattr(target, name, value)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _give(status: os.stat_result, place: int | str, directory: int | None = None) -> None:
    """Gives what is new its owner; in a VM there is but one, and nothing to do."""
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        follow = isinstance(place, int)
        os.chown(place, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=follow)


class Copier:
    """Copies entries into one tree, and sees to it that names which shared an inode do again.

    The first copy of an inode with several names is kept in a directory at the top of the tree,
    to be linked from wherever the next name turns up: no path reaches into a deep tree, and no
    number of descriptors would do. The directory goes with the copier.
    """

    def __init__(self, top: int) -> None:
        self._top = os.dup(top)
        self._shelf: int | None = None
        self._shelf_name = ""
        self._kept: dict[tuple[int, int], list[int]] = {}  # inode → [number on the shelf, names]
        self._next = 0
        self.made = 0

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the shelf away; the tree holds nothing of the copier then."""
        if self._shelf is not None:
            for number, _ in self._kept.values():
                os.unlink(str(number), dir_fd=self._shelf)
            os.close(self._shelf)
            os.rmdir(self._shelf_name, dir_fd=self._top)
            self._kept.clear()
            self._shelf = None
        if self._top >= 0:
            os.close(self._top)
            self._top = -1

    def copy(self, source: int, name: str, target: int) -> None:
        """Copies an entry that is no directory from one open directory into another.

        Raises:
            OSError: it could not be, or is a device.
        """
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        shared = status.st_nlink > 1
        if not shared or not self._link(status, target, name):
            _make(source, name, status, target)
            if shared:
                self._keep(status, target, name)
        self.made += 1

    def _link(self, status: os.stat_result, target: int, name: str) -> bool:
        """Links a name to a copy that was made before; false where it must be made (again)."""
        inode = status.st_dev, status.st_ino
        kept = self._kept.get(inode)
        if kept is None:
            return False
        number = str(kept[0])
        done = link(self._shelf, number, target, name)
        kept[1] += 1
        if not done or kept[1] == status.st_nlink:
            os.unlink(number, dir_fd=self._shelf)
            del self._kept[inode]
        return done

    def _keep(self, status: os.stat_result, target: int, name: str) -> None:
        if self._shelf is None:
            self._shelf_name = f".mulligan-{os.urandom(16).hex()}"
            os.mkdir(self._shelf_name, 0o700, dir_fd=self._top)
            self._shelf = os.open(self._shelf_name, OPEN_DIRECTORY, dir_fd=self._top)
        self._next += 1
        if link(target, name, self._shelf, str(self._next)):
            self._kept[status.st_dev, status.st_ino] = [self._next, 1]


def link(source: int | None, name: str, target: int, new_name: str) -> bool:
    """Links an entry, itself where it is a symbolic link; false where it has too many names."""
    try:
        os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EMLINK:
            return False
        raise
    return True


def _make(source: int, name: str, status: os.stat_result, target: int) -> None:
    """Makes the first copy of an inode."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        _make_file(source, name, target)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        _give(status, name, target)
    elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
        os.mknod(name, kind | 0o600, dir_fd=target)
        _give(status, name, target)
        for attribute, value in xattrs(beneath(source, name)).items():
            os.setxattr(beneath(target, name), attribute, value, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    elif kind == stat.S_IFCHR and status.st_rdev == 0:
        make_whiteout(target, name)
        return
    else:
        raise OSError(errno.EPERM, "a device cannot be copied", name)
    times = status.st_atime_ns, status.st_mtime_ns
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def make_whiteout(target: int, name: str) -> None:
    """Makes an entry that hides what is below; unlike other devices anybody may (mknod(2))."""
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)


def _make_file(source: int, name: str, target: int) -> None:
    old = open_file(source, name)
    try:
        status = os.fstat(old)
        new = os.open(name, _NEW_FILE, 0o600, dir_fd=target)
        try:
            copy_content(old, new, status)
            _give(status, new)
            for attribute, value in xattrs(old, marks=True).items():
                os.setxattr(new, attribute, value)
            os.chmod(new, stat.S_IMODE(status.st_mode))  # after all that takes set-id bits away
            os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(new)
    finally:
        os.close(old)
