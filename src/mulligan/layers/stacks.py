"""What layers are stacked on, as it is known without a look at the disk."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, StrictStr

from mulligan.errors import InternalError
from mulligan.layers.sizes import TREE, Tree, TreeSizes, family_of

FANOUT = 8
MERGED = "merged-"


class Layer(BaseModel):
    """``layer.json``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    parent: StrictStr | None
    execution: StrictStr | None = None  # the one that wrote it, where it was only one
    image: StrictStr | None = None  # the digest of the one below; None: the host's own
    retired: bool = False  # its trees are gone, part of others; it only tells what came before


class Merged(BaseModel):
    """``merged.json``: ``until`` is the first layer below that is not part of the tree."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    until: StrictStr | None
    level: int

    @property
    def directory(self) -> str:
        """Its name: one that is in use is never written over."""
        return f"{MERGED}{self.level}"


@dataclass(frozen=True)
class Merge:
    """A run of trees to be made one.

    Attributes:
        layer: the layer it becomes a part of.
        trees: directories in the family, newest first.
        until, level: for ``merged.json``.
    """

    layer: str
    trees: tuple[str, ...]
    until: str | None
    level: int

    @property
    def directory(self) -> str:
        """What the tree will be called in the layer."""
        return f"{MERGED}{self.level}"


class DamagedLayer(InternalError):  # noqa: N818  (as the errors of the wire format)
    """A layer a disk needs is not there or cannot be read."""


class Stacks:
    """Layers by name. Methods with an underscore are for the holder of the lock.

    Args:
        directory: that of the layers.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._layers: dict[tuple[str, str], Layer] = {}
        self._merged: dict[tuple[str, str], Merged] = {}
        self.sizes = TreeSizes(directory)

    def stack(self, agent_id: str, top: str | None) -> list[str]:
        """The trees of a disk, newest first, as paths in the family's directory.

        Raises:
            DamagedLayer: one is missing.
        """
        with self._lock:
            return [tree for _, tree in self._segments(family_of(agent_id), top)]

    def check_image(self, agent_id: str, top: str | None, image: str | None) -> None:
        """Makes sure that a layer belongs above an image.

        Raises:
            DamagedLayer: it was written above another.
        """
        with self._lock:
            record = self._layers.get((family_of(agent_id), top)) if top is not None else None
        if record is not None and record.image != image:
            raise DamagedLayer(
                f"layer {top} is of image {record.image or 'host'}, and the VM of {image or 'host'}"
            )

    def _segments(self, family: str, top: str | None) -> list[tuple[str, str]]:
        """(layer, path of its tree) from the newest down."""
        found = []
        layer = top
        while layer is not None:
            key = (family, layer)
            if merged := self._merged.get(key):
                found.append((layer, f"{layer}/{merged.directory}"))
                layer = merged.until
            elif (record := self._layers.get(key)) and not record.retired:
                found.append((layer, f"{layer}/{TREE}"))
                layer = record.parent
            else:
                where = self._directory / family / layer
                raise DamagedLayer(f"layer {where} is missing or damaged, and {top} needs it")
        return found

    def trees(self, agent_id: str, top: str | None) -> list[Tree]:
        """``stack``, with what each tree was made of.

        Raises:
            DamagedLayer: one is missing.
        """
        family = family_of(agent_id)
        with self._lock:
            return [
                Tree(path, tuple(self._parts(family, layer, path)))
                for layer, path in self._segments(family, top)
            ]

    def _parts(self, family: str, layer: str, path: str) -> list[str]:
        """Trees a tree has hard links of: those of its run of layers, and lesser merges of them."""
        merged = self._merged.get((family, layer))
        if merged is None or not path.endswith(merged.directory):
            return []
        parts: list[str] = []
        below: str | None = layer
        while below is not None and below != merged.until:
            parts.append(f"{below}/{TREE}")
            other = self._merged.get((family, below))
            if other is not None and below != layer:
                parts.append(f"{below}/{other.directory}")
            record = self._layers.get((family, below))
            below = record.parent if record else None
        return parts

    def totals(self) -> tuple[int, int]:
        """How many layers there are, and the bytes of their trees, as far as they were counted."""
        trees: dict[str, list[Tree]] = {}
        with self._lock:
            for (family, layer), record in self._layers.items():
                merged = self._merged.get((family, layer))
                if merged is None and record.retired:
                    continue
                path = f"{layer}/{merged.directory if merged else TREE}"
                parts = tuple(self._parts(family, layer, path))
                trees.setdefault(family, []).append(Tree(path, parts))
        shares = [self.sizes.shares_in(family, each) for family, each in trees.items()]
        known = sum(size or 0 for share in shares for size in share.values())
        return sum(map(len, trees.values())), known

    def written_by(self, agent_id: str) -> dict[str, str]:
        """For layers that are there and that one execution wrote: its id, and the layer's tree."""
        family = family_of(agent_id)
        with self._lock:
            return {
                record.execution: f"{layer}/{TREE}"
                for (owner, layer), record in self._layers.items()
                if owner == family and record.execution is not None
            }

    def descends(self, agent_id: str, layer: str | None, ancestor: str | None) -> bool:
        """Whether a state is another one, or came of it; None is the image, where all began."""
        family = family_of(agent_id)
        with self._lock:
            while layer != ancestor and layer is not None:
                record = self._layers.get((family, layer))
                layer = record.parent if record else None
        return layer == ancestor

    def _ancestors(self, family: str, tops: set[str]) -> set[str]:
        found: set[str] = set()
        for top in tops:
            layer: str | None = top
            while layer is not None and layer not in found:
                found.add(layer)
                record = self._layers.get((family, layer))
                layer = record.parent if record else None
        return found

    def mergeable(self, agent_id: str, top: str | None) -> Merge | None:
        """The next merge that is worth it for a disk: ``FANOUT`` neighbours or more of one level.

        Levels make the work of n snapshots n log n links and a stack a few times ``FANOUT`` deep.
        """
        family = family_of(agent_id)
        with self._lock:
            segments = [
                (layer, tree, self._merged.get((family, layer)))
                for layer, tree in self._segments(family, top)
            ]
            by_level = itertools.groupby(segments, lambda each: each[2].level if each[2] else 0)
            for level, group in by_level:
                run = list(group)
                if len(run) < FANOUT:
                    continue
                oldest, _, merged = run[-1]
                until = merged.until if merged else self._layers[family, oldest].parent
                return Merge(run[0][0], tuple(tree for _, tree, _ in run), until, level + 1)
        return None

    def squashable(self, agent_id: str, top: str | None) -> Merge | None:
        """The merge of all of a disk into one tree, which keeps nothing that is not to be seen."""
        family = family_of(agent_id)
        with self._lock:
            segments = self._segments(family, top)
            if top is None or len(segments) < 2:  # noqa: PLR2004  (one has nothing to go into)
                return None
            known = [self._merged.get((family, layer)) for layer, _ in segments]
            level = max(merged.level if merged else 0 for merged in known) + 1
            return Merge(top, tuple(tree for _, tree in segments), None, level)
