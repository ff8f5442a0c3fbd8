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
from mulligan.history.records import FAILED, REFUSED
from mulligan.history.schema import blocks, executions, words
from mulligan.history.sequence import span, vm_number
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


@dataclass(frozen=True)
class _Page:
    limit: int
    offset: int

    def of(
        self,
        connection: Connection,
        number: ColumnElement[int],
        conditions: Sequence[ColumnElement[bool]],
        total: int,
        source: FromClause | None = None,
    ) -> tuple[Sequence[int], int]:
        """The sequence numbers on the page, and the total."""
        if not self.limit or self.offset >= total:
            return [], total
        statement = select(number).where(*conditions).order_by(number.desc())
        if source is not None:
            statement = statement.select_from(source)
        found = connection.execute(statement.limit(self.limit).offset(self.offset))
        return found.scalars().all(), total


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
    vm = vm_number(connection, wanted.vm_id)
    if vm is None:
        return [], 0
    page = _Page(limit, min(offset, _MOST_OFFSET))
    if wanted == Wanted(wanted.vm_id):
        numbers, total = _all(connection, vm, page)
    elif wanted.search is None:
        numbers, total = _filter(connection, vm, wanted, page)
    else:
        numbers, total = _search(connection, vm, wanted, page)
    if not numbers:
        return [], total
    rows = connection.execute(
        select(executions).where(executions.c.seq.in_(numbers)).order_by(executions.c.seq.desc())
    )
    return list(rows.mappings()), total


def newest(connection: Connection, vm_id: str) -> Any:
    """A VM's newest row of an execution that was let run; None if there is none."""
    vm = vm_number(connection, vm_id)
    if vm is None:
        return None
    wanted = [executions.c.seq.between(*span(vm)), executions.c.outcome != REFUSED]
    statement = select(executions).where(*wanted).order_by(executions.c.seq.desc()).limit(1)
    return connection.execute(statement).mappings().one_or_none()


def _all(connection: Connection, vm: int, page: _Page) -> tuple[Sequence[int], int]:
    total = counted.count(connection, vm)
    return page.of(connection, executions.c.seq, [executions.c.seq.between(*span(vm))], total)


def _filter(
    connection: Connection, vm: int, wanted: Wanted, page: _Page
) -> tuple[Sequence[int], int]:
    found = _blocks(connection, vm, wanted)
    total = sum(block.rows for block in found if block.whole)
    partly = [block.id for block in found if not block.whole]
    dates = _dates(wanted)
    if partly:
        total += connection.execute(
            select(func.count()).where(executions.c.block_id.in_(partly), *dates)
        ).scalar_one()
    chosen = counted.newest(found, page.offset + page.limit)
    if not chosen:
        return [], total
    conditions = [
        executions.c.block_id.in_([block.id for block in chosen]),
        # PostgreSQL may go down the rows by number, and would else meet other VMs' first.
        executions.c.seq.between(min(block.min_seq for block in chosen), chosen[0].max_seq),
        *dates,
    ]
    return page.of(connection, executions.c.seq, conditions, total)


def _search(
    connection: Connection, vm: int, wanted: Wanted, page: _Page
) -> tuple[Sequence[int], int]:
    assert wanted.search is not None
    assert wanted.status in {None, FAILED}
    looked_for = full_text.search_words(wanted.search)
    if not looked_for:
        return [], 0  # nothing but punctuation, which is in no index
    conditions: list[ColumnElement[bool]] = []
    source: FromClause = words
    low, high = span(vm)
    if wanted != Wanted(wanted.vm_id, wanted.status, search=wanted.search):
        found = _blocks(connection, vm, wanted)
        if not found:
            return [], 0
        low, high = min(block.min_seq for block in found), found[0].max_seq
        source = words.join(executions, executions.c.seq == words.c.rowid)
        conditions = [*_same(executions, wanted), *_dates(wanted)]
    failed = wanted.status == FAILED
    conditions += full_text.condition(connection, looked_for, (low, high), failed=failed)
    total = connection.execute(
        select(func.count()).select_from(source).where(*conditions)
    ).scalar_one()
    return page.of(connection, words.c.rowid, conditions, total, source)


def _blocks(connection: Connection, vm: int, wanted: Wanted) -> list[counted.Block]:
    conditions = [blocks.c.vm == vm, *_same(blocks, wanted)]
    if wanted.status is not None:
        conditions.append(blocks.c.status == wanted.status)
    return counted.matching(
        connection,
        conditions,
        None if wanted.start is None else microseconds(wanted.start),
        None if wanted.end is None else microseconds(wanted.end),
    )


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
