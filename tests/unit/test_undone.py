"""Which executions a rollback took back, from the history alone."""

from datetime import UTC, datetime, timedelta

import pytest

from mulligan.client.undone import undone
from mulligan.models import CommandHistoryEntry

START = datetime(2026, 1, 1, tzinfo=UTC)


def entry(minute: int, before: str | None) -> CommandHistoryEntry:
    return CommandHistoryEntry(
        id=f"exec-{minute}",
        vm_id="vm-1",
        agent_id="ada",
        command="x",
        language="python",
        success=True,
        exit_code=0,
        stdout="",
        stderr="",
        executed_at=START + timedelta(minutes=minute),
        duration_ms=1,
        snapshot_before=before,
    )


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
    ],
)
def test_undone(
    befores: list[str | None],
    restored: str,
    at: float | None,
    stood: str | None,
    expected: list[int],
) -> None:
    entries = [entry(minute, before) for minute, before in enumerate(befores)][::-1]
    when = None if at is None else START + timedelta(minutes=at)
    found = undone(entries, restored, when, stood)
    assert [each.id for each in found] == [f"exec-{minute}" for minute in expected]
