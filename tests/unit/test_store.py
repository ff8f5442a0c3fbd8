"""VMs on disk, and the lock of their directory."""

import fcntl
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mulligan.engine.lock import DirectoryLock, Holder, holder
from mulligan.engine.vms.state import Scratch, VmState, layer_name, scratch_of
from mulligan.engine.vms.store import VmRecord, VmStore, new_id
from mulligan.errors import ConfigError
from mulligan.layers.directories import make_directory, remove_tree
from mulligan.layers.store import LayerStore

USER = 61000
OWNER = (USER, USER) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


def record(vm_id: str, second: int = 0) -> VmRecord:
    return VmRecord(
        id=vm_id,
        name=f"agent-{vm_id}-vm",
        agent_id="é",
        vm_type="focal-optimized",
        driver="bubblewrap",
        created_at=datetime(2025, 1, 2, 3, 4, second, 5, tzinfo=UTC),
    )


def without_root(work: Callable[[], None]) -> None:
    """Does something as a user to whom permissions apply: in a child that is not root any more."""
    if os.geteuid() != 0:
        work()
        return
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)
            work()
        except BaseException:  # noqa: BLE001  (the child may not come back into pytest)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def own(data_dir: Path) -> Path:
    """A directory that belongs to the user of ``without_root``."""
    path = data_dir / "own"
    path.mkdir()
    os.chown(path, *OWNER)
    return path


@pytest.fixture
def store(data_dir: Path) -> VmStore:
    return VmStore(data_dir / "vms", OWNER)


@pytest.fixture
def layers(data_dir: Path) -> LayerStore:
    return LayerStore(data_dir / "layers", OWNER)


def loaded(store: VmStore, layers: LayerStore) -> tuple[list[VmRecord], list[str]]:
    found, complaints = store.load(layers)
    return [vm.record for vm in found], complaints


# VMs


def test_create_and_load(data_dir: Path, store: VmStore, layers: LayerStore) -> None:
    later, sooner = record("vm-a", 9), record("vm-b", 1)
    store.create(later)
    store.create(sooner)
    assert loaded(VmStore(data_dir / "vms", OWNER), layers) == ([sooner, later], [])
    assert sorted(path.name for path in (data_dir / "vms").iterdir()) == ["vm-a", "vm-b"]


def test_what_a_vm_has_on_disk(data_dir: Path, store: VmStore) -> None:
    store.create(record("vm-a"))
    disk = store.disk("vm-a")
    assert disk == data_dir / "vms" / "vm-a" / "disk"
    modes = {data_dir / "vms": 0o711, disk.parent: 0o711, disk: 0o700}
    modes |= {disk / "0": 0o700, disk / "0/upper": 0o755, disk / "0/work": 0o700}
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in modes} == modes
    for path in (disk, disk / "0", disk / "0/upper", disk / "0/work"):
        assert (path.stat().st_uid, path.stat().st_gid) == OWNER


def test_delete(data_dir: Path, store: VmStore, layers: LayerStore) -> None:
    store.create(record("vm-a"))
    store.create(record("vm-b"))
    (store.disk("vm-a") / "0/upper/file").write_text("x")
    store.delete("vm-a")
    assert [path.name for path in (data_dir / "vms").iterdir()] == ["vm-b"]
    assert loaded(store, layers) == ([record("vm-b")], [])


def test_a_state_that_could_not_be_written_is_written_by_nobody_later(
    data_dir: Path, store: VmStore
) -> None:
    store.create(record("vm-a"))
    store.follow("vm-a", VmState(generation=1))  # its settle may come late
    file = data_dir / "vms" / "vm-a" / "state.json"
    file.rename(file.with_name("aside"))
    file.mkdir()
    with pytest.raises(OSError, match="directory"):
        store.set_state("vm-a", VmState(base="layer", generation=2))
    file.rmdir()
    store.settle("vm-a", 0)
    assert VmState.model_validate_json(file.read_bytes()) == VmState(generation=1)


def test_load_finishes_what_was_interrupted(
    data_dir: Path, store: VmStore, layers: LayerStore
) -> None:
    for name in ("vm-a", "vm-b", "vm-c"):
        store.create(record(name))
    vms = data_dir / "vms"
    (vms / "vm-a").rename(vms / ".new-vm-a")
    (vms / "vm-b").rename(vms / ".gone-vm-b")
    (vms / ".new-vm-d").mkdir()
    assert loaded(store, layers) == ([record("vm-c")], [])
    assert [path.name for path in vms.iterdir()] == ["vm-c"]


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", "{}", '{"id": "vm-bad"}', "\xff", "FUTURE", "NAIVE"],
)
def test_unreadable_records_are_left_alone(
    data_dir: Path, store: VmStore, layers: LayerStore, text: str | None
) -> None:
    """No file, no JSON, another's record, a field of a later version, a time without an offset."""
    store.create(record("vm-a"))
    bad = data_dir / "vms" / "vm-bad"
    (bad / "disk").mkdir(parents=True)
    good = record("vm-bad").model_dump_json()
    text = {"FUTURE": good[:-1] + ',"later":1}', "NAIVE": good.replace("Z", "")}.get(text, text)
    if text is not None:
        (bad / "vm.json").write_text(text, encoding="latin-1" if text == "\xff" else "utf-8")
    records, (complaint,) = loaded(store, layers)
    assert records == [record("vm-a")]
    assert complaint.startswith(f"{bad} is no readable VM and was left alone: ")
    assert "\n" not in complaint
    assert (bad / "disk").is_dir()
    assert (bad / "vm.json").exists() is (text is not None)


def test_an_upper_that_was_frozen_is_a_generation_further(
    store: VmStore, layers: LayerStore
) -> None:
    """A crash between the freeze and the note of it; twice, since such a note may fail for long."""
    state = store.create(record("vm-a"))
    for generation in (0, 1):
        (store.upper("vm-a", generation) / f"file{generation}").write_text("x")
        store.make_generation("vm-a", generation + 1)
        base = layer_name("vm-a", generation - 1) if generation else None
        upper = store.upper("vm-a", generation)
        layers.freeze(record("vm-a").agent_id, layer_name("vm-a", generation), base, upper)
    (store.disk("vm-a") / "7").mkdir()  # left by a rollback that never was
    ((found,), complaints) = store.load(layers)
    assert complaints == []
    assert state == VmState()
    assert found.state == VmState(base="vm-a.1", generation=2)
    assert sorted(path.name for path in store.disk("vm-a").iterdir()) == ["2"]
    assert layers.stack(record("vm-a").agent_id, "vm-a.1") == ["vm-a.1/tree", "vm-a.0/tree"]


def test_ids_are_not_the_same_twice() -> None:
    made = {new_id("vm") for _ in range(1000)}
    assert len(made) == 1000
    assert all(name.startswith("vm-") and len(name) == 19 for name in made)


def test_make_directory_mends_the_mode(data_dir: Path) -> None:
    (data_dir / "a").mkdir(mode=0o700)
    for path in (data_dir / "a", data_dir / "b" / "c"):
        make_directory(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o711


def test_make_directory_says_what_is_in_the_way(data_dir: Path) -> None:
    (data_dir / "file").write_text("")
    for path in (data_dir / "file", data_dir / "file" / "below"):
        with pytest.raises(ConfigError, match=f"data directory {path} is not writable") as caught:
            make_directory(path)
        assert caught.value.field == "data_dir"


def test_make_directory_notices_that_it_has_no_right(data_dir: Path) -> None:
    data_dir.chmod(0o555)

    def check() -> None:
        with pytest.raises(ConfigError, match="not writable"):
            make_directory(data_dir / "a")

    without_root(check)


# remove_tree


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600, 0o700])
@pytest.mark.parametrize("top", [False, True], ids=["below", "top"])
def test_remove_tree_needs_no_permissions(own: Path, mode: int, top: bool) -> None:
    tree = own / "tree"
    locked = tree if top else tree / "a" / "locked"

    def work() -> None:
        (locked / "inside").mkdir(parents=True)
        (locked / "file").write_text("x")
        (locked / "dangling").symlink_to("nowhere")
        os.mkfifo(locked / "pipe")
        locked.chmod(mode)
        remove_tree(tree)

    without_root(work)
    assert not tree.exists()
    assert own.is_dir()


def test_remove_tree_follows_no_link(own: Path) -> None:
    """Nor does it change what links point to while it makes room for itself."""
    outside, tree = own / "outside", own / "tree"

    def work() -> None:
        outside.mkdir(mode=0o550)
        outside.chmod(0o750)
        (outside / "kept").write_text("x")
        (outside / "kept").chmod(0o440)
        for mode in (0o500, 0o700):
            directory = tree / f"{mode:o}"
            directory.mkdir(parents=True)
            (directory / "to_directory").symlink_to(outside)
            (directory / "to_file").symlink_to(outside / "kept")
            (directory / "up").symlink_to("../..")
            directory.chmod(mode)
        remove_tree(tree)

    without_root(work)
    assert not tree.exists()
    assert (outside / "kept").read_text() == "x"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o750
    assert stat.S_IMODE((outside / "kept").stat().st_mode) == 0o440


def test_remove_tree_leaves_its_parent_as_it_was(own: Path) -> None:
    def work() -> None:
        (own / "tree").mkdir()
        (own / "tree" / "file").write_text("")
        (own / "tree").chmod(0)
        own.chmod(0o731)
        remove_tree(own / "tree")

    without_root(work)
    assert (stat.S_IMODE(own.stat().st_mode), os.listdir(own)) == (0o731, [])


def test_remove_tree_takes_what_is_locked_in_what_is_locked(own: Path) -> None:
    def work() -> None:
        (own / "t" / "a" / "b" / "c").mkdir(parents=True)
        (own / "t" / "a" / "b").chmod(0)
        (own / "t" / "a").chmod(0)
        remove_tree(own / "t")

    without_root(work)
    assert not (own / "t").exists()


def test_remove_tree_reaches_deeper_than_paths_and_recursion(own: Path) -> None:
    """As deep as a program that changes into each directory it makes can go."""

    def work() -> None:
        (own / "t").mkdir()
        descriptor = os.open(own / "t", os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d" * 50, dir_fd=descriptor)
            below = os.open("d" * 50, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(descriptor)
        remove_tree(own / "t")

    without_root(work)
    assert not (own / "t").exists()


def test_a_file_where_a_leftover_directory_would_be(own: Path) -> None:
    (own / ".gone-x").write_text("")
    remove_tree(own / ".gone-x")
    assert os.listdir(own) == []


# The lock

HOLD = """
import sys
from pathlib import Path
from mulligan.engine.lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]), sys.argv[2] or None)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(directory: Path, url: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    arguments = [sys.executable, "-c", HOLD, str(directory), url]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("url", "serving"), [("", ""), ("http://h:1", r" \(serving http://h:1\)")])
def test_the_lock_excludes_another_process(data_dir: Path, url: str, serving: str) -> None:
    with other_process(data_dir, url) as process:
        with pytest.raises(
            ConfigError, match=f"(?m){data_dir} is in use by process {process.pid}{serving}$"
        ) as caught:
            DirectoryLock(data_dir)
        assert caught.value.field == "data_dir"
        assert holder(data_dir) == Holder(process.pid, url or None)


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_the_lock_is_free_when_its_process_is_gone(data_dir: Path, end: str) -> None:
    with other_process(data_dir) as process:
        if end == "killed":
            process.kill()
        else:
            process.stdin.close()
        process.wait()
        assert (data_dir / "lock").read_text()  # what it said is still there, and counts no more
        assert holder(data_dir) is None
        lock = DirectoryLock(data_dir, "http://h:2")
        assert holder(data_dir) == Holder(os.getpid(), "http://h:2")
        lock.release()


def test_release(data_dir: Path) -> None:
    directory = data_dir / "made" / "for it"
    lock = DirectoryLock(directory)
    with pytest.raises(ConfigError, match=f"(?m)in use by process {os.getpid()}$"):
        DirectoryLock(directory)
    lock.release()
    assert holder(directory) is None
    DirectoryLock(directory).release()


def test_a_refused_lock_keeps_no_descriptor(data_dir: Path) -> None:
    lock = DirectoryLock(data_dir)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ConfigError):
        DirectoryLock(data_dir)
    assert os.listdir("/proc/self/fd") == before
    lock.release()


@pytest.mark.parametrize("said", ["", "{", "[]", "{}", '{"pid": "x", "url": null}', '{"pid": 1}'])
def test_a_holder_that_does_not_say_who_it_is(data_dir: Path, said: str) -> None:
    (data_dir / "lock").write_text(said)
    with (data_dir / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder(data_dir) is None
        with pytest.raises(ConfigError, match=r"(?m)in use by another process$"):
            DirectoryLock(data_dir)


def test_nobody_holds_what_is_not_there(data_dir: Path) -> None:
    assert holder(data_dir) is None
    assert holder(data_dir / "nowhere") is None


SCRATCH = [
    Scratch("work", stat.S_IFDIR),
    Scratch("incompat", stat.S_IFDIR | 0o711),
    Scratch("incompat/volatile", stat.S_IFDIR | 0o700),
    Scratch("incompat/volatile/dirty", stat.S_IFREG | 0o600),
]


def test_a_vm_goes_back_to_directories_its_memory_knows(
    store: VmStore, layers: LayerStore, data_dir: Path
) -> None:
    """The number is one it had before; what it becomes has a name nobody had."""
    store.create(record("vm-a"))
    (store.upper("vm-a", 0) / "later").write_text("x")
    store.make_generation("vm-a", 1)
    layers.freeze(record("vm-a").agent_id, layer_name("vm-a", 0), None, store.upper("vm-a", 0))
    content = data_dir / "content"
    content.mkdir(0o700)
    (content / "then").write_text("x")
    back = VmState(base=None, generation=0, line="abc")
    store.rewind("vm-a", 1, back, content, SCRATCH)
    assert not content.exists()
    assert [path.name for path in store.disk("vm-a").iterdir()] == ["0"]
    assert [path.name for path in store.upper("vm-a", 0).iterdir()] == ["then"]
    if os.geteuid() == 0:  # others could not look into what overlays close
        assert sorted(scratch_of(store.disk("vm-a") / "0")) == sorted(SCRATCH)
    assert back.layer("vm-a") != layer_name("vm-a", 0)
    ((found,), complaints) = store.load(layers)
    assert (found.state, complaints) == (back, [])


@pytest.mark.parametrize("there", [False, True])
def test_going_back_that_was_interrupted_is_undone_or_done(
    store: VmStore, layers: LayerStore, *, there: bool
) -> None:
    store.create(record("vm-a"))
    (store.upper("vm-a", 0) / "now").write_text("x")
    disk = store.disk("vm-a")
    (disk / "0").rename(disk / "0.aside")
    if there:
        store.make_generation("vm-a", 0)
    ((found,), complaints) = store.load(layers)
    assert (found.state, complaints) == (VmState(), [])
    assert [path.name for path in disk.iterdir()] == ["0"]
    assert [path.name for path in store.upper("vm-a", 0).iterdir()] == ([] if there else ["now"])


def test_a_scratch_directory_of_anything_is_not_looked_through(store: VmStore) -> None:
    store.create(record("vm-a"))
    work = store.disk("vm-a") / "0" / "work"
    for number in range(200):
        (work / str(number)).mkdir()
    with pytest.raises(OSError, match="too much"):
        scratch_of(store.disk("vm-a") / "0")
