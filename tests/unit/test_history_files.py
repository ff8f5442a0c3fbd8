"""The history's files: damaged, foreign, read-only, full, and seen by nobody else."""

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from mulligan.errors import ConfigError, HistoryError
from mulligan.history import HistoryStore, schema
from mulligan.models import HistoryQueryRequest
from support.history import ended, entry, fresh, ids, run, snapshot

NOBODY = 65534


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "history"


def filled(directory: Path, rows: int = 50) -> Path:
    """A history with some rows, closed; its file."""
    with HistoryStore(directory) as store:
        for number in range(rows):
            run(store, "vm-filled", command=f"value_{number} = {'x' * 500}")
    return directory / "history.db"


def refusal(directory: Path, kind: type[HistoryError | ConfigError] = HistoryError) -> HistoryError:
    """The error that opening a history ends with; it names the file and says what to do."""
    with pytest.raises(kind) as caught, HistoryStore(directory):
        pass
    assert str(directory) in str(caught.value)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("content", [os.urandom(20_000), b"x", b"SQLite format 3\x00"])
def test_a_file_that_is_no_database_is_left_alone(directory: Path, content: bytes) -> None:
    directory.mkdir()
    path = directory / "history.db"
    path.write_bytes(content)
    assert "corrupted" in str(refusal(directory))
    assert path.read_bytes() == content


def test_garbage_behind_a_good_beginning_is_left_alone(directory: Path) -> None:
    path = filled(directory)
    content = path.read_bytes()[:100] + os.urandom(path.stat().st_size - 100)
    path.write_bytes(content)
    refusal(directory)
    assert path.read_bytes() == content


@pytest.mark.parametrize("part", [0.001, 0.5, 0.99])
def test_a_database_cut_short_is_left_alone(directory: Path, part: float) -> None:
    path = filled(directory)
    content = path.read_bytes()
    content = content[: int(len(content) * part)]
    path.write_bytes(content)
    assert "corrupted" in str(refusal(directory))
    assert path.read_bytes() == content


@pytest.mark.parametrize("gone", [True, False])
def test_a_log_without_its_database_is_not_thrown_away(directory: Path, gone: bool) -> None:
    directory.mkdir()
    log = directory / "history.db-wal"
    log.write_bytes(b"what was acknowledged")
    if not gone:
        (directory / "history.db").touch()
    assert "history.db-wal has content" in str(refusal(directory))
    assert log.read_bytes() == b"what was acknowledged"


def test_damage_in_the_middle_is_named_when_it_is_met(directory: Path) -> None:
    path = filled(directory, 400)
    with path.open("r+b") as file:
        pages = path.stat().st_size // 4096
        file.seek(pages // 3 * 4096)
        file.write(b"\xa5" * (pages // 3 * 4096))
    with pytest.raises(HistoryError) as caught, HistoryStore(directory) as store:
        store.query(HistoryQueryRequest(vm_id="vm-filled", limit=1000))
    assert f"the database is corrupted: {path}" in str(caught.value)
    assert "keep a copy" in str(caught.value.remedy)


def test_a_newer_database_is_refused(directory: Path) -> None:
    path = filled(directory)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE mulligan_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    error = refusal(directory)
    assert "newer version of Mulligan (tables '9999'" in str(error)
    assert path.read_bytes() == content


def test_the_steps_make_the_tables_the_code_names(directory: Path) -> None:
    path = filled(directory)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        options = {
            "version_table": schema.VERSION_TABLE,
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or "words" not in name,
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
        statement = "SELECT sql FROM sqlite_master WHERE name = 'mulligan_words'"
        assert connection.exec_driver_sql(statement).scalar() == schema._WORDS["sqlite"][0]
    engine.dispose()


def as_nobody(work: Callable[[], None]) -> None:
    """Does something as a user to whom permissions apply."""
    if os.geteuid() != 0:
        work()
        return
    os.seteuid(NOBODY)
    try:
        work()
    finally:
        os.seteuid(0)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that any user can get to."""
    with tempfile.TemporaryDirectory(prefix="mulligan-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_directory_that_takes_nothing(open_directory: Path) -> None:
    open_directory.chmod(0o555)
    as_nobody(lambda: refusal(open_directory / "history", ConfigError) and None)
    open_directory.chmod(0o755)
    history = open_directory / "history"
    path = filled(history)
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    os.chown(history, user, -1)
    os.chown(path, user, -1)
    path.chmod(0o400)
    as_nobody(lambda: refusal(history) and None)
    path.chmod(0o600)
    as_nobody(lambda: filled(history) and None)


def test_a_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal(tmp_path / "file" / "history", ConfigError)


def test_another_program_that_holds_the_database(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mulligan.history.database.LOCK_SECONDS", 0)
    with HistoryStore(directory) as store:
        other = sqlite3.connect(directory / "history.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        each = entry("vm")
        with pytest.raises(HistoryError, match="the database is locked") as caught:
            store.begin(each, max_entries=None)
        assert "another program" in str(caught.value.remedy)
        assert ids(store, "vm") == []  # readers go on
        other.execute("ROLLBACK")
        other.close()
        store.begin(each, max_entries=None)
        assert ids(store, "vm") == [each.id]


def test_a_full_database_keeps_what_it_has_and_goes_on(directory: Path) -> None:
    with HistoryStore(directory) as store:
        done = ended(entry("vm"))
        store.finish(done)

        def limit(pages: int) -> None:
            with store._disk.write() as connection:  # the one connection that writes
                connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        with store._disk.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        limit(pages + 4)
        big = ended(entry("vm"), stdout="x y " * 10_000)

        def fill() -> None:
            for _ in range(10):
                store.finish(big.model_copy(update={"id": fresh("exec")}))

        with pytest.raises(HistoryError, match="the disk is full") as caught:
            fill()
        assert "free some space" in str(caught.value.remedy)
        before = ids(store, "vm")
        assert before[-1] == done.id
        limit(2**30)
        run(store, "vm")
        assert ids(store, "vm")[1:] == before


@contextmanager
def small_disk(path: Path, kibibytes: int) -> Iterator[None]:
    """A file system of that size at a path."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs rights this user has not")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 4096), HistoryStore(disk / "history") as store:
        done = ended(entry("vm"), stdout="z" * 100_000)
        store.finish(done)
        filler = disk / "filler"

        def fill() -> None:
            with filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)

        def fill_the_log() -> None:  # it may go on in what was its own already
            for _ in range(500):
                run(store, "vm", command="q" * 10_000)

        with pytest.raises(OSError, match="No space"):
            fill()
        with pytest.raises(HistoryError, match="the disk is full") as caught:
            store.finish(ended(entry("vm"), stdout="z" * 100_000))
        assert "free some space" in str(caught.value.remedy)
        with pytest.raises(HistoryError, match="the disk is full"):
            fill_the_log()
        assert store.get(done.id) == done
        assert not list(disk.rglob("*.new-*"))
        filler.unlink()
        run(store, "vm")
        assert store.get(done.id) == done


def test_only_the_server_s_user_can_read_any_of_it(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    with HistoryStore(directory, output_inline_bytes=10) as store:
        run(store, "vm", stdout="more than ten bytes")
        found = [directory, *directory.rglob("*")]
        assert {"history.db", "history.db-wal", "outputs"} <= {path.name for path in found}
        for path in found:
            assert stat.S_IMODE(path.stat().st_mode) in {0o700, 0o600}, path


def output_files(directory: Path) -> list[Path]:
    return [path for path in directory.glob("outputs/*/*") if path.is_file()]


def test_output_files_go_with_their_rows(directory: Path) -> None:
    with HistoryStore(directory, output_inline_bytes=10) as store:
        begun = entry("vm")
        store.begin(begun, max_entries=1)
        store.finish(ended(begun, stdout="o" * 11, stderr="e" * 11))
        assert {path.suffix for path in output_files(directory)} == {".stdout", ".stderr"}
        run(store, "vm", most=1)
        assert output_files(directory) == []
        store.finish(ended(entry("vm"), stdout="o" * 11))
        store.delete_vm("vm")
        assert output_files(directory) == []


def test_an_output_that_cannot_be_removed_is_removed_at_the_next_start(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HistoryStore(directory, output_inline_bytes=10) as store:
        store.finish(ended(entry("vm"), stdout="o" * 11))
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> None:
                raise PermissionError

            patch.setattr("mulligan.history.outputs.Outputs.remove", refuse)
            store.delete_vm("vm")
        assert output_files(directory)
    with HistoryStore(directory):
        assert output_files(directory) == []


def test_a_missing_output_is_told_and_hides_nothing(directory: Path) -> None:
    with HistoryStore(directory, output_inline_bytes=10) as store:
        made = [ended(entry("vm"), stdout="o" * 11, stderr="fine") for _ in range(2)]
        for each in made:
            store.finish(each)
        path = next(directory.glob(f"outputs/*/{made[0].id}.stdout"))
        path.unlink()
        got = store.get(made[0].id)
        assert got.stdout == f"[this output is missing: there is no file {path}]"
        assert got.stderr == "fine"
        path.mkdir()
        assert "cannot be read" in store.get(made[0].id).stdout
        assert ids(store, "vm") == [made[1].id, made[0].id]


def test_half_written_outputs_of_lost_executions_are_removed(directory: Path) -> None:
    with HistoryStore(directory, output_inline_bytes=10) as store:
        lost = entry("vm")
        store.begin(lost, max_entries=None)
        path = store._outputs.path(lost.id, "stdout")
        path.parent.mkdir(parents=True)
        path.write_text("written, but its row was not")
        path.with_name(f"{path.name}.new-1234").write_text("half")
    with HistoryStore(directory) as store:
        assert store.get(lost.id).outcome == "lost"
        assert output_files(directory) == []


def test_power_means_waiting_for_the_disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or real(fd)
    )
    for durability, level in (("process", 1), ("power", 2)):
        with HistoryStore(directory, durability=durability, output_inline_bytes=10) as store:
            store.finish(ended(entry("vm"), stdout="o" * 11))
            with store._disk.read() as connection:
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert bool(synced) == (durability == "power")
    assert [path for path in synced if ".stdout.new-" in path]
    assert str(directory / "outputs") in {str(Path(path).parent) for path in synced}


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://x/y", "sqlite:///x.db", "postgresql+asyncpg2://u:secret@h:x/d"]
)
def test_an_address_that_is_none(directory: Path, url: str) -> None:
    with (
        pytest.raises(ConfigError, match="database_url") as caught,
        HistoryStore(directory, url=url),
    ):
        pass
    assert "postgresql+psycopg://" in str(caught.value.remedy)
    assert "secret" not in str(caught.value)


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, mulligan.history as h; assert 'sqlalchemy' not in sys.modules; "
        "h.HistoryStore; assert 'sqlalchemy' in sys.modules; assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_execution_stays_with_its_vm(directory: Path) -> None:
    with HistoryStore(directory) as store:
        each = ended(entry("vm-one"))
        store.finish(each)
        with pytest.raises(HistoryError, match="is of VM vm-one"):
            store.finish(each.model_copy(update={"vm_id": "vm-two"}))
        store.add_snapshot(snapshot("vm-one", "manual"), None)
        assert store.get(each.id) == each
