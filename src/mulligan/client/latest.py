"""The newest executions of a VM, to say what a rollback took back."""

from __future__ import annotations

from mulligan.client.backends import Backend
from mulligan.errors import VmExecutionError
from mulligan.models import CommandHistoryEntry, HistoryQueryRequest

LOOK_BACK = 30


async def latest(backend: Backend, vm_id: str) -> list[CommandHistoryEntry]:
    """The newest of a VM's history, newest first; nothing where there is none."""
    try:
        request = HistoryQueryRequest(vm_id=vm_id, limit=LOOK_BACK)
        return (await backend.history(request)).entries
    except VmExecutionError:  # history is off; snapshots can be gone back to all the same
        return []
