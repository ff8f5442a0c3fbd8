"""How much room trees take on disk."""

from __future__ import annotations

import os

from mulligan.guest.jobs.content import BLOCK
from mulligan.guest.jobs.walk import Cursor


def size(trees: list[str]) -> dict[str, object]:
    """What trees take together.

    Returns:
        ``bytes``: of the blocks they hold on disk, tops included, where each inode counts once
        however many names it has in however many trees; ``entries``: names in them, tops not
        included, whiteouts included.

    Raises:
        OSError: something could not be read.
    """
    sizes = _Sizes()
    for path in trees:
        with Cursor(path) as tree:
            sizes.add(tree)
    return {"bytes": sizes.blocks * BLOCK, "entries": sizes.entries}


def within(path: str, most_bytes: int, most_entries: int) -> bool:
    """Whether a tree is no larger than that; what is larger is not walked to its end.

    Raises:
        OSError: something could not be read.
    """
    sizes = _Sizes(most_bytes, most_entries)
    with Cursor(path) as tree:
        sizes.add(tree)
    return not sizes.exceeded()


class _Sizes:
    def __init__(self, most_bytes: int | None = None, most_entries: int | None = None) -> None:
        self._most = most_bytes, most_entries
        self.blocks = 0
        self.entries = 0
        self._seen: set[tuple[int, int]] = set()  # tops, and files of several names

    def add(self, tree: Cursor) -> None:
        """Counts a tree that was not counted yet."""
        if not self._is_new(os.fstat(tree.fd)):
            return
        pending = [self._count(tree)]
        while pending and not self.exceeded():
            if pending[-1]:
                tree.enter(pending[-1].pop())
                pending.append(self._count(tree))
                continue
            pending.pop()
            if pending:
                tree.leave()

    def _count(self, tree: Cursor) -> list[str]:
        """Counts a directory and all in it but the directories, whose names it returns."""
        self.blocks += os.fstat(tree.fd).st_blocks
        directories = []
        with os.scandir(tree.fd) as found:
            for entry in found:
                self.entries += 1
                if self.exceeded():
                    break
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                    continue
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink == 1 or self._is_new(status):
                    self.blocks += status.st_blocks
        return directories

    def exceeded(self) -> bool:
        """Whether it is more by now than it may be."""
        most_bytes, most_entries = self._most
        return (most_bytes is not None and self.blocks * BLOCK > most_bytes) or (
            most_entries is not None and self.entries > most_entries
        )

    def _is_new(self, status: os.stat_result) -> bool:
        inode = status.st_dev, status.st_ino
        if inode in self._seen:
            return False
        self._seen.add(inode)
        return True
