"""Which executions a rollback took back, from the history alone."""

from datetime import UTC, datetime, timedelta

import pytest

from mulligan.engine.past.undone import Ran, undone
from mulligan.history.starts import State

START = datetime(2026, 1, 1, tzinfo=UTC)


def ran(minute: int, start: State | None) -> Ran:
    return Ran(f"exec-{minute}", START + timedelta(minutes=minute), start)


def state(text: str | None) -> State | None:
    """ "a" is a state, "b=a" another snapshot of it; "a+" and "b=a+" have memory, too."""
    if text is None:
        return None
    name, _, layer = text.removesuffix("+").partition("=")
    return State(name, layer or name, memory=text.endswith("+"))


@pytest.mark.parametrize(
    ("befores", "restored", "at", "stood", "expected"),
    [
        (["a", "b", "c"], "c", None, None, [2]),
        (["a", "b", "c"], "a", None, None, [2, 1, 0]),
        ([], "a", None, None, []),
        # the second was taken back before the third ran
        (["a", "b", "b"], "a", None, None, [2, 0]),
        # and nothing ran since the last one was
        (["a", "b", "c"], "b", None, "c", [1]),
        (["a", "b", "c"], "c", None, "c", []),
        # of one it is not known where it started
        (["a", None, "c"], "a", None, None, [2, 1, 0]),
        # a snapshot between two, and one after all of them
        (["a", "b", "c"], "named", 1.5, None, [2]),
        (["a", "b", "c"], "named", 9, None, []),
        (["a", "b", "c"], "unknown", None, None, []),
        # states that have a snapshot more, as after another start of the server
        (["a", "b", "c"], "b", None, "x=c", [1]),
        (["a", "b", "x=b", "d"], "y=b", None, None, [3, 2]),
        (["a", "b", "c", "x=b"], "a", None, None, [3, 0]),
        # cells that change no file: snapshots of one layer, with memory of their own
        (["a", "b=a+", "c=a+"], "b=a+", None, None, [2, 1]),
        (["a", "b=a+", "c=a+"], "b=a+", None, "c=a+", [1]),
        (["a", "b+", "c+"], "b+", None, "x=c", [1]),  # memory is gone, files tell
    ],
)
def test_undone(
    befores: list[str | None],
    restored: str,
    at: float | None,
    stood: str | None,
    expected: list[int],
) -> None:
    every = [ran(minute, state(before)) for minute, before in enumerate(befores)][::-1]
    when = START + timedelta(minutes=99 if at is None else at)
    to = state(restored)
    assert to is not None
    found = undone(every, to, when, state(stood))
    assert found == [f"exec-{minute}" for minute in expected]
