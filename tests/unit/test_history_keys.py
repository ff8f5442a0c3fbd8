"""Idempotency keys in the database: bounds, and what survives."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mulligan.history.database import Database, open_sqlite
from mulligan.history.keys import DONE, LOST, RUNNING, KeyStore

NOW = datetime(2025, 1, 2, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path):
    opened = open_sqlite(tmp_path / "history.db", power=False)
    yield opened
    opened.close()


def store(database: Database, clock: Clock, *, persist: bool = True, **more: int) -> KeyStore:
    bounds = {"max_keys": 3, "max_bytes": 100} | more
    return KeyStore(
        lambda: database, persist=persist, keep_for=timedelta(hours=1), clock=clock, **bounds
    )


@pytest.mark.parametrize("persist", [True, False])
def test_a_key_is_new_once(database: Database, clock: Clock, persist: bool) -> None:
    keys = store(database, clock, persist=persist)
    first = keys.take("a", "k", "d1", "execute", "exec-1")
    assert (first.new, first.state) == (True, RUNNING)
    again = keys.take("a", "k", "d2", "execute", "exec-2")
    assert (again.new, again.number, again.digest) == (False, first.number, "d1")
    assert again.execution_id == "exec-1"
    assert keys.take("b", "k", "d1", "execute", None).new
    keys.finish(first.number, 201, b"\x00answer")
    done = keys.take("a", "k", "d1", "execute", None)
    assert (done.state, done.status, done.body) == (DONE, 201, b"\x00answer")


def test_a_released_key_is_new_again(database: Database, clock: Clock) -> None:
    keys = store(database, clock)
    keys.release(keys.take("a", "k", "d", "execute", None).number)
    assert keys.take("a", "k", "other", "execute", None).new


def test_what_a_dead_server_had_begun_is_lost(database: Database, clock: Clock) -> None:
    keys = store(database, clock)
    keys.take("a", "begun", "d", "execute", "exec-1")
    keys.finish(keys.take("a", "ended", "d", "execute", None).number, 200, b"x")
    assert store(database, clock).end_leftovers() == ["begun"]
    assert keys.take("a", "begun", "d", "execute", None).state == LOST
    assert keys.take("a", "ended", "d", "execute", None).state == DONE
    assert store(database, clock).end_leftovers() == []


def test_keys_expire_but_not_while_they_run(database: Database, clock: Clock) -> None:
    keys = store(database, clock)
    keys.finish(keys.take("a", "ended", "d", "execute", None).number, 200, b"x")
    keys.take("a", "running", "d", "execute", None)
    clock.now = NOW + timedelta(minutes=59)
    assert not keys.take("a", "ended", "d", "execute", None).new
    clock.now = NOW + timedelta(hours=1)
    assert keys.take("a", "ended", "d", "execute", None).new
    assert not keys.take("a", "running", "d", "execute", None).new


def test_of_too_many_keys_the_agents_oldest_go(database: Database, clock: Clock) -> None:
    keys = store(database, clock)
    keys.finish(keys.take("b", "k0", "d", "execute", None).number, 200, b"x")
    for number in range(4):
        keys.finish(keys.take("a", f"k{number}", "d", "execute", None).number, 200, b"x")
    assert not keys.take("b", "k0", "d", "execute", None).new
    for number in (3, 2, 1):
        assert not keys.take("a", f"k{number}", "d", "execute", None).new
    assert keys.take("a", "k0", "d", "execute", None).new


@pytest.mark.parametrize("persist", [True, False])
def test_of_too_many_bytes_the_oldest_answers_go(
    database: Database, clock: Clock, persist: bool
) -> None:
    keys = store(database, clock, persist=persist)
    for name, size in (("old", 60), ("middle", 40), ("new", 60), ("huge", 101)):
        keys.finish(keys.take("a", name, "d", "execute", None).number, 200, b"x" * size)
    found = {name: keys.take("a", name, "d", "execute", None) for name in ("middle", "new", "huge")}
    assert {name: len(each.body or b"") for name, each in found.items()} == {
        "middle": 40,
        "new": 60,
        "huge": 0,
    }
    assert all(each.state == DONE and not each.new for each in found.values())


def test_answers_that_do_not_persist_are_not_on_the_disk(
    database: Database, clock: Clock, tmp_path: Path
) -> None:
    keys = store(database, clock, persist=False)
    keys.finish(keys.take("a", "k", "d", "execute", None).number, 200, b"told nobody")
    assert keys.take("a", "k", "d", "execute", None).body == b"told nobody"
    after = store(database, clock, persist=False).take("a", "k", "d", "execute", None)
    assert (after.state, after.body) == (DONE, None)
    assert all(b"told nobody" not in path.read_bytes() for path in tmp_path.iterdir())
