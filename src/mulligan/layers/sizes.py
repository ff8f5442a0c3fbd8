"""How large layers' trees are: counted once, as a tree never changes, and kept beside it.

``<layer>/sizes.json`` has the bytes of each tree the layer has or had, by its directory's name. It
is no truth but a note: where it is missing or cannot be read, trees are counted again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import RootModel, ValidationError

from mulligan.layers.directories import replace_file

FILE = "sizes.json"
TREE = "tree"


class _Sizes(RootModel[dict[str, int]]):
    """``sizes.json``."""


@dataclass(frozen=True)
class Tree:
    """A tree that is there.

    Attributes:
        path: in the family's directory.
        parts: trees it was merged from, hard links of whose files it has; they may be gone.
    """

    path: str
    parts: tuple[str, ...]


class TreeSizes:
    """Sizes of trees, in bytes of the blocks they hold; may be used from any thread.

    Args:
        directory: that of the layers.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], dict[str, int]] = {}

    def load(self, family: str, layer: str) -> None:
        """Reads what is noted of a layer."""
        path = self._directory / family / layer / FILE
        try:
            sizes = _Sizes.model_validate_json(path.read_bytes()).root
        except (OSError, ValidationError):
            return
        with self._lock:
            self._known[family, layer] = {name: max(0, size) for name, size in sizes.items()}

    def forget(self, family: str, layer: str) -> None:
        """A layer is gone."""
        with self._lock:
            self._known.pop((family, layer), None)

    def get(self, agent_id: str, tree: str) -> int | None:
        """The bytes of an agent's tree, given by its path in the family; None: not counted."""
        return self._get(family_of(agent_id), tree)

    def _get(self, family: str, tree: str) -> int | None:
        layer, _, name = tree.partition("/")
        with self._lock:
            return self._known.get((family, layer), {}).get(name)

    def note(self, agent_id: str, tree: str, size: int) -> None:
        """Takes what a tree was found to take; ``write`` keeps it."""
        layer, _, name = tree.partition("/")
        with self._lock:
            self._known.setdefault((family_of(agent_id), layer), {})[name] = size

    def write(self, agent_id: str, tree: str) -> None:
        """Writes what is known of a tree's layer; nothing, where that is gone.

        Raises:
            OSError: it could not be written; it is known until the next start.
        """
        family, layer = family_of(agent_id), tree.partition("/")[0]
        path = self._directory / family / layer
        with self._lock:
            sizes = dict(self._known.get((family, layer), {}))
            if sizes and path.is_dir():
                replace_file(path / FILE, _Sizes(sizes).model_dump_json(), durable=False)

    def set(self, agent_id: str, tree: str, size: int) -> None:
        """``note`` and ``write``."""
        self.note(agent_id, tree, size)
        self.write(agent_id, tree)

    def shares(self, agent_id: str, trees: Iterable[Tree]) -> dict[str, int | None]:
        """What each of some trees adds to the others: files it shares with its parts count there.

        Returns:
            Bytes by path; None for a tree that was not counted yet.
        """
        return self.shares_in(family_of(agent_id), trees)

    def shares_in(self, family: str, trees: Iterable[Tree]) -> dict[str, int | None]:
        """``shares`` for trees of a family."""
        found: dict[str, int | None] = {}
        for tree in sorted(trees, key=lambda each: len(each.parts)):
            size = self._get(family, tree.path)
            shared = sum(found.get(part) or 0 for part in tree.parts)
            found[tree.path] = None if size is None else max(0, size - shared)
        return found


def family_of(agent_id: str) -> str:
    """The directory of an agent's layers."""
    return hashlib.sha256(agent_id.encode()).hexdigest()[:32]
