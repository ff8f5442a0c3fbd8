"""What was executed and which states were kept: durable rows in SQLite or PostgreSQL.

Importing this package is cheap: SQLAlchemy is loaded when ``HistoryStore`` is first named.
"""

from typing import TYPE_CHECKING

from mulligan.history.dropped import Dropped

if TYPE_CHECKING:
    from mulligan.history.store import HistoryStore

__all__ = ["Dropped", "HistoryStore"]


def __getattr__(name: str) -> object:
    if name == "HistoryStore":
        from mulligan.history.store import HistoryStore  # noqa: PLC0415  (loads SQLAlchemy)

        return HistoryStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
