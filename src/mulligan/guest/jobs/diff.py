"""What differs between two stacks of trees, as programs would see it."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from mulligan.guest.jobs import text
from mulligan.guest.jobs.content import equal
from mulligan.guest.jobs.walk import Cursor, beneath, open_file, xattrs

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator

    Entry = dict[str, object]

# A file is looked into for text up to this many times as long as its diff may be.
_TEXT_FACTOR = 4
_GLANCE = 8192
# Paths of a deep tree are long, and each begins with all of the one before.
_MOST_PATHS = 64 * 1024 * 1024

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class Limits:
    """Bounds of an answer: bytes of one text diff, bytes of all of them, entries."""

    __slots__ = ("entries", "text", "total")

    def __init__(self, *, text: int, total: int, entries: int) -> None:
        self.text = text
        self.total = total
        self.entries = entries


def diff(old: list[str], new: list[str], limits: Limits) -> Iterator[Entry]:
    """Compares two stacks of trees, each newest first and down to the image.

    Only what the two do not share is walked: where the same trees lie at the bottom of both,
    that is what lies above them, and what it hides. Two entries are the same that have kind,
    content, mode and attributes in common; times and inodes are no difference.

    Yields:
        The fields of ``models.DiffEntry``, in the order of paths; sizes of files and symbolic
        links alone. Then ``end``, with ``truncated`` where entries or, once there were
        ``limits.total`` of them, text diffs are missing. Bytes of a path that are no UTF-8
        are written as ``\\xff``.

    Raises:
        OSError: something could not be read.
    """
    paths = [os.path.normpath(path) for path in (*old, *new)]
    with ExitStack() as stack:
        cursors = {
            path: stack.enter_context(Cursor(path, len(set(paths))))
            for path in dict.fromkeys(paths)
        }
        stacks = [cursors[path] for path in paths]
        comparison = _Comparison(limits)
        comparison.run(stacks[: len(old)], stacks[len(old) :])
    yield from sorted(comparison.entries, key=lambda entry: str(entry["path"]))
    yield {"end": True, "truncated": comparison.truncated}


class _Node:
    """An entry as a stack shows it; ``trees`` are those it is made of: one, for a file."""

    __slots__ = ("status", "trees")

    def __init__(self, status: os.stat_result, trees: list[Cursor]) -> None:
        self.status = status
        self.trees = trees

    @property
    def directories(self) -> list[Cursor]:
        """The trees to go on into; none where this is no directory."""
        return self.trees if stat.S_ISDIR(self.status.st_mode) else []


class _Level:
    """A directory of both stacks, and what of it is still to be compared."""

    __slots__ = ("names", "new", "old")

    def __init__(self, old: list[Cursor], new: list[Cursor]) -> None:
        self.old = old
        self.new = new
        shared = 0
        while shared < min(len(old), len(new)) and old[-1 - shared] is new[-1 - shared]:
            shared += 1
        above = (*old[: len(old) - shared], *new[: len(new) - shared])
        names: set[str] = set()
        for tree in dict.fromkeys(above):
            names.update(os.listdir(tree.fd))
        self.names = sorted(names, reverse=True)

    @property
    def trees(self) -> Iterator[Cursor]:
        """Each tree that has this directory, once."""
        return iter(dict.fromkeys((*self.old, *self.new)))


def _find(trees: list[Cursor], name: str) -> _Node | None:
    """What a stack shows under a name."""
    node = None
    for tree in trees:
        status = tree.status(name)
        if status is None:
            continue
        if tree.hides(name, status):
            break
        if not stat.S_ISDIR(status.st_mode):
            return node or _Node(status, [tree])
        if node is None:
            node = _Node(status, [])
        node.trees.append(tree)
        if tree.is_opaque(name):
            break
    return node


class _Comparison:
    def __init__(self, limits: Limits) -> None:
        self.entries: list[Entry] = []
        self.truncated = False
        self._limits = limits
        self._texts = limits.total
        self._paths = _MOST_PATHS
        self._effort = text.Effort()
        self._parts: list[str] = []
        self._full = False

    def run(self, old: list[Cursor], new: list[Cursor]) -> None:
        """Compares from the tops on, which are directories whatever happens."""
        if old and new and (old[0] is not new[0]):
            tops = _Node(os.fstat(old[0].fd), old), _Node(os.fstat(new[0].fd), new)
            if _differ(*tops, ""):
                self._add(*tops, None)
        levels = [_Level(old, new)]
        while not self._full:
            if levels[-1].names:
                name = levels[-1].names.pop()
                self._parts.append(name)
                below = self._compare(levels[-1], name)
                if below:
                    levels.append(below)
                else:
                    self._parts.pop()
                continue
            left = levels.pop()
            if not levels:
                return
            self._parts.pop()
            for tree in left.trees:
                tree.leave()

    def _compare(self, level: _Level, name: str) -> _Level | None:
        """Compares an entry; returns the level below it, entered, where it has to be looked at."""
        old, new = _find(level.old, name), _find(level.new, name)
        if old is None or new is None:
            if old or new:
                self._add(old, new, name)
        elif _differ(old, new, name):
            self._add(old, new, name)
        before, after = old.directories if old else [], new.directories if new else []
        if before == after:
            return None
        for tree in dict.fromkeys((*before, *after)):
            tree.enter(name)
        return _Level(before, after)

    def _add(self, old: _Node | None, new: _Node | None, name: str | None) -> None:
        """Notes a difference, unless there are too many."""
        path = "/" + os.fsencode("/".join(self._parts)).decode("utf-8", "backslashreplace")
        self._paths -= len(path)
        if len(self.entries) >= self._limits.entries or self._paths < 0:
            self.truncated = self._full = True
            return
        shown = new or old
        assert shown is not None
        self.entries.append(
            {
                "path": path,
                "change": "added" if old is None else "removed" if new is None else "changed",
                "kind": _KINDS.get(stat.S_IFMT(shown.status.st_mode), "device"),
                "old_size": _size(old),
                "new_size": _size(new),
                "old_mode": _mode(old),
                "new_mode": _mode(new),
                "text_diff": self._text_diff(old, new, name, path) if name is not None else None,
            }
        )

    def _text_diff(self, old: _Node | None, new: _Node | None, name: str, path: str) -> str | None:
        """The difference of two texts; None where one is no text, or there is none or no room."""
        if self._texts <= 0:
            self.truncated |= self._limits.total > 0
            return None
        most = self._limits.text * _TEXT_FACTOR
        before = _read(old, name, most) if old else None
        after = _read(new, name, most) if new else None
        if (old and before is None) or (new and after is None):
            return None
        difference = text.unified(before, after, path, self._limits.text, self._effort)
        self._texts -= len(difference.encode())
        if self._texts < 0:
            self.truncated = True
            return None
        return difference or None


def _read(node: _Node, name: str, most: int) -> str | None:
    """The text in a file of no more than ``most`` bytes; None where it is longer, or no text."""
    if not stat.S_ISREG(node.status.st_mode) or node.status.st_size > most:
        return None
    descriptor = open_file(node.trees[0].fd, name)
    try:
        if b"\0" in os.pread(descriptor, _GLANCE, 0):
            return None
        return text.decode(os.pread(descriptor, most, 0))
    finally:
        os.close(descriptor)


def _differ(old: _Node, new: _Node, name: str) -> bool:
    """Whether two entries differ in themselves: directories not by what is in them."""
    before, after = old.status, new.status
    if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino):
        return False
    if before.st_mode != after.st_mode:
        return True
    kind = stat.S_IFMT(before.st_mode)
    if kind == stat.S_IFLNK:
        links = [os.readlink(name, dir_fd=node.trees[0].fd) for node in (old, new)]
        return links[0] != links[1]
    if before.st_rdev != after.st_rdev:
        return True
    if kind == stat.S_IFREG and not _same_content(old, new, name):
        return True
    attributes = [xattrs(beneath(node.trees[0].fd, name)) for node in (old, new)]
    return attributes[0] != attributes[1]


def _same_content(old: _Node, new: _Node, name: str) -> bool:
    if old.status.st_size != new.status.st_size:
        return False
    first = open_file(old.trees[0].fd, name)
    try:
        second = open_file(new.trees[0].fd, name)
        try:
            return equal(first, second, old.status.st_size)
        finally:
            os.close(second)
    finally:
        os.close(first)


def _size(node: _Node | None) -> int | None:
    if node and (stat.S_ISREG(node.status.st_mode) or stat.S_ISLNK(node.status.st_mode)):
        return node.status.st_size
    return None


def _mode(node: _Node | None) -> str | None:
    return f"{stat.S_IMODE(node.status.st_mode):04o}" if node else None
