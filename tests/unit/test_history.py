"""The history on SQLite: the suite every database has to pass."""

from collections.abc import Callable, Iterator

import pytest

pytest.register_assert_rewrite("support.history")

from mulligan.history import HistoryStore  # noqa: E402
from support.history import INLINE, HistorySuite  # noqa: E402


@pytest.fixture(scope="module", params=["process", "power"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HistoryStore]:
    directory = tmp_path_factory.mktemp("data") / "history"
    with HistoryStore(directory, durability=request.param, output_inline_bytes=INLINE) as opened:
        yield opened


@pytest.fixture
def reopened(store: HistoryStore) -> Callable[[], list[str]]:
    def again() -> list[str]:
        store.close()
        return store.open()

    return again


class TestSqlite(HistorySuite):
    pass
