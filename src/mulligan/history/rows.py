"""Rows of executions, with their blocks and words, inside the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from mulligan.errors import HistoryError
from mulligan.history import blocks, pruning, records, sequence, words
from mulligan.history.hot import Hot
from mulligan.history.outputs import STREAMS
from mulligan.history.schema import blocks as block_table
from mulligan.history.schema import doomed_outputs, executions
from mulligan.models import CommandHistoryEntry, NetworkConnection
from mulligan.network.notes import enter

LOST = "lost"
LOST_ERROR = "the server was ended while this ran"

# Built once, as they run with every execution: building one takes longer than running it.
_COLUMNS = [each.name for each in executions.columns]
_INSERT = Hot(insert(executions), _COLUMNS)
_FIND = Hot(
    select(
        executions.c.seq,
        executions.c.block_id,
        executions.c.vm_id,
        executions.c.stdout_in_file,
        executions.c.stderr_in_file,
    ).where(executions.c.id == bindparam("wanted"))
)
_REWRITE = Hot(
    update(executions).where(executions.c.seq == bindparam("row")),
    [name for name in _COLUMNS if name != "seq"],
)
_GET = select(executions).where(executions.c.id == bindparam("wanted"))


@dataclass(frozen=True)
class Prepared:
    """An entry ready to be written: its columns, and the words it is found by."""

    entry: CommandHistoryEntry
    columns: dict[str, Any]
    words: list[str]


def prepare(entry: CommandHistoryEntry) -> Prepared:
    """Does what needs no database, and so need not keep other writers waiting."""
    found = words.words_of(entry.command, entry.proposed_command, entry.stdout, entry.stderr)
    failed = records.status(entry) == records.FAILED
    every = words.every_word(found, failed=failed)
    return Prepared(entry, records.entry_row(entry), every)


def add(connection: Connection, new: Prepared) -> int:
    """Adds a row and returns its sequence number.

    Raises:
        HistoryError: its id is taken.
    """
    seq = sequence.take(connection, new.entry.vm_id)
    block_id = blocks.enter(connection, seq, new.entry)
    try:
        _INSERT.run(connection, new.columns | {"seq": seq, "block_id": block_id})
    except IntegrityError:
        raise HistoryError(f"there is an execution {new.entry.id} already") from None
    words.index(connection, seq, new.words, new=True)
    return seq


def write(connection: Connection, new: Prepared) -> list[str]:
    """Writes over the row with the same id, or adds one.

    Returns:
        The streams that were in files and are not any more.

    Raises:
        HistoryError: the row with that id is of another VM.
    """
    found = _FIND.run(connection, {"wanted": new.entry.id})
    if not found:
        add(connection, new)
        return []
    seq, old_block, vm_id, *in_files = found[0]
    if vm_id != new.entry.vm_id:
        raise HistoryError(f"execution {new.entry.id} is of VM {vm_id}")
    blocks.leave(connection, old_block)
    block_id = blocks.enter(connection, seq, new.entry)
    _REWRITE.run(connection, new.columns | {"block_id": block_id, "row": seq})
    words.index(connection, seq, new.words, new=False)
    return [
        stream
        for stream, in_file in zip(STREAMS, in_files, strict=True)
        if in_file and not new.columns[f"{stream}_in_file"]
    ]


def set_change(connection: Connection, execution_id: str, size: int) -> None:
    """Notes what an execution's changes take, where that is not known yet."""
    c = executions.c
    unknown = (c.id == execution_id) & c.change_bytes.is_(None)
    connection.execute(update(executions).where(unknown).values(change_bytes=size))


def add_network(connection: Connection, execution_id: str, notes: list[NetworkConnection]) -> None:
    """Adds what became known of an execution after its end; nothing where its row is gone."""
    c = executions.c
    text = connection.execute(select(c.network).where(c.id == execution_id)).scalar_one_or_none()
    if text is None:
        return
    known = records.network_notes(text)
    for note in notes:
        enter(known, note)
    values = {"network": records.network_text(known)}
    connection.execute(update(executions).where(c.id == execution_id).values(values))


def get(connection: Connection, execution_id: str) -> records.Row | None:
    """The row with that id."""
    return connection.execute(_GET, {"wanted": execution_id}).mappings().one_or_none()


def end_leftovers(connection: Connection) -> tuple[list[str], list[str]]:
    """Marks what is still "running" as lost.

    Returns:
        Ids of what was lost, oldest first, and of executions whose files are to be removed.
    """
    c = executions.c
    running = c.outcome == records.RUNNING
    statement = select(c.seq, c.id).where(running).order_by(c.executed_at, c.seq)
    found = connection.execute(statement).all()
    lost = [row.id for row in found]
    if lost:
        values = {"outcome": LOST, "success": False, "error": LOST_ERROR}
        connection.execute(update(executions).where(running).values(values))
        # A block of running rows has no others, so it becomes one of failed rows.
        status = block_table.c.status
        connection.execute(
            update(block_table).where(status == records.RUNNING).values(status=records.FAILED)
        )
        for row in found:
            words.mark_failed(connection, row.seq)
        pruning.doom(connection, lost)
    doomed = connection.execute(select(doomed_outputs.c.execution_id)).scalars()
    return lost, list(doomed)
