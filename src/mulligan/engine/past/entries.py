"""What entries of the history tell of where a VM was."""

from __future__ import annotations

from datetime import datetime

from mulligan.errors import RollbackFailed
from mulligan.models import CommandHistoryEntry, Snapshot


def when(change: CommandHistoryEntry | Snapshot) -> datetime:
    """When it was."""
    return change.created_at if isinstance(change, Snapshot) else change.executed_at


def start_of(entry: CommandHistoryEntry) -> str:
    """The snapshot an execution started from.

    Raises:
        RollbackFailed: it has none.
    """
    if entry.snapshot_before is None:
        raise RollbackFailed(
            f"execution {entry.id} has no state it started from: something else ran in the VM "
            "when it started, or history was off",
            remedy="go back to a snapshot, or to an earlier execution",
        )
    return entry.snapshot_before


def after_last_success(entries: list[CommandHistoryEntry]) -> str | None:
    """The state the last success left; None where nothing has run since.

    Args:
        entries: the newest first.

    Raises:
        RollbackFailed: none has succeeded.
    """
    later: CommandHistoryEntry | None = None
    for entry in entries:
        if entry.success:
            if entry.snapshot_after is not None:
                return entry.snapshot_after
            return start_of(later) if later is not None else None
        later = entry
    raise RollbackFailed(
        "no execution that history has succeeded", remedy="name a snapshot or an execution"
    )
