"""Squashes a stack of trees into one that does the same, by linking: data is not read."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from mulligan.guest.jobs.copy import Copier, finish_directory, link, make_target, make_whiteout
from mulligan.guest.jobs.walk import OPAQUE, ORIGIN, Cursor, xattrs

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator


def merge(trees: list[str], target: str) -> dict[str, object]:
    """Makes in ``target`` a tree that stands for a stack, whatever that is mounted over.

    Below the oldest tree there is always an image. So what hides it, whiteouts and opaque
    directories, is kept, except where a directory above hides it already. A directory with
    whiteouts is marked: where the stack below turns out not to have it, the kernel would not look
    for them, and list them as files.

    Files are names of the same inodes as in the trees, which therefore must be on one file
    system, and must not be written any more. Directories are made anew, with mode, owner, times
    and attributes of the newest tree that has them. Costs as much as there are entries.

    Args:
        trees: newest first.

    Raises:
        OSError: something could not be read or made; what was made is left.
        ValueError: ``target`` is not empty.
    """
    make_target(target)
    with ExitStack() as stack:
        cursors = [stack.enter_context(Cursor(tree, len(trees) + 1)) for tree in trees]
        new = stack.enter_context(Cursor(target, len(trees) + 1))
        copier = stack.enter_context(Copier(new.fd))
        return _Merge(new, copier).run(_Place("", cursors, closed=False, opaque=False))


class _Place:
    """A directory: the trees that have it, and whether anything below them shows in it.

    ``opaque`` is set where that has to be written down, ``closed`` also where it follows from
    a directory above. ``whiteouts`` tells that it got some.
    """

    __slots__ = ("closed", "name", "opaque", "trees", "whiteouts")

    def __init__(self, name: str, trees: list[Cursor], *, closed: bool, opaque: bool) -> None:
        self.name = name
        self.trees = trees
        self.closed = closed
        self.opaque = opaque
        self.whiteouts = False


class _Merge:
    def __init__(self, new: Cursor, copier: Copier) -> None:
        self._new = new
        self._copier = copier
        self._entries = 0

    def run(self, top: _Place) -> dict[str, object]:
        path = [top]
        pending = [self._fill(top)]
        while path:
            place = next(pending[-1], None)
            if place is not None:
                for tree in place.trees:
                    tree.enter(place.name)
                os.mkdir(place.name, 0o700, dir_fd=self._new.fd)
                self._new.enter(place.name)
                path.append(place)
                pending.append(self._fill(place))
                self._entries += 1
                continue
            pending.pop()
            self._finish(path.pop(), last=not path)
        return {"entries": self._entries, "copied": self._copier.made}

    def _finish(self, place: _Place, *, last: bool) -> None:
        if last:
            self._copier.close()
        newest = place.trees[0].fd
        attributes = xattrs(newest)
        if place.opaque:
            attributes[OPAQUE] = b"y"
        if place.whiteouts:
            attributes[ORIGIN] = b""
        finish_directory(newest, self._new.fd, attributes)
        if not last:
            for cursor in (*place.trees, self._new):
                cursor.leave()

    def _fill(self, place: _Place) -> Iterator[_Place]:
        """Links all of a directory but the directories in it, which it returns."""
        settled: set[str] = set()  # what older trees have no say in any more
        opaque: set[str] = set()
        directories: dict[str, list[Cursor]] = {}
        for tree in place.trees:
            oldest = tree is place.trees[-1]
            with os.scandir(tree.fd) as found:
                for entry in found:
                    name = entry.name
                    if name in settled:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        directories.setdefault(name, []).append(tree)
                        if not tree.is_opaque(name):
                            continue
                        opaque.add(name)
                    elif name in directories:
                        opaque.add(name)  # a file or whiteout below hides what is below that
                    else:
                        self._link(tree, entry, place)
                    if not oldest:
                        settled.add(name)
        closed = place.closed
        return iter(
            [
                _Place(
                    name,
                    trees,
                    closed=closed or name in opaque,
                    opaque=name in opaque and not closed,
                )
                for name, trees in directories.items()
            ]
        )

    def _link(self, tree: Cursor, entry: os.DirEntry[str], place: _Place) -> None:
        if _may_hide(tree, entry) and tree.hides(entry.name, entry.stat(follow_symlinks=False)):
            if not place.closed:
                self._whiteout(tree, entry)
                place.whiteouts = True
            return
        self._entries += 1
        if not link(tree.fd, entry.name, self._new.fd, entry.name):
            self._copier.copy(tree.fd, entry.name, self._new.fd)

    def _whiteout(self, tree: Cursor, entry: os.DirEntry[str]) -> None:
        """Keeps a whiteout; one that is an empty file would need a mark on its directory."""
        self._entries += 1
        is_device = stat.S_ISCHR(entry.stat(follow_symlinks=False).st_mode)
        if not is_device or not link(tree.fd, entry.name, self._new.fd, entry.name):
            make_whiteout(self._new.fd, entry.name)


def _may_hide(tree: Cursor, entry: os.DirEntry[str]) -> bool:
    """Whether an entry is worth a closer look, by what the directory itself says of its kind."""
    if entry.is_file(follow_symlinks=False):
        return tree.has_marks
    return not entry.is_symlink()
