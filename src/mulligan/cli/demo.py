"""``mulligan demo``."""

from __future__ import annotations


def demo() -> None:
    """Show isolation, a runaway program stopped, undo of files and variables, and what it costs."""
    from mulligan.cli import tour

    tour.show()
