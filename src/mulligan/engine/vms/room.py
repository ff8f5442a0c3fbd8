"""What goes with a freeze: whose the frozen changes are, and room on a disk that is nearly full."""

from __future__ import annotations

import asyncio

from mulligan.engine.past.maintenance import Maintenance
from mulligan.engine.vms.quota import nearly_full
from mulligan.engine.vms.vm import Vm
from mulligan.errors import SnapshotFailed, VmExecutionError
from mulligan.history import HistoryStore


async def recall_writer(history: HistoryStore, vm: Vm) -> None:
    """What an earlier server left unfrozen its last execution wrote, if it began on a frozen disk.

    Raises:
        HistoryError: it could not be looked up.
    """
    if vm.writing.recalled:
        return
    last = await asyncio.to_thread(history.last, vm.record.id)
    point = last.snapshot_before if last is not None else None
    start = await asyncio.to_thread(history.get_snapshot, point) if point is not None else None
    began_there = start is not None and start[1] == vm.state.base
    vm.writing.recall(last.id if last is not None and began_there else None)


async def make_room(maintenance: Maintenance, vm: Vm) -> None:
    """What a nearly full disk hides below what was removed is left behind.

    Raises:
        SnapshotFailed: it could not be done.
    """
    agent_id, base = vm.record.agent_id, vm.state.base
    layers = vm.stores.layers
    if base is None or not (vm.filled or nearly_full(vm.bounds, layers, agent_id, base)):
        return
    try:
        await maintenance.measure(agent_id, layers.stack(agent_id, base))
        if nearly_full(vm.bounds, layers, agent_id, base):
            await maintenance.squash(agent_id, base)
    except (VmExecutionError, OSError) as error:
        raise SnapshotFailed(f"old layers could not be merged: {error}") from None
