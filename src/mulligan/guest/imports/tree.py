"""The tree an image becomes, made entry by entry; links are followed inside of it and nowhere else.

No path is ever given to the kernel: each name is looked up in an open directory with O_NOFOLLOW,
and what a link says is walked by hand from the top of the tree, as if that were the root.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENOTDIR

from mulligan.guest.imports.bounds import MOST_DEPTH, MOST_NAME, MOST_PATH, RefusedError, shown
from mulligan.guest.jobs.walk import OPEN_DIRECTORY

MOST_LINKS = 40
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
Names = tuple[str, ...]


def names_of(path: str) -> Names:
    """The names on the way to an entry of an archive.

    Raises:
        RefusedError: it is no path in a tree.
    """
    if "\0" in path:
        raise RefusedError(f"an entry has a NUL in its name: {shown(path)}")
    if path.startswith("/"):
        raise RefusedError(f"an entry has an absolute path: {shown(path)}")
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    if ".." in names:
        raise RefusedError(f"an entry has .. in its path: {shown(path)}")
    if len(names) > MOST_DEPTH or len(os.fsencode(path)) > MOST_PATH:
        raise RefusedError(f"an entry lies too deep: {shown(path)}")
    if any(len(os.fsencode(name)) > MOST_NAME for name in names):
        raise RefusedError(f"an entry has a name of more than {MOST_NAME} bytes: {shown(path)}")
    return names


class Tree:
    """A tree that is made.

    Args:
        path: an existing directory.
    """

    def __init__(self, path: str) -> None:
        self.top = os.open(path, OPEN_DIRECTORY)
        self._known: Names = ()
        self._known_fd = os.dup(self.top)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._known_fd)
        os.close(self.top)

    def directory(self, names: Names, *, make: bool = True) -> int:
        """A directory; the descriptor is the tree's, and good until the next call.

        Args:
            names: on the way to it; links on it are followed inside the tree.
            make: whether what is missing is made.

        Raises:
            RefusedError: something that is no directory is in the way.
            FileNotFoundError: it is missing, and not to be made.
        """
        if names != self._known:
            found = self._walk(names, make=make)
            os.close(self._known_fd)
            self._known, self._known_fd = names, found
        return self._known_fd

    def _walk(self, names: Names, *, make: bool) -> int:
        """A descriptor of its own."""
        way = [os.dup(self.top)]
        left, links = list(reversed(names)), 0
        try:
            while left:
                name = left.pop()
                if name == "..":
                    if len(way) > 1:
                        os.close(way.pop())
                    continue
                try:
                    way.append(_enter(way[-1], name, make=make))
                except OSError as error:
                    if error.errno not in (ELOOP, ENOTDIR):
                        raise
                    links += 1
                    target = _target(way[-1], name, links, names)
                    if target.startswith("/"):
                        while len(way) > 1:
                            os.close(way.pop())
                    parts = [part for part in target.split("/") if part not in ("", ".")]
                    left += reversed(parts)
                if len(way) + len(left) > 2 * MOST_DEPTH:
                    raise RefusedError(f"an entry lies too deep: {shown('/'.join(names))}")
            return way.pop()
        finally:
            for descriptor in way:
                os.close(descriptor)

    def make_directory(self, names: Names, mode: int) -> None:
        """A directory as an archive has it; one that is there keeps what is in it."""
        if names:
            parent = self.directory(names[:-1])
            status = status_of(parent, names[-1])
            if status is not None and not stat.S_ISDIR(status.st_mode):
                self.remove(names)
                status = None
            parent = self.directory(names[:-1])
            if status is None:
                os.mkdir(names[-1], 0o700, dir_fd=parent)
            os.chmod(names[-1], mode | 0o700, dir_fd=parent)
        else:
            os.fchmod(self.top, mode | 0o700)

    def open_new(self, names: Names) -> int:
        """A new, empty file to write to, in place of what is there; the caller closes it."""
        self.remove(names)
        return os.open(names[-1], NEW_FILE, 0o600, dir_fd=self.directory(names[:-1]))

    def link(self, names: Names, target: str) -> None:
        """A symbolic link. What it says is the guest's business: nobody outside follows it."""
        if not target or "\0" in target or len(os.fsencode(target)) > MOST_PATH:
            raise RefusedError(f"a link leads nowhere: {shown('/'.join(names))}")
        self.remove(names)
        os.symlink(target, names[-1], dir_fd=self.directory(names[:-1]))

    def hard_link(self, names: Names, other: Names) -> None:
        """Another name of a file of the tree."""
        text = f"{shown('/'.join(names))} to {shown('/'.join(other))}"
        if not other:
            raise RefusedError(f"a hard link leads nowhere: {text}")
        source = os.dup(self._found(other[:-1], text))
        try:
            status = status_of(source, other[-1])
            if status is None or stat.S_ISDIR(status.st_mode):
                raise RefusedError(f"a hard link leads to no file of the image: {text}")
            if names == other:
                return
            self.remove(names)
            os.link(
                other[-1],
                names[-1],
                src_dir_fd=source,
                dst_dir_fd=self.directory(names[:-1]),
                follow_symlinks=False,
            )
        except FileNotFoundError:
            raise RefusedError(f"a hard link leads to itself: {text}") from None
        finally:
            os.close(source)

    def _found(self, names: Names, text: str) -> int:
        try:
            return self.directory(names, make=False)
        except FileNotFoundError:
            raise RefusedError(f"a hard link leads to no file of the image: {text}") from None

    def make_fifo(self, names: Names, mode: int) -> None:
        """A named pipe."""
        self.remove(names)
        os.mkfifo(names[-1], mode, dir_fd=self.directory(names[:-1]))

    def remove(self, names: Names) -> None:
        """Takes away what has a name, if anything has; a directory with all that is in it."""
        try:
            parent = self.directory(names[:-1], make=False)
        except FileNotFoundError:
            return
        status = status_of(parent, names[-1])
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(names[-1], dir_fd=parent)
        else:
            directory = os.open(names[-1], OPEN_DIRECTORY, dir_fd=parent)
            try:
                _empty(directory)
            finally:
                os.close(directory)
            os.rmdir(names[-1], dir_fd=parent)
        self._forget(names)

    def empty(self, names: Names) -> None:
        """Takes away all that is in a directory, if there is one."""
        try:
            _empty(self.directory(names, make=False))
        except FileNotFoundError:
            return
        self._forget(())

    def _forget(self, gone: Names) -> None:
        """The directory known may lie in what went, or behind a link that did."""
        if self._known[: len(gone)] == gone or len(self._known) > len(gone):
            os.close(self._known_fd)
            self._known, self._known_fd = (), os.dup(self.top)

    def find(self, path: str) -> tuple[int, str] | None:
        """Where a path leads in the tree, all links followed.

        Returns:
            A descriptor of its directory, good until the next call, and its name there; None where
            there is nothing.
        """
        names = tuple(name for name in path.split("/") if name not in ("", "."))
        for _ in range(MOST_LINKS):
            if not names:
                return None
            try:
                parent = self.directory(names[:-1], make=False)
            except (FileNotFoundError, RefusedError):
                return None
            status = status_of(parent, names[-1])
            if status is None:
                return None
            if not stat.S_ISLNK(status.st_mode):
                return parent, names[-1]
            target = os.readlink(names[-1], dir_fd=parent)
            base = () if target.startswith("/") else names[:-1]
            names = base + tuple(part for part in target.split("/") if part not in ("", "."))
            while names and names[-1] == "..":
                names = names[:-2]
        return None


def status_of(directory: int, name: str) -> os.stat_result | None:
    """lstat of an entry; None where there is none."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _enter(directory: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        if not make:
            raise
    os.mkdir(name, 0o755, dir_fd=directory)
    return os.open(name, OPEN_DIRECTORY, dir_fd=directory)


def _target(directory: int, name: str, links: int, names: Names) -> str:
    """What a link on the way says."""
    status = status_of(directory, name)
    if status is None or not stat.S_ISLNK(status.st_mode):
        raise RefusedError(f"an entry lies below a file: {shown('/'.join(names))}")
    if links > MOST_LINKS:
        raise RefusedError(f"links lead in a circle: {shown('/'.join(names))}")
    return os.readlink(name, dir_fd=directory)


def _empty(directory: int) -> None:
    """Removes all entries of a directory; a tree is no deeper than ``Tree`` makes it."""
    with os.scandir(directory) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_directory in entries:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        inner = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
        try:
            _empty(inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=directory)
