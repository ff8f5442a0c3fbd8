"""The history on a real PostgreSQL server: the suite every database has to pass, and its own."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support.approvals", "support.history")
pytest.importorskip("psycopg", reason="the driver is an extra: pip install '.[postgres]'")

from alembic.autogenerate import compare_metadata  # noqa: E402
from alembic.migration import MigrationContext  # noqa: E402
from sqlalchemy import create_engine  # noqa: E402

from mulligan.errors import ConfigError, HistoryError  # noqa: E402
from mulligan.history import HistoryStore, schema  # noqa: E402
from mulligan.history.approvals import open_approvals  # noqa: E402
from mulligan.history.tokens import open_tokens  # noqa: E402
from support.approvals import ApprovalSuite, Opener  # noqa: E402
from support.history import INLINE, HistorySuite, ended, entry, ids, run  # noqa: E402
from support.postgres import Postgres, server  # noqa: E402


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with server() as running:
        yield running


@pytest.fixture(scope="module", params=["process", "power"])
def store(
    postgres: Postgres, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HistoryStore]:
    url = postgres.database(f"suite_{request.param}")
    directory = tmp_path_factory.mktemp("data") / "history"
    with HistoryStore(
        directory, url=url, durability=request.param, output_inline_bytes=INLINE
    ) as opened:
        yield opened


@pytest.fixture
def reopened(store: HistoryStore) -> Callable[[], list[str]]:
    def again() -> list[str]:
        store.close()
        return store.open()

    return again


class TestPostgres(HistorySuite):
    pass


@pytest.fixture(scope="module")
def opened(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    url = postgres.database("approvals")
    return partial(open_approvals, tmp_path_factory.mktemp("data"), url=url)


class TestApprovals(ApprovalSuite):
    pass


def test_the_steps_make_the_tables_the_code_names(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database("steps")
    with HistoryStore(tmp_path, url=url):
        engine = create_engine(url)
        with engine.connect() as connection:
            options = {
                "version_table": schema.VERSION_TABLE,
                "compare_type": True,
                "include_name": lambda name, kind, _: kind != "table" or "words" not in name,
            }
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, schema.metadata) == []
        engine.dispose()
    assert not list(tmp_path.rglob("*.db"))


def test_a_newer_database_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database("newer")
    with HistoryStore(tmp_path, url=url) as store, store._disk.write() as connection:
        connection.exec_driver_sql("UPDATE mulligan_version SET version_num = '9999'")
    with pytest.raises(HistoryError, match="newer version of Mulligan"):
        HistoryStore(tmp_path, url=url).open()


def test_connections_the_server_has_ended_are_replaced(postgres: Postgres, tmp_path: Path) -> None:
    with HistoryStore(tmp_path, url=postgres.database("ended")) as store:
        run(store, "vm")
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ended'"
        )
        run(store, "vm")
        assert len(ids(store, "vm")) == 2


def test_executions_in_memory_and_snapshots_in_the_database(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.database("memory")
    with HistoryStore(tmp_path, url=url, persist=False) as store:
        store.finish(ended(entry("vm")))
        assert len(ids(store, "vm")) == 1
    with HistoryStore(tmp_path, url=url) as store:
        assert ids(store, "vm") == []


def test_what_is_wrong_with_a_database_is_told(postgres: Postgres, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match='"nowhere" does not exist') as no:
        HistoryStore(tmp_path, url=postgres.url("nowhere")).open()
    assert "database_url" in str(no.value.remedy)
    gone = "postgresql+psycopg://tester:secret@/x?host=/nowhere"
    with pytest.raises(HistoryError, match="there is no connection") as no:
        HistoryStore(tmp_path, url=gone).open()
    assert "server runs" in str(no.value.remedy)
    assert "secret" not in str(no.value)
    narrow = postgres.database("narrow", "ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(ConfigError, match="has encoding SQL_ASCII"):
        HistoryStore(tmp_path, url=narrow).open()


def test_a_read_only_database(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database("frozen")
    postgres.execute("ALTER DATABASE frozen SET default_transaction_read_only = on")
    with pytest.raises(HistoryError, match="takes no changes"):
        HistoryStore(tmp_path, url=url).open()


def test_tokens(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database("tokens")
    with open_tokens(tmp_path / "one", url=url) as store:
        made = [store.create("a", name="note")[0], store.create(None)[0]]
        assert store.list() == made
        assert store.revoke(made[0].id)
    with open_tokens(tmp_path / "other", url=url) as store:
        assert [each.state(made[0].created_at) for each in store.list()] == ["revoked", "good"]
        store.used({made[1].id: made[0].created_at})
        assert store.list()[1].last_used_at == made[0].created_at
        assert store.forget(made[0].id)
        assert not store.forget(made[1].id)
