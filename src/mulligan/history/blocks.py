"""Counts that spare counting.

``total`` of a query counts all matches, and counting a million rows takes far longer than a query
may. So every row belongs to a block: up to `BLOCK_ROWS` rows of one VM that agree in agent,
language, kernel and status, with their number and the span of their sequence numbers and times.
A query then adds up the blocks that match, and looks only into those whose times are partly
inside the wanted ones. Spans may be wider than the rows that are left; numbers are exact.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from mulligan.history import records
from mulligan.history.columns import microseconds
from mulligan.history.hot import Hot
from mulligan.history.schema import blocks
from mulligan.history.sequence import vm_of
from mulligan.models import CommandHistoryEntry

BLOCK_ROWS = 1024
_FAR = 1 << 62


@dataclass(frozen=True)
class Block:
    """A block as a query sees it; ``whole`` where all its rows match."""

    id: int
    rows: int
    min_seq: int
    max_seq: int
    whole: bool


# Statements of every execution are built once: building one takes longer than running it.
_c = blocks.c
_OPEN = Hot(
    select(_c.id)
    .where(
        _c.vm == bindparam("vm", type_=BigInteger),
        _c.agent_id == bindparam("agent"),
        _c.language == bindparam("lang"),
        _c.kernel.is_not_distinct_from(bindparam("kern")),
        _c.status == bindparam("stat"),
        _c.taken < bindparam("most", type_=BigInteger),
    )
    .order_by(_c.id.desc())
    .limit(1)
)
_MAKE = insert(blocks).returning(_c.id)
_SEQ = bindparam("seq", type_=BigInteger)
_TIME = bindparam("time", type_=BigInteger)
_ENTER = Hot(
    update(blocks)
    .where(_c.id == bindparam("block"))
    .values(
        rows=_c.rows + 1,
        taken=_c.taken + 1,
        min_seq=case((_c.min_seq > _SEQ, _SEQ), else_=_c.min_seq),
        max_seq=case((_c.max_seq < _SEQ, _SEQ), else_=_c.max_seq),
        min_time=case((_c.min_time > _TIME, _TIME), else_=_c.min_time),
        max_time=case((_c.max_time < _TIME, _TIME), else_=_c.max_time),
    )
)
_LEAVE = Hot(
    update(blocks)
    .where(_c.id == bindparam("block"))
    .values(rows=_c.rows - bindparam("count", type_=BigInteger))
    .returning(_c.rows)
)
_REMOVE = Hot(delete(blocks).where(_c.id == bindparam("block"), _c.rows <= 0))
_COUNT = Hot(
    select(func.coalesce(func.sum(_c.rows), 0)).where(_c.vm == bindparam("vm", type_=BigInteger))
)


def enter(connection: Connection, seq: int, entry: CommandHistoryEntry) -> int:
    """Counts a row into a block with room, made if there is none; returns the block's id."""
    block_id = _open_block(connection, vm_of(seq), entry)
    time = microseconds(entry.executed_at)
    _ENTER.run(connection, {"block": block_id, "seq": seq, "time": time})
    return block_id


def _open_block(connection: Connection, vm: int, entry: CommandHistoryEntry) -> int:
    status = records.status(entry)
    wanted = {
        "vm": vm,
        "agent": entry.agent_id,
        "lang": entry.language,
        "kern": entry.kernel,
        "stat": status,
        "most": BLOCK_ROWS,
    }
    for (found,) in _OPEN.run(connection, wanted):
        return int(found)
    made = {
        "vm": vm,
        "agent_id": entry.agent_id,
        "language": entry.language,
        "kernel": entry.kernel,
        "status": status,
        "rows": 0,
        "taken": 0,
        "min_seq": _FAR,
        "max_seq": -_FAR,
        "min_time": _FAR,
        "max_time": -_FAR,
    }
    return int(connection.execute(_MAKE, made).scalar_one())


def leave(connection: Connection, block_id: int, count: int = 1) -> None:
    """Counts rows out; a block without any is gone."""
    for (left,) in _LEAVE.run(connection, {"block": block_id, "count": count}):
        if left <= 0:
            _REMOVE.run(connection, {"block": block_id})


def count(connection: Connection, vm: int) -> int:
    """How many rows a VM has."""
    [(found,)] = _COUNT.run(connection, {"vm": vm})
    return int(found)


def matching(
    connection: Connection,
    conditions: Iterable[ColumnElement[bool]],
    start: int | None,
    end: int | None,
) -> list[Block]:
    """The blocks that meet the conditions and may have rows in a span of time.

    Args:
        connection: to the database.
        conditions: on columns of ``blocks``.
        start: first microsecond wanted, if there is a first.
        end: last microsecond wanted, if there is a last.

    Returns:
        Those with the newest rows first.
    """
    c = blocks.c
    first, last = -_FAR if start is None else start, _FAR if end is None else end
    rows = connection.execute(
        select(c.id, c.rows, c.min_seq, c.max_seq, c.min_time, c.max_time)
        .where(*conditions, c.max_time >= first, c.min_time <= last)
        .order_by(c.max_seq.desc())
    )
    return [
        Block(id_, count, low, high, first <= min_time and max_time <= last)
        for id_, count, low, high, min_time, max_time in rows
    ]


def newest(found: Sequence[Block], count: int) -> list[Block]:
    """Of blocks in the order of `matching`, those that can have one of the newest ``count`` rows.

    Blocks interleave; one is out of question when as many rows are surely newer than all of it.
    """
    chosen: list[Block] = []
    waiting: list[tuple[int, int]] = []  # (-min_seq, rows) of whole blocks that are chosen
    surely = 0
    for block in found:
        while waiting and -waiting[0][0] > block.max_seq:
            surely += heapq.heappop(waiting)[1]
        if surely >= count:
            break
        chosen.append(block)
        if block.whole:
            heapq.heappush(waiting, (-block.min_seq, block.rows))
    return chosen
