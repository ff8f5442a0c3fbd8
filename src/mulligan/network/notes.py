"""Lists of connections, which stay bounded however many a program makes."""

from __future__ import annotations

from collections.abc import Callable

from mulligan.models import NetworkConnection

MOST_NOTES = 200


def enter(notes: list[NetworkConnection], note: NetworkConnection) -> None:
    """Adds to a list; in a long one what is alike is counted, and at last everything."""
    if len(notes) < MOST_NOTES:
        notes.append(note)
        return
    for place, other in enumerate(notes[MOST_NOTES:], MOST_NOTES):
        alike = (other.host, other.port, other.verdict) == (note.host, note.port, note.verdict)
        if alike or place == 2 * MOST_NOTES - 1:
            notes[place] = _joined(other, note, alike=alike)
            return
    notes.append(note)


def _joined(one: NetworkConnection, other: NetworkConnection, *, alike: bool) -> NetworkConnection:
    update: dict[str, object] = {
        "connections": one.connections + other.connections,
        "bytes_up": one.bytes_up + other.bytes_up,
        "bytes_down": one.bytes_down + other.bytes_down,
        "duration_ms": one.duration_ms + other.duration_ms,
        "secrets": sorted({*one.secrets, *other.secrets}),
        "certain": one.certain and other.certain,
    }
    if not alike:
        update |= {"host": "", "port": 0, "verdict": "mixed", "reason": None, "address": None}
    return one.model_copy(update=update)


def cleaned(note: NetworkConnection, clean: Callable[[str], str]) -> NetworkConnection:
    """One for the history: programs choose the hosts they ask for, and could put anything in."""
    reason = clean(note.reason) if note.reason is not None else None
    return note.model_copy(update={"host": clean(note.host), "reason": reason})
