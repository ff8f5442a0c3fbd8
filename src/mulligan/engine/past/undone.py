"""Which executions a rollback took back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mulligan.engine.past.lineage import Lineage
from mulligan.engine.vms.vm import Vm
from mulligan.history import HistoryStore
from mulligan.history.starts import State
from mulligan.models import Snapshot

LOOK_BACK = 100


@dataclass(frozen=True)
class Ran:
    """An execution.

    Attributes:
        execution_id: it.
        at: when it began.
        start: the state it started from; None where nobody knows.
    """

    execution_id: str
    at: datetime
    start: State | None


def undone(
    ran: Sequence[Ran], restored: State, restored_at: datetime, stood: State | None
) -> list[str]:
    """The executions whose effects a rollback takes back, newest first.

    Two executions that started from one state tell that what ran in between was undone already,
    or changed nothing.

    Args:
        ran: the newest of the VM, newest first.
        restored: the state it is taken to.
        restored_at: when that was kept.
        stood: the state it was in before, if nothing had run since.
    """
    led: list[Ran] = []  # to the state before the rollback, oldest first
    for each in reversed(ran):
        led = _before(led, each.start)
        led.append(each)
    led = _before(led, stood)
    kept = _before(led, restored)
    if len(kept) == len(led):
        kept = [each for each in led if each.at < restored_at]
    return [each.execution_id for each in reversed(led[len(kept) :])]


def _before(led: list[Ran], state: State | None) -> list[Ran]:
    """Those before the first that started from a state; all of them where none did.

    One state may have several snapshots, which agree in the layer; where they have memory they
    may differ in that.
    """
    if state is None:
        return led
    for place, each in enumerate(led):
        start = each.start
        if start is not None and (
            start.snapshot_id == state.snapshot_id
            or (not state.memory and start.layer == state.layer)
        ):
            return led[:place]
    return led


async def taken_back(
    history: HistoryStore, vm: Vm, lineage: Lineage, restored: tuple[Snapshot, str | None]
) -> list[str]:
    """The executions that a rollback to a snapshot and its layer takes back, newest first.

    Raises:
        HistoryError: nobody can tell.
    """
    snapshot, layer = restored
    to = State(snapshot.id, layer, memory=bool(snapshot.kernels))
    stood = _stood(vm, lineage)
    ran = await asyncio.to_thread(_ran, history, vm.record.id)
    return undone(ran, to, snapshot.created_at, stood)


def _ran(history: HistoryStore, vm_id: str) -> list[Ran]:
    starts = history.starts(vm_id, LOOK_BACK)
    states = history.states({each.snapshot_id for each in starts if each.snapshot_id is not None})
    return [
        Ran(each.execution_id, each.executed_at, states.get(each.snapshot_id or ""))
        for each in starts
    ]


def _stood(vm: Vm, lineage: Lineage) -> State | None:
    """The state a VM is in, where nothing has happened in it since that was kept."""
    if vm.running or vm.stores.vms.changed(vm.record.id, vm.state.generation):
        return None
    present = lineage.present(vm)
    if present is None and vm.kernels.used:
        return None
    return State(present or "", vm.state.base, memory=vm.kernels.used)
