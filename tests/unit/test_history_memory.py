"""The history with ``persist=False``: the suite, and no trace on the disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support.history")

from mulligan.history import Dropped, HistoryStore  # noqa: E402
from mulligan.models import HistoryQueryRequest  # noqa: E402
from support.history import INLINE, HistorySuite, ended, entry, fresh, run, snapshot  # noqa: E402

MARKER = "marker_of_what_nobody_may_find"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HistoryStore]:
    directory = tmp_path_factory.mktemp("data") / "history"
    with HistoryStore(directory, persist=False, output_inline_bytes=INLINE) as opened:
        yield opened


@pytest.fixture
def reopened(store: HistoryStore) -> Callable[[], list[str]]:
    def again() -> list[str]:
        store.close()
        return store.open()

    return again


class TestNotPersisting(HistorySuite):
    test_rows_survive_and_running_ones_are_lost = None  # they do not

    def cut(self, given: object) -> set[str]:
        return set()


def traces(directory: Path) -> list[Path]:
    """Files below a directory with the marker in their name or content."""
    return [
        path
        for path in directory.rglob("*")
        if MARKER in path.name or (path.is_file() and MARKER.encode() in path.read_bytes())
    ]


def test_nothing_of_an_execution_reaches_the_disk(tmp_path: Path) -> None:
    directory = tmp_path / "history"
    vm_id = fresh("vm")
    with HistoryStore(directory, persist=False) as store:
        kept, released = snapshot(vm_id, "manual"), snapshot(vm_id, "restore_point")
        for each in (kept, released):
            store.add_snapshot(each, "layer")
        begun = entry(vm_id, command=MARKER, snapshot_before=released.id)
        store.begin(begun, max_entries=1)
        store.finish(ended(begun, stdout=MARKER * 5000, stderr=MARKER, success=False))
        found = store.query(HistoryQueryRequest(vm_id=vm_id, search=MARKER, failures_only=True))
        assert [each.id for each in found.entries] == [begun.id]
        assert found.entries[0].stdout == MARKER * 5000
        assert traces(directory) == []
        assert run(store, vm_id, most=1) == Dropped((begun.id,), (released.id,))
        store.finish(begun)
    assert traces(directory) == []
    with HistoryStore(directory, persist=False) as store:
        assert store.get(begun.id) is None
        assert [each.id for each in store.list_snapshots(vm_id)] == [kept.id]


def test_snapshots_nothing_refers_to_after_a_restart_are_gone(tmp_path: Path) -> None:
    vm_id = fresh("vm")
    left = snapshot(vm_id, "execution")
    with HistoryStore(tmp_path, persist=False) as store:
        store.add_snapshot(left, "layer")
        store.finish(ended(entry(vm_id, snapshot_id=left.id)))
        assert store.get_snapshot(left.id)
    with HistoryStore(tmp_path, persist=False) as store:
        assert store.get_snapshot(left.id) is None


def test_rows_of_a_time_with_persistence_stay_and_go_with_their_vm(tmp_path: Path) -> None:
    vm_id = fresh("vm")
    kept = snapshot(vm_id, "execution")
    earlier = ended(entry(vm_id, snapshot_id=kept.id))
    with HistoryStore(tmp_path) as store:
        store.add_snapshot(kept, "layer")
        store.finish(earlier)
    with HistoryStore(tmp_path, persist=False) as store:
        assert store.get(earlier.id) is None
        assert store.get_snapshot(kept.id)
    with HistoryStore(tmp_path) as store:
        assert store.get(earlier.id) == earlier
    with HistoryStore(tmp_path, persist=False) as store:
        assert store.delete_vm(vm_id) == Dropped((earlier.id,), (kept.id,))
    with HistoryStore(tmp_path) as store:
        assert store.get(earlier.id) is None
