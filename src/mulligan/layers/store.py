"""Layers on disk: what VMs wrote, frozen, shared and stacked.

::

    <data_dir>/layers/<family>/<layer>/layer.json   what it is stacked on
    <data_dir>/layers/<family>/<layer>/tree/        what was written between two states
    <data_dir>/layers/<family>/<layer>/merged-<n>/  it and some below it, as one tree of hard links
    <data_dir>/layers/<family>/<layer>/merged.json  which n is in use, and where the stack goes on
    <data_dir>/layers/<family>/<layer>/sizes.json   how large its trees are; see ``sizes.py``

A family is what one agent's VMs share: no VM can see another agent's layers. A layer never
changes once it has a ``tree``; the rename that gives it one is what freezes it, so a crash leaves
either an upper directory of a VM or a layer. What a layer is stacked on is told by the layer alone,
so that a damaged one harms those above it and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from pydantic import ValidationError

from mulligan.layers.directories import (
    inside,
    itself,
    make_directory,
    remove_tree,
    replace_file,
    sync_directory,
)
from mulligan.layers.holds import Hold
from mulligan.layers.sizes import TREE, family_of
from mulligan.layers.stacks import DamagedLayer, Layer, Merge, Merged, Stacks

GONE = ".gone-"
NEW = ".new-"
MERGING = "merging"


class LayerStore(Stacks):
    """The directory of layers. Its methods may be called from any thread.

    Args:
        directory: made if it is missing.
        owner: uid and gid VMs' programs have on the host.
        durable: whether what is frozen also outlives a power cut.
    """

    def __init__(self, directory: Path, owner: tuple[int, int], *, durable: bool = False) -> None:
        super().__init__(directory)
        self._owner = owner
        self._durable = durable
        self._holds: list[Hold] = []
        self._collections: list[Hold] = []  # with what was let go of since each began
        make_directory(directory)

    def load(self) -> list[str]:
        """Reads what is there; a line for each layer that is damaged.

        What was interrupted half-way is removed: a layer that never got its tree, a merge that
        never ended, a layer half deleted.
        """
        complaints = []
        for family in sorted(self._directory.iterdir()):
            if family.name.startswith(NEW):
                remove_tree(family)  # of a VM that was nobody's
                continue
            for path in sorted(family.iterdir()):
                try:
                    self._load(family.name, path)
                except (OSError, ValidationError) as error:
                    reason = str(error).splitlines()[0]
                    complaints.append(f"layer {path} is damaged and was left alone: {reason}")
        return complaints

    def _load(self, family: str, path: Path) -> None:
        if path.name.startswith(GONE):
            remove_tree(path)
            return
        known = path / "merged.json"
        if not (path / "layer.json").is_file() and not any(path.glob("*/")):
            remove_tree(path)  # it was interrupted at once
            return
        layer = Layer.model_validate_json((path / "layer.json").read_bytes())
        self.sizes.load(family, path.name)
        if layer.retired:
            self._layers[family, path.name] = layer
            return
        if not known.is_file() and not (path / TREE).is_dir():  # it never got one
            remove_tree(path)
            return
        merged = Merged.model_validate_json(known.read_bytes()) if known.is_file() else None
        for other in path.glob("merg*"):
            if other.is_dir() and not (merged and other.name == merged.directory):
                remove_tree(other)
        key = (family, path.name)
        if merged and (path / merged.directory).is_dir():
            self._merged[key] = merged
        elif not (path / TREE).is_dir():
            raise FileNotFoundError("its tree is missing")
        self._layers[key] = layer

    def family(self, agent_id: str) -> Path:
        """The directory of an agent's layers, made if it is missing."""
        path = self._directory / family_of(agent_id)
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            self._give(path)
        return path

    def prepare(self, name: str) -> Path:
        """Makes the directory of a family that is nobody's yet.

        Args:
            name: its own, which begins with ``NEW``: the next start removes what is left.
        """
        path = self._directory / name
        path.mkdir(mode=0o700)
        self._give(path)
        return path

    def adopt(self, prepared: Path, agent_id: str) -> bool:
        """Makes a directory that ``prepare`` made an agent's; false where the agent has layers.

        Whoever has the agent's present directory mounted would not see layers that are made later:
        an agent with VMs must not be given another.
        """
        try:
            prepared.rename(self._directory / family_of(agent_id))  # over an empty one, too
        except OSError as error:
            if error.errno in (ENOTEMPTY, EEXIST):
                return False
            raise
        return True

    def discard(self, prepared: Path) -> None:
        """Removes what ``prepare`` made, if nobody was given it."""
        with contextlib.suppress(FileNotFoundError):
            prepared.rmdir()

    def forget(self, agent_id: str) -> None:
        """Removes an agent's directory, if there is nothing in it; the agent has no VM."""
        try:
            (self._directory / family_of(agent_id)).rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (ENOTEMPTY, EEXIST):
                raise

    def freeze(
        self,
        agent_id: str,
        layer: str,
        parent: str | None,
        upper: Path,
        execution: str | None = None,
        image: str | None = None,
    ) -> None:
        """Makes a layer of a directory, which moves and must not change any more.

        Args:
            agent_id: whose it is.
            layer: its name, new.
            parent: the layer it is stacked on; None for the image.
            upper: the directory.
            execution: the one that wrote it, where it was only one.
            image: the digest of the image below; None for the host's own.

        Raises:
            OSError: it could not be done; the directory is where it was.
        """
        path = self.family(agent_id) / layer
        path.mkdir(mode=0o700, exist_ok=True)  # one that a crash left has no tree
        record = Layer(parent=parent, execution=execution, image=image)
        with inside(path) as place, inside(upper.parents[1], upper.parent.name) as source:
            known = Path(itself(place))
            self._give(known)
            replace_file(known / "layer.json", record.model_dump_json(), durable=self._durable)
            with inside(source, upper.name):
                pass  # a link is none of the VM's directories
            os.rename(upper.name, TREE, src_dir_fd=source, dst_dir_fd=place)
        if self._durable:
            os.sync()  # what VMs wrote is in no order of ours
            sync_directory(path.parent)
        with self._lock:
            self._layers[family_of(agent_id), layer] = record
            for hold in self._holds:
                if hold.family == family_of(agent_id):
                    hold.tops.add(layer)

    def has(self, agent_id: str, layer: str) -> bool:
        """Whether there is such a layer."""
        with self._lock:
            return (family_of(agent_id), layer) in self._layers

    @contextmanager
    def held(self, agent_id: str) -> Iterator[Callable[[str | None], list[str]]]:
        """Gives a ``stack`` of an agent's disks whose trees are not collected meanwhile.

        Nor are layers that are frozen meanwhile. It is for the time until a VM or a row of a
        snapshot says what is in use: between two looks trees may be merged, and go.
        """
        hold = Hold(family_of(agent_id))

        def stack(top: str | None) -> list[str]:
            with self._lock:
                trees = [tree for _, tree in self._segments(hold.family, top)]
                hold.tops |= {top} if top is not None else set()
                hold.trees.update(trees)
            return trees

        with self._lock:
            self._holds.append(hold)
        try:
            yield stack
        finally:
            with self._lock:
                self._holds.remove(hold)
                for collection in self._collections:
                    if collection.family == hold.family:
                        collection.add(hold)

    # Merging: what is old goes into one tree, so that no disk is a stack of hundreds

    def clear_merging(self, agent_id: str, layer: str) -> None:
        """Removes what an interrupted merge left."""
        path = self.family(agent_id) / layer / MERGING
        if path.exists():
            remove_tree(path)

    def add_merged(self, agent_id: str, merge: Merge) -> None:
        """Takes a finished ``merging`` directory of the layer into use.

        Raises:
            OSError: it could not be done; everything is as it was.
        """
        path = self.family(agent_id) / merge.layer
        record = Merged(until=merge.until, level=merge.level)
        key = (family_of(agent_id), merge.layer)
        with self._lock:
            (path / MERGING).rename(path / record.directory)
            replace_file(path / "merged.json", record.model_dump_json(), durable=self._durable)
            self._merged[key] = record

    def collect(
        self,
        agent_id: str,
        kept: Callable[[], set[str]],
        used: Callable[[], tuple[set[str], set[str]]],
    ) -> int:
        """Removes what no disk needs any more; returns how many directories went.

        Args:
            agent_id: whose layers to look at.
            kept: gives the layers of snapshots; it may take its time. What is frozen after it was
                asked stays.
            used: gives, at once, the layers VMs are stacked on, and the trees booted ones have
                mounted, as ``stack`` gave them.
        """
        needed = Hold(family_of(agent_id))
        with self._lock:
            candidates = [key for key in self._layers if key[0] == needed.family]
            self._collections.append(needed)
        try:
            tops = kept()
            with self._lock:
                doomed = self._doom(candidates, needed, tops, used)
        finally:
            with self._lock:
                self._collections.remove(needed)
        for path in doomed:
            remove_tree(path)
        return len(doomed)

    def _doom(
        self,
        candidates: list[tuple[str, str]],
        needed: Hold,
        kept: set[str],
        used: Callable[[], tuple[set[str], set[str]]],
    ) -> list[Path]:
        """Moves out of the way what is needed by nothing that is known now."""
        for hold in [Hold(needed.family, kept), Hold(needed.family, *used()), *self._holds]:
            if hold.family == needed.family:
                needed.add(hold)
        try:
            for top in needed.tops:
                needed.trees.update(tree for _, tree in self._segments(needed.family, top))
        except DamagedLayer:
            return []  # what it needs cannot be told
        past = self._ancestors(needed.family, needed.tops)
        doomed: list[Path] = []
        for key in candidates:
            doomed += self._retire(key, needed.trees, told=key[1] in past)
        return doomed

    def _retire(self, key: tuple[str, str], needed: set[str], *, told: bool) -> list[Path]:
        """Moves what is not needed of a layer out of the way, and forgets it.

        With ``told`` what it was stacked on stays known: states in use came of it.
        """
        family, layer = key
        path = self._directory / family / layer
        trees = [each for each in path.iterdir() if each.is_dir() and each.name != MERGING]
        doomed = [each for each in trees if f"{layer}/{each.name}" not in needed]
        if len(doomed) == len(trees):
            self._merged.pop(key, None)
            if not told:
                del self._layers[key]
                self.sizes.forget(family, layer)
                doomed = [path]
            elif not self._layers[key].retired:
                record = self._layers[key].model_copy(update={"retired": True})
                replace_file(path / "layer.json", record.model_dump_json(), durable=self._durable)
                self._layers[key] = record
        moved = []
        for each in doomed:
            gone = self._directory / family / f"{GONE}{secrets.token_hex(8)}"
            each.rename(gone)
            moved.append(gone)
        return moved

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, *self._owner)
