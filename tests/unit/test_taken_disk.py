"""A disk whose VM's agent was taken over: links in place of directories lead the host nowhere."""

import contextlib
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mulligan.engine.vms.state import VmState, layer_name
from mulligan.engine.vms.store import VmRecord, VmStore
from mulligan.errors import ExecutionFailed
from mulligan.layers.directories import inside, remove_tree
from mulligan.layers.store import LayerStore
from mulligan.packages.store import check_place

OWNER = (61000, 61000) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
VM = "vm-a"
AGENT = "taken"
RECORD = VmRecord(
    id=VM,
    name="vm",
    agent_id=AGENT,
    vm_type="focal-optimized",
    driver="bubblewrap",
    created_at=datetime(2025, 1, 2, tzinfo=UTC),
)
Work = Callable[[VmStore, LayerStore], object]


@pytest.fixture
def store(data_dir: Path) -> VmStore:
    made = VmStore(data_dir / "vms", OWNER)
    made.create(RECORD)
    (made.upper(VM, 0) / "written").write_text("x")
    (made.disk(VM) / "place").mkdir()
    made.follow(VM, VmState())
    made.settle(VM, 9)  # makes generation 1
    return made


@pytest.fixture
def layers(data_dir: Path) -> LayerStore:
    return LayerStore(data_dir / "layers", OWNER)


@pytest.fixture
def outside(data_dir: Path) -> Path:
    """What is the host's own, with the names the host works on."""
    place = data_dir / "outside"
    for name in ("upper", "work", "tree"):
        (place / name).mkdir(parents=True)
        (place / name / "kept").write_text("x")
        (place / name).chmod(0o750)
    place.chmod(0o750)
    return place


def seen(place: Path) -> list[tuple[str, int, int, int]]:
    found = []
    for each in (place, *sorted(place.rglob("*"))):
        status = each.lstat()
        found.append((str(each), status.st_mode, status.st_uid, status.st_ino))
    return found


def freeze(store: VmStore, layers: LayerStore) -> None:
    layers.freeze(AGENT, layer_name(VM, 0), None, store.upper(VM, 0))


WORK: dict[str, Work] = {
    "changed": lambda store, _: store.changed(VM, 0),
    "make_generation": lambda store, _: store.make_generation(VM, 1, 0),
    "make_generation_anew": lambda store, _: store.make_generation(VM, 0),
    "renew_work": lambda store, _: store.renew_work(VM, 0),
    "discard_generation": lambda store, _: store.discard_generation(VM, 0),
    "discard_place": lambda store, _: store.discard_place(VM, "place"),
    "settle": lambda store, _: store.settle(VM, 0),
    "freeze": freeze,
    "load": lambda store, layers: store.load(layers),
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("link", ["0", "0/upper", "0/work", "1", "1/upper", "1/work", "place"])
def test_the_host_changes_nothing_by_a_link(
    store: VmStore, layers: LayerStore, outside: Path, link: str, work: str
) -> None:
    before = seen(outside)
    planted = store.disk(VM) / link
    shutil.rmtree(planted)
    planted.symlink_to(outside / planted.name if "/" in link else outside)
    with contextlib.suppress(OSError):
        WORK[work](store, layers)
    assert seen(outside) == before
    trees = list((layers.family(AGENT)).glob("*/tree/kept"))
    assert trees == []  # nor has it come into the VM's reach


def test_what_was_planted_goes_with_the_vm(store: VmStore, outside: Path) -> None:
    before = seen(outside)
    shutil.rmtree(store.disk(VM) / "0")
    (store.disk(VM) / "0").symlink_to(outside)
    store.make_generation(VM, 0)
    assert store.upper(VM, 0).is_dir()
    (store.upper(VM, 0) / "link").symlink_to(outside)
    store.delete(VM)
    assert seen(outside) == before


def test_a_layer_is_made_in_no_links_place(
    store: VmStore, layers: LayerStore, outside: Path
) -> None:
    before = seen(outside)
    (layers.family(AGENT) / layer_name(VM, 0)).symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        freeze(store, layers)
    assert seen(outside) == before
    assert (store.upper(VM, 0) / "written").exists()


def test_a_tree_that_is_swapped_while_it_is_removed(
    data_dir: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory becomes a link after it was seen to be one."""
    tree = data_dir / "tree"
    (tree / "below").mkdir(parents=True)
    before = seen(outside)
    real = os.scandir

    def swapped(place: int) -> object:
        found = list(real(place))
        for each in found:
            each.is_dir(follow_symlinks=False)
        if (tree / "below").is_dir() and not (tree / "below").is_symlink():
            (tree / "below").rmdir()
            (tree / "below").symlink_to(outside)
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", swapped)
    with pytest.raises(NotADirectoryError):
        remove_tree(tree)
    monkeypatch.undo()
    assert seen(outside) == before


@pytest.mark.parametrize("link", ["0", "0/upper", "0/upper/packages", "0/upper/packages/set"])
def test_a_set_of_packages_is_taken_from_no_links_place(data_dir: Path, link: str) -> None:
    disk, other = data_dir / "disk", data_dir / "other"
    for each in disk, other:
        (each / "0" / "upper" / "packages" / "set").mkdir(parents=True)
    check_place(disk / "0" / "upper" / "packages" / "set")
    shutil.rmtree(disk / link)
    (disk / link).symlink_to(other / link)
    with pytest.raises(ExecutionFailed):
        check_place(disk / "0" / "upper" / "packages" / "set")


def test_inside_leaves_nothing_open(data_dir: Path) -> None:
    (data_dir / "a" / "b").mkdir(parents=True)
    (data_dir / "a" / "link").symlink_to("b")
    before = os.listdir("/proc/self/fd")
    with inside(data_dir, "a", "b") as place:
        assert os.fstat(place).st_ino == (data_dir / "a" / "b").stat().st_ino
    with pytest.raises(NotADirectoryError), inside(data_dir, "a", "link"):
        pass
    assert os.listdir("/proc/self/fd") == before
