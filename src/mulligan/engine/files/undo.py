"""What lets changes of files from outside be undone: a snapshot before the first of a row of them.

A row lasts until something else happens to the VM: an execution starts, a state is kept, or the VM
goes to another one. What is changed while an execution runs belongs to that execution.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from weakref import WeakKeyDictionary

from mulligan.engine.past.maintenance import Maintenance
from mulligan.engine.past.timemachine import FILES, TimeMachine
from mulligan.engine.vms.vm import Vm
from mulligan.history import HistoryStore
from mulligan.settings import HistorySettings


class Row(NamedTuple):
    """Changes in a row: where the VM stood after the last of them, and the snapshot before."""

    turns: int
    base: str | None
    kept: str


class FileUndo:
    """Keeps those snapshots, as many of a VM as there may be entries in its history."""

    def __init__(
        self,
        settings: HistorySettings,
        history: HistoryStore,
        machine: TimeMachine,
        maintenance: Maintenance,
    ) -> None:
        self._settings = settings
        self._history = history
        self._machine = machine
        self._maintenance = maintenance
        self._rows: WeakKeyDictionary[Vm, Row] = WeakKeyDictionary()

    async def keep(self, vm: Vm) -> str | None:
        """For the holder of ``vm.steady()``, before files are changed.

        Returns:
            The snapshot to go back to; None where history is off, where an execution runs, or where
            something else does and there is more to copy than is copied under it.

        Raises:
            SnapshotFailed: none could be made; nothing is to be changed.
        """
        row = self._rows.pop(vm, None)
        kept = row.kept if row is not None and row[:2] == _present(vm) else await self._make(vm)
        vm.writing.turns += 1
        vm.writing.by_hand()
        if kept is not None:
            self._rows[vm] = Row(*_present(vm), kept)
        return kept

    async def _make(self, vm: Vm) -> str | None:
        if not self._settings.enabled or vm.running:
            return None
        point = await self._machine.restore_point(vm, FILES)
        if point is None:
            return None
        await self._machine.record(vm, point)
        await self._forget_old(vm)
        return point.snapshot_id

    async def _forget_old(self, vm: Vm) -> None:
        found = await asyncio.to_thread(self._history.list_snapshots, vm.record.id)
        made = [each.id for each in found if each.kind == FILES]
        old = made[self._settings.max_history_entries :]
        for each in old:
            await asyncio.to_thread(self._history.delete_snapshot, each)
        if old:
            await self._machine.let_go(vm, old)
            self._maintenance.look_at(vm.record.agent_id)


def _present(vm: Vm) -> tuple[int, str | None]:
    return vm.writing.turns, vm.state.base
