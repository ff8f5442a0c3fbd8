"""Which executions a rollback took back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from mulligan.client.backends import Backend
from mulligan.errors import VmExecutionError
from mulligan.models import CommandHistoryEntry, HistoryQueryRequest

LOOK_BACK = 30
REFUSED = "refused"


async def latest(backend: Backend, vm_id: str) -> list[CommandHistoryEntry]:
    """The newest of a VM's history, newest first; nothing where there is none."""
    try:
        request = HistoryQueryRequest(vm_id=vm_id, limit=LOOK_BACK)
        return (await backend.history(request)).entries
    except VmExecutionError:  # history is off; snapshots can be gone back to all the same
        return []


async def taken_back(
    backend: Backend,
    vm_id: str,
    entries: Sequence[CommandHistoryEntry],
    restored: str,
    stood: str | None = None,
) -> list[CommandHistoryEntry]:
    """The executions whose effects a rollback took back, newest first.

    Args:
        backend: where the VM is.
        vm_id: the VM.
        entries: its ``latest`` before the rollback.
        restored, stood: see ``undone``.
    """
    known = {each.id: each.created_at for each in await backend.snapshots(vm_id)}
    ran = [each for each in entries if each.outcome != REFUSED]
    return undone(ran, restored, known.get(restored), stood)


def undone(
    entries: Sequence[CommandHistoryEntry],
    restored: str,
    restored_at: datetime | None,
    stood: str | None,
) -> list[CommandHistoryEntry]:
    """The executions whose effects a rollback took back, newest first.

    Two executions that started from one snapshot tell that what ran in between was undone already,
    or changed nothing.

    Args:
        entries: the newest of the VM's history, newest first, none of them refused.
        restored: the snapshot the VM is in the state of now.
        restored_at: when that was made; None where it is not known.
        stood: the snapshot it was in the state of before, if nothing had run since.
    """
    led: list[CommandHistoryEntry] = []  # to the state before the rollback, oldest first
    for entry in reversed(entries):
        led = _before(led, entry.snapshot_before)
        led.append(entry)
    led = _before(led, stood)
    kept = _before(led, restored)
    if len(kept) == len(led) and restored_at is not None:
        kept = [entry for entry in led if entry.executed_at < restored_at]
    return led[len(kept) :][::-1]


def _before(led: list[CommandHistoryEntry], snapshot: str | None) -> list[CommandHistoryEntry]:
    """Those before the first that started from a snapshot; all of them where none did."""
    if snapshot is None:
        return led
    for place, entry in enumerate(led):
        if entry.snapshot_before == snapshot:
            return led[:place]
    return led
