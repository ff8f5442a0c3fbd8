"""Which rows are wanted, how many there are, and a page of them, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, func, select

from mulligan.history import blocks as counted
from mulligan.history import words as full_text
from mulligan.history.columns import microseconds
from mulligan.history.records import FAILED
from mulligan.history.schema import blocks, executions, words
from mulligan.models import HistoryQueryRequest

DEFAULT_LIMIT = 100
MOST_ROWS = 1000  # of one answer
_MOST_OFFSET = 2**62


@dataclass(frozen=True)
class Wanted:
    """What rows must be like; None where it does not matter.

    ``status`` is one of those in `records`; where there is a ``search``, it may be "failed" only.
    """

    vm_id: str
    status: str | None = None
    agent_id: str | None = None
    language: str | None = None
    kernel: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    search: str | None = None

    @classmethod
    def of(cls, request: HistoryQueryRequest) -> Wanted:
        """What a request asks for; a blank search asks for nothing."""
        return cls(
            vm_id=request.vm_id,
            status=FAILED if request.failures_only else None,
            agent_id=request.agent_id,
            language=request.language,
            kernel=request.kernel,
            start=request.start_date,
            end=request.end_date,
            search=request.search if request.search and request.search.strip() else None,
        )


def find(
    connection: Connection, wanted: Wanted, limit: int | None, offset: int
) -> tuple[list[Any], int]:
    """A page of rows of ``executions``, newest first, and the number of all that match.

    Args:
        connection: to the database.
        wanted: what rows must be like.
        limit: most rows of the page; None: `DEFAULT_LIMIT`. Never more than `MOST_ROWS`.
        offset: how many of the newest to pass over.
    """
    limit = min(DEFAULT_LIMIT if limit is None else limit, MOST_ROWS)
    offset = min(offset, _MOST_OFFSET)
    if wanted.search is not None:
        numbers, total = _search(connection, wanted, limit, offset)
    else:
        numbers, total = _filter(connection, wanted, limit, offset)
    if not numbers:
        return [], total
    rows = connection.execute(
        select(executions).where(executions.c.seq.in_(numbers)).order_by(executions.c.seq.desc())
    )
    return list(rows.mappings()), total


def _filter(
    connection: Connection, wanted: Wanted, limit: int, offset: int
) -> tuple[Sequence[int], int]:
    conditions = [blocks.c.vm_id == wanted.vm_id, *_same(blocks, wanted)]
    if wanted.status is not None:
        conditions.append(blocks.c.status == wanted.status)
    found = counted.matching(
        connection,
        conditions,
        None if wanted.start is None else microseconds(wanted.start),
        None if wanted.end is None else microseconds(wanted.end),
    )
    total = sum(block.rows for block in found if block.whole)
    partly = [block.id for block in found if not block.whole]
    dates = _dates(wanted)
    if partly:
        total += connection.execute(
            select(func.count()).where(executions.c.block_id.in_(partly), *dates)
        ).scalar_one()
    if not limit or offset >= total:
        return [], total
    chosen = [block.id for block in counted.newest(found, offset + limit)]
    numbers = connection.execute(
        select(executions.c.seq)
        .where(executions.c.block_id.in_(chosen), *dates)
        .order_by(executions.c.seq.desc())
        .limit(limit)
        .offset(offset)
    )
    return numbers.scalars().all(), total


def _search(
    connection: Connection, wanted: Wanted, limit: int, offset: int
) -> tuple[Sequence[int], int]:
    assert wanted.search is not None
    assert wanted.status in {None, FAILED}
    looked_for = full_text.search_words(wanted.search)
    if not looked_for:
        return [], 0  # nothing but punctuation, which is in no index
    conditions: list[ColumnElement[bool]] = []
    source: FromClause = words
    if wanted != Wanted(wanted.vm_id, wanted.status, search=wanted.search):
        # Nothing about the VM, which the match has: SQLite would take the index of VMs for a
        # reason to start there, and ask the full-text index about row after row.
        source = words.join(executions, executions.c.seq == words.c.rowid)
        conditions = [*_same(executions, wanted), *_dates(wanted)]
    failed = wanted.status == FAILED
    match = full_text.condition(connection, wanted.vm_id, looked_for, failed=failed)
    total = connection.execute(
        select(func.count()).select_from(source).where(match, *conditions)
    ).scalar_one()
    if not limit or offset >= total:
        return [], total
    numbers = connection.execute(
        select(words.c.rowid)
        .select_from(source)
        .where(match, *conditions)
        .order_by(words.c.rowid.desc())
        .limit(limit)
        .offset(offset)
    )
    return numbers.scalars().all(), total


def _same(table: FromClause, wanted: Wanted) -> list[ColumnElement[bool]]:
    """The conditions that blocks and rows share."""
    given = {name: getattr(wanted, name) for name in ("agent_id", "language", "kernel")}
    return [table.c[name] == value for name, value in given.items() if value is not None]


def _dates(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.start is not None:
        conditions.append(executions.c.executed_at >= wanted.start)
    if wanted.end is not None:
        conditions.append(executions.c.executed_at <= wanted.end)
    return conditions
