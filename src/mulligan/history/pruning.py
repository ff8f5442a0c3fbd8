"""Dropping rows, with everything that hangs on them, inside the caller's transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Connection,
    bindparam,
    delete,
    exists,
    insert,
    select,
    union_all,
)

from mulligan.history import blocks as counted
from mulligan.history.hot import Hot
from mulligan.history.records import RUNNING
from mulligan.history.schema import (
    SNAPSHOT_COLUMNS,
    doomed_outputs,
    executions,
    snapshots,
    words,
)
from mulligan.history.sequence import forget, span, vm_number, vm_of

AUTOMATIC = ("execution", "restore_point")
_BATCH = 500


@dataclass
class Gone:
    """What was dropped; ``snapshots`` are those the rows referred to, whatever refers to them."""

    executions: list[str] = field(default_factory=list)
    snapshots: set[str] = field(default_factory=set)
    with_files: list[str] = field(default_factory=list)


class _Row(NamedTuple):
    """What of a row matters when it goes, in the order of ``_COLUMNS``."""

    seq: int
    id: str
    block_id: int
    stdout_in_file: bool
    stderr_in_file: bool
    snapshot_id: str | None
    snapshot_before: str | None
    snapshot_after: str | None


class _Made(NamedTuple):
    """A snapshot, and the execution it was made for."""

    id: str
    execution_id: str | None
    kind: str


# Built once, as they run with every execution.
_c = executions.c
_COLUMNS = (_c.seq, _c.id, _c.block_id, _c.stdout_in_file, _c.stderr_in_file, *SNAPSHOT_COLUMNS)
_OLDEST = (
    select(*_COLUMNS)
    .where(_c.seq.between(bindparam("low", type_=BigInteger), bindparam("high", type_=BigInteger)))
    .order_by(_c.seq)
    .limit(bindparam("most", type_=BigInteger))
)
_OLDEST_ENDED = Hot(_OLDEST.where(_c.outcome != RUNNING, _c.seq != bindparam("keep")))
_DELETE_WORDS = Hot(delete(words).where(words.c.rowid == bindparam("number", type_=BigInteger)))
_DELETE_ROW = Hot(delete(executions).where(_c.seq == bindparam("number", type_=BigInteger)))
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_MADE_FOR = Hot(select(snapshots.c.id).where(snapshots.c.execution_id == bindparam("execution")))
_REFERENCES = [
    select(reference.label("id")).where(reference.in_(_IDS)) for reference in SNAPSHOT_COLUMNS
]
_REFERRED = union_all(*_REFERENCES)
# An execution that begins where there are as many as may be drops one, and with it a snapshot or
# two: a statement for each takes a fraction of what one for a list of them does.
_FEW = 4
_REFERRED_ONE = [
    Hot(select(_c.seq).where(reference == bindparam("snapshot")).limit(1))
    for reference in SNAPSHOT_COLUMNS
]
_LIVING_ONE = Hot(select(_c.seq).where(_c.id == bindparam("execution")))
_DELETE_ONE = Hot(delete(snapshots).where(snapshots.c.id == bindparam("snapshot")))
_LIVING = select(_c.id).where(_c.id.in_(_IDS))
_AUTOMATIC_OF = (
    select(snapshots.c.id, snapshots.c.execution_id)
    .where(snapshots.c.kind.in_(AUTOMATIC), snapshots.c.id.in_(_IDS))
    .order_by(snapshots.c.seq)
)
_AUTOMATIC_ONE = Hot(
    select(snapshots.c.id, snapshots.c.execution_id, snapshots.c.kind).where(
        snapshots.c.id == bindparam("snapshot")
    )
)
_DELETE_UNREFERENCED = delete(snapshots).where(
    snapshots.c.kind.in_(AUTOMATIC),
    ~exists().where(_c.id == snapshots.c.execution_id),
    *(~exists().where(reference == snapshots.c.id) for reference in SNAPSHOT_COLUMNS),
)


def excess(connection: Connection, most: int, keep: int) -> Gone:
    """Drops a VM's oldest rows until ``most`` are left, but none that runs.

    Args:
        connection: to the database.
        most: how many may be left.
        keep: sequence number of a row of the VM that is not dropped either.
    """
    gone = Gone()
    vm = vm_of(keep)
    low, high = span(vm)
    too_many = counted.count(connection, vm) - most
    while too_many > 0:
        some = {"low": low, "high": high, "keep": keep, "most": min(_BATCH, too_many)}
        rows = [_Row(*row) for row in _OLDEST_ENDED.run(connection, some)]
        if not rows:
            break
        _drop(connection, rows, gone)
        too_many -= len(rows)
    return gone


def all_of(connection: Connection, vm_id: str) -> Gone:
    """Drops all rows of a VM, running ones too."""
    gone = Gone()
    vm = vm_number(connection, vm_id)
    if vm is None:
        return gone
    low, high = span(vm)
    some = {"low": low, "high": high, "most": _BATCH}
    while rows := [_Row(*row) for row in connection.execute(_OLDEST, some)]:
        _drop(connection, rows, gone)
    forget(connection, vm)
    return gone


def _drop(connection: Connection, rows: Sequence[Any], gone: Gone) -> None:
    for row in rows:
        _DELETE_WORDS.run(connection, {"number": row.seq})
        _DELETE_ROW.run(connection, {"number": row.seq})
    for block_id, count in Counter(row.block_id for row in rows).items():
        counted.leave(connection, block_id, count)
    files = [row.id for row in rows if row.stdout_in_file or row.stderr_in_file]
    doom(connection, files)
    gone.with_files += files
    gone.executions += [row.id for row in rows]
    gone.snapshots.update(
        value for row in rows for value in row[-len(SNAPSHOT_COLUMNS) :] if value is not None
    )


def doom(connection: Connection, execution_ids: Sequence[str]) -> None:
    """Notes outputs to be removed, now or after the next start."""
    if not execution_ids:
        return
    there = set(connection.execute(select(doomed_outputs.c.execution_id)).scalars())
    new = [{"execution_id": each} for each in execution_ids if each not in there]
    if new:
        connection.execute(insert(doomed_outputs), new)


def tick_off(connection: Connection, execution_ids: Sequence[str]) -> None:
    """Forgets outputs that have been removed."""
    for batch in _batches(execution_ids):
        connection.execute(delete(doomed_outputs).where(doomed_outputs.c.execution_id.in_(batch)))


def snapshots_of(connection: Connection, execution_ids: Sequence[str]) -> set[str]:
    """Ids of the snapshots that were made for some executions."""
    return {
        found
        for each in execution_ids
        for (found,) in _MADE_FOR.run(connection, {"execution": each})
    }


def referenced(connection: Connection, candidates: Sequence[Any]) -> set[str]:
    """Those of some snapshots that a row of ``executions`` refers to, or that were made for one.

    Args:
        connection: to the database with the executions.
        candidates: rows with ``id`` and ``execution_id``.
    """
    if len(candidates) <= _FEW:
        return {row.id for row in candidates if _is_referenced(connection, row)}
    found: set[str] = set()
    for batch in _batches(candidates):
        ids = [row.id for row in batch]
        found.update(connection.execute(_REFERRED, {"ids": ids}).scalars())
        owners = [row.execution_id for row in batch if row.execution_id is not None]
        living = set(connection.execute(_LIVING, {"ids": owners}).scalars())
        found.update(row.id for row in batch if row.execution_id in living)
    return found


def _is_referenced(connection: Connection, row: Any) -> bool:
    if row.execution_id is not None and _LIVING_ONE.run(
        connection, {"execution": row.execution_id}
    ):
        return True
    return any(each.run(connection, {"snapshot": row.id}) for each in _REFERRED_ONE)


def automatic(connection: Connection, ids: Sequence[str]) -> list[Any]:
    """Rows with ``id`` and ``execution_id`` of those of some snapshots nobody asked for by hand.

    Args:
        connection: to the database with the snapshots.
        ids: those to choose from.
    """
    rows: list[Any] = []
    if len(ids) <= _FEW:
        for each in ids:
            rows += [_Made(*row) for row in _AUTOMATIC_ONE.run(connection, {"snapshot": each})]
        return [row for row in rows if row.kind in AUTOMATIC]
    for batch in _batches(ids):
        rows += connection.execute(_AUTOMATIC_OF, {"ids": batch})
    return rows


def remove_unreferenced(connection: Connection) -> None:
    """Removes those of all snapshots that nobody asked for by hand and no execution refers to."""
    connection.execute(_DELETE_UNREFERENCED)


def remove_snapshots(connection: Connection, ids: Sequence[str]) -> None:
    """Removes rows of ``snapshots``."""
    if len(ids) <= _FEW:
        for each in ids:
            _DELETE_ONE.run(connection, {"snapshot": each})
        return
    for batch in _batches(ids):
        connection.execute(delete(snapshots).where(snapshots.c.id.in_(batch)))


def _batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
