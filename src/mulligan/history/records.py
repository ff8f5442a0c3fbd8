"""Models to rows and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mulligan.history.outputs import STREAMS
from mulligan.models import CommandHistoryEntry, KernelState, NetworkConnection, Snapshot, Verdict

RUNNING = "running"
REFUSED = "refused"  # it was asked for, and a gate or a person did not let it run
OK = "ok"
FAILED = "failed"
Row = Mapping[Any, Any]

# What a query shows of an output that is kept in a file.
HEAD_CHARS = 4096


def status(entry: CommandHistoryEntry) -> str:
    """What a row counts as: "running", "ok" or "failed"; who still runs has not failed."""
    if entry.outcome == RUNNING:
        return RUNNING
    return OK if entry.success else FAILED


def entry_row(entry: CommandHistoryEntry) -> dict[str, Any]:
    """The columns of an entry; outputs whole, and in no file."""
    row: dict[str, Any] = dict(entry)
    row["verdicts"] = _json(entry.verdicts)
    row["packages"] = json.dumps(entry.packages)
    row["network"] = network_text(entry.network)
    row["stdout_in_file"] = row["stderr_in_file"] = False
    return row


def row_entry(row: Row) -> CommandHistoryEntry:
    """The entry of a row. Not validated anew: what came in was, and a row must stay readable."""
    values = {name: row[name] for name in CommandHistoryEntry.model_fields}
    values["verdicts"] = (
        []
        if row["verdicts"] == "[]"  # most have none
        else [Verdict.model_construct(**each) for each in json.loads(row["verdicts"])]
    )
    packages = row["packages"]
    values["packages"] = [] if packages == "[]" else json.loads(packages)
    values["network"] = network_notes(row["network"])
    return CommandHistoryEntry.model_construct(**values)


def network_text(notes: list[NetworkConnection]) -> str:
    """Connections as they stand in their column; ASCII, as ``_json`` has it."""
    return json.dumps([note.model_dump(mode="json") for note in notes])


def network_notes(text: str) -> list[NetworkConnection]:
    """The connections of a column."""
    if text == "[]":  # most have none
        return []
    return [NetworkConnection.model_validate(each) for each in json.loads(text)]


def snapshot_row(snapshot: Snapshot, layer: str | None) -> dict[str, Any]:
    """The columns of a snapshot."""
    row: dict[str, Any] = dict(snapshot)
    for name in ("own_bytes", "memory_bytes", "whole_memory"):
        del row[name]  # what others need changes, and memory goes
    row["kernels"] = _json(snapshot.kernels)
    row["layer"] = layer
    return row


def row_snapshot(row: Row) -> Snapshot:
    """The snapshot of a row."""
    values: dict[str, Any] = {name: row.get(name) for name in Snapshot.model_fields}
    values["kernels"] = [KernelState.model_construct(**each) for each in json.loads(row["kernels"])]
    return Snapshot.model_construct(**values | {"whole_memory": False})


def _json(values: list[Verdict] | list[KernelState]) -> str:
    """ASCII, so that every text in it survives in every database."""
    return json.dumps([dict(value) for value in values])


def shortened(row: Row) -> Row:
    """A row as a list shows it: an output that is in a file says so after its beginning."""
    cut = [stream for stream in STREAMS if row[f"{stream}_in_file"]]
    if not cut:
        return row
    values = dict(row)
    for stream in cut:
        values[stream] += (
            f"\n[… cut here, after {len(row[stream])} characters: "
            "the execution itself, asked for by its id, has the rest]"
        )
    return values
