"""Layers are collected while others find, freeze, merge and take them into use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mulligan.layers.stacks import Merge
from mulligan.layers.store import MERGING, LayerStore

AGENT = "a"
OWNER = (os.geteuid(), os.getegid())


class Family:
    """Layers of one agent, and those that are said to be in use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = LayerStore(directory / "layers", OWNER)
        self.kept: set[str] = set()
        self.tops: set[str] = set()
        self.mounted: set[str] = set()

    def freeze(self, name: str, parent: str | None) -> None:
        upper = self.directory / "upper"
        upper.mkdir()
        (upper / name).touch()
        self.store.freeze(AGENT, name, parent, upper)

    def merge(self, layer: str, *trees: str) -> None:
        """What maintenance does once it has found that these are worth it."""
        level = sum(1 for _ in (self.path / layer).glob("merged-*"))
        (self.path / layer / MERGING).mkdir()
        self.store.add_merged(AGENT, Merge(layer, trees, None, level))

    def collect(self, meanwhile=lambda: None) -> None:
        """``meanwhile`` happens after snapshots were asked for, while the answer is on its way."""

        def kept() -> set[str]:
            answer = set(self.kept)
            meanwhile()
            return answer

        self.store.collect(AGENT, kept, lambda: (set(self.tops), set(self.mounted)))

    @property
    def path(self) -> Path:
        return self.store.family(AGENT)

    def trees(self) -> set[str]:
        return {f"{tree.parent.name}/{tree.name}" for tree in self.path.glob("*/*/")}


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path)
    family.freeze("v.0", None)
    family.freeze("v.1", "v.0")
    family.tops.add("v.1")
    yield family
    assert not family.store._holds
    assert not family.store._collections


OLD = {"v.0/tree", "v.1/tree"}


def test_a_stack_that_is_held_outlives_merges(family: Family) -> None:
    with family.store.held(AGENT) as stack_of:
        assert set(stack_of("v.1")) == OLD
        family.merge("v.1", *OLD)
        family.collect()
        assert family.trees() >= OLD
    family.collect()
    assert not family.trees() & OLD
    assert family.store.stack(AGENT, "v.1") == ["v.1/merged-0"]


def test_a_vm_that_boots_during_a_collection(family: Family) -> None:
    def boot() -> None:
        with family.store.held(AGENT) as stack_of:
            family.mounted = set(stack_of("v.1"))
        family.merge("v.1", *OLD)

    family.collect(boot)
    assert family.trees() >= OLD


def test_a_snapshot_whose_row_comes_during_a_collection(family: Family) -> None:
    """Copied and recorded at once, when rows were read already; the VM goes elsewhere then."""

    def snapshot() -> None:
        with family.store.held(AGENT):
            family.freeze("copy", "v.1")
            family.kept.add("copy")
        family.tops.clear()

    family.collect(snapshot)
    assert family.trees() == {*OLD, "copy/tree"}
    assert family.store.stack(AGENT, "copy") == ["copy/tree", "v.1/tree", "v.0/tree"]


def test_a_snapshot_whose_row_is_on_its_way(family: Family) -> None:
    """Copied before a collection began, recorded while it goes on."""
    with family.store.held(AGENT):
        family.freeze("copy", "v.1")
        family.collect()
        assert "copy/tree" in family.trees()
        family.collect(lambda: family.kept.add("copy"))
        family.tops.clear()
        family.collect()
    family.collect()
    assert family.trees() == {*OLD, "copy/tree"}


def test_a_rollback_to_a_snapshot_that_is_deleted_meanwhile(family: Family) -> None:
    family.freeze("w.0", None)
    family.kept.add("w.0")
    with family.store.held(AGENT) as stack_of:
        stack_of("w.0")
        family.kept.clear()
        family.collect()
        family.tops = {"w.0"}
    family.collect()
    assert family.trees() == {"w.0/tree"}


def test_what_nobody_needs_goes(family: Family) -> None:
    family.tops.clear()
    with family.store.held("somebody else"):
        family.collect()
    assert not list(family.path.iterdir())
