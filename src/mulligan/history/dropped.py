"""What went when rows were dropped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dropped:
    """Ids of what is no longer in the history.

    ``executions`` come oldest first. ``snapshots`` are those whose rows went along; their layers
    may be collected where nothing else refers to them.
    """

    executions: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
