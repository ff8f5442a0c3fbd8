"""Which snapshot a VM is in the state of, and which ones it came by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mulligan.engine.vms.kernels import KEPT
from mulligan.engine.vms.vm import Vm
from mulligan.models import KernelState, Snapshot

MOST_PARENTS = 1000


class Standing(NamedTuple):
    """The snapshot a VM was last seen in the state of, its layer, and ``Kernels.changes`` then.

    ``gone``: nobody can go back to it any more, or not to all of it; what comes next came of it.
    """

    layer: str | None
    kernel_changes: int
    snapshot_id: str
    gone: bool = False


class Lineage:
    """What is known of every VM. Layers tell it of files; of memory nothing else does.

    It is not kept on disk: neither is memory.
    """

    def __init__(self) -> None:
        self._standing: dict[str, Standing] = {}
        self._parents: dict[str, dict[str, str | None]] = {}

    def begins(self, vm: Vm, layer: str | None, snapshot_id: str) -> None:
        """A snapshot was made: it came of the one before, and the VM is in its state."""
        parents = self._parents.setdefault(vm.record.id, {})
        before = self._standing.get(vm.record.id)
        parents[snapshot_id] = before.snapshot_id if before is not None else None
        if len(parents) > MOST_PARENTS:
            del parents[next(iter(parents))]
        self.stands(vm, layer, snapshot_id)

    def stands(
        self, vm: Vm, layer: str | None, snapshot_id: str, kernels: Iterable[KernelState] = ()
    ) -> None:
        """A VM is in the state of a snapshot, whose kernels became ``kernels``.

        Where memory is lost the present has fewer of them, and what starts from it starts from
        another state.
        """
        whole = all(each.memory == KEPT for each in kernels)
        changes = vm.kernels.changes
        self._standing[vm.record.id] = Standing(layer, changes, snapshot_id, gone=not whole)

    def present(self, vm: Vm) -> str | None:
        """The snapshot of the state of a VM whose disk has just been frozen, if there is one."""
        known = self._standing.get(vm.record.id)
        if known is None or known.gone or known[:2] != (vm.state.base, vm.kernels.changes):
            return None
        return known.snapshot_id

    def is_present(self, vm: Vm, snapshot: Snapshot, layer: str | None) -> bool:
        """Whether a VM whose files did not change since it was frozen is in a snapshot's state."""
        if layer != vm.state.base:
            return False
        known = self._standing.get(vm.record.id)
        if known is not None and known.snapshot_id == snapshot.id:
            return known.kernel_changes == vm.kernels.changes
        return not snapshot.kernels and not vm.kernels.used

    def led_here(self, vm: Vm, snapshot: Snapshot, layer: str | None) -> bool:
        """Whether the present came from a snapshot."""
        parents = self._parents.get(vm.record.id, {})
        known = self._standing.get(vm.record.id)
        if known is None or snapshot.id not in parents:
            return vm.stores.layers.descends(vm.record.agent_id, vm.state.base, layer)
        each: str | None = known.snapshot_id
        while each is not None and each != snapshot.id:
            each = parents.get(each)
        return each is not None

    def forget(self, vm_id: str, snapshots: list[str] | None = None) -> None:
        """Snapshots are gone: those named, or all of a VM."""
        if snapshots is None:
            self._standing.pop(vm_id, None)
            self._parents.pop(vm_id, None)
            return
        known = self._standing.get(vm_id)
        if known is not None and known.snapshot_id in snapshots:
            self._standing[vm_id] = known._replace(gone=True)
