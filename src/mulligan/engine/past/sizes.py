"""What VMs, snapshots and executions cost on disk, counted when somebody asks.

That is their files, and memory that is kept of them (``memories``).

Trees never change once they are frozen, so each is counted once. That is done in a VM: the server
does not read what programs made.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from weakref import WeakKeyDictionary

from mulligan.engine.past.maintenance import Maintenance
from mulligan.engine.past.memories import Memories, memories_of
from mulligan.engine.vms.disk import disk_size
from mulligan.engine.vms.instances import upper_bytes
from mulligan.engine.vms.vm import Vm
from mulligan.errors import VmExecutionError
from mulligan.guest.root import DISK
from mulligan.history import HistoryStore
from mulligan.layers.sizes import Tree
from mulligan.layers.stacks import DamagedLayer
from mulligan.layers.store import LayerStore
from mulligan.log import get_logger
from mulligan.models import CommandHistoryEntry, Snapshot, VmInstance

log = get_logger()


class Sizes:
    """Fills in sizes; what cannot be counted stays None.

    Args:
        history: which layers snapshots stand on.
        maintenance: counts.
        vms: those there are.
    """

    def __init__(
        self, history: HistoryStore, maintenance: Maintenance, vms: Callable[[], Iterable[Vm]]
    ) -> None:
        self._history = history
        self._maintenance = maintenance
        self._vms = vms
        self._uppers: WeakKeyDictionary[Vm, int] = WeakKeyDictionary()

    async def of_snapshots(self, vm: Vm, found: list[Snapshot]) -> list[Snapshot]:
        """Snapshots of a VM with ``size_bytes`` and ``own_bytes``."""
        holdings = await self._holdings(vm)
        memories = await self._memories(vm.record.agent_id)
        return [
            each.model_copy(
                update={
                    "size_bytes": _plus(holdings.together([each.id]), memories.together([each.id])),
                    "own_bytes": _plus(holdings.alone([each.id]), memories.alone([each.id])),
                    "memory_bytes": memories.together([each.id]),
                }
            )
            for each in found
        ]

    async def of_vm(self, vm: Vm) -> VmInstance:
        """A VM with its sizes."""
        holdings = await self._holdings(vm)
        upper = await self._upper(vm)
        mine = [*holdings.snapshots_of(vm.record.id), vm.record.id]
        memories = await self._memories(vm.record.agent_id)
        sizes = {
            "disk_bytes": holdings.together([vm.record.id]),
            "kept_bytes": _plus(holdings.together(mine), memories.together(mine)),
            "own_bytes": _plus(holdings.alone(mine), memories.alone(mine)),
        }
        update = {name: _plus(size, upper) for name, size in sizes.items()}
        return vm.instance().model_copy(
            update=update | {"memory_bytes": memories.together([vm.record.id])}
        )

    async def of_agent(self, agent_id: str) -> int:
        """Bytes that all VMs of an agent and their snapshots take, as far as they can be counted.

        Of a VM in which something runs it is what its disk took when it was last counted.
        """
        vms = [vm for vm in self._vms() if vm.record.agent_id == agent_id]
        if not vms:
            return 0
        total = (await self._holdings(vms[0])).all() + (await self._memories(agent_id)).all()
        for vm in vms:
            known = self._uppers.setdefault(vm, 0)
            if not vm.busy and (found := await self._upper(vm)) is not None:
                known = self._uppers[vm] = found
            total += known
        return total

    async def of_executions(
        self, vm: Vm, entries: list[CommandHistoryEntry]
    ) -> list[CommandHistoryEntry]:
        """Executions of a VM with ``change_bytes``, where it is to be found out."""
        layers, agent_id = vm.stores.layers, vm.record.agent_id
        unknown = {entry.id for entry in entries if entry.change_bytes is None}
        if not unknown:
            return entries
        written = layers.written_by(agent_id)
        trees = {each: written[each] for each in unknown if each in written}
        await self._measure(agent_id, trees.values())
        sizes = {each: layers.sizes.get(agent_id, tree) for each, tree in trees.items()}
        known = {each: size for each, size in sizes.items() if size is not None}
        if not known:
            return entries
        await asyncio.to_thread(self._history.set_changes, known)
        return [
            entry.model_copy(update={"change_bytes": known[entry.id]})
            if entry.id in known
            else entry
            for entry in entries
        ]

    async def _holdings(self, vm: Vm) -> Holdings:
        agent_id = vm.record.agent_id
        held = await asyncio.to_thread(self._history.layers_of_agent, agent_id)
        tops = {snapshot: layer for _, snapshot, layer in held}
        owners = {snapshot: owner for owner, snapshot, _ in held}
        for other in self._vms():
            if other.record.agent_id == agent_id:
                tops[other.record.id] = other.state.base
        layers = vm.stores.layers
        stacks = _stacks(layers, agent_id, tops)
        await self._measure(agent_id, (t.path for stack in stacks.values() for t in stack or ()))
        return Holdings(layers, agent_id, stacks, owners)

    async def _memories(self, agent_id: str) -> Memories:
        own = [each for each in self._vms() if each.record.agent_id == agent_id]
        return await asyncio.to_thread(memories_of, own)

    async def _measure(self, agent_id: str, trees: Iterable[str]) -> None:
        try:
            await self._maintenance.measure(agent_id, list(trees))
        except (VmExecutionError, OSError) as error:
            log.warning("layers_not_measured", agent_id=agent_id, error=str(error))

    async def _upper(self, vm: Vm) -> int | None:
        """Bytes a VM's disk took since it was last frozen."""
        if (known := upper_bytes(vm)) is not None:
            return known
        try:
            async with vm.steady():  # what is started now would have no state to go back to
                path = f"{DISK}/{vm.state.generation}/upper"
                return await disk_size(await vm.up(), [path])
        except (VmExecutionError, OSError) as error:
            log.warning("disk_not_measured", vm_id=vm.record.id, error=str(error))
            return None


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


class Holdings:
    """Which trees of an agent each of its VMs and snapshots needs, and how large they are."""

    def __init__(
        self,
        layers: LayerStore,
        agent_id: str,
        stacks: Mapping[str, list[Tree] | None],
        owners: Mapping[str, str],
    ) -> None:
        self._sizes = layers.sizes
        self._agent_id = agent_id
        self._stacks = stacks
        self._owners = owners
        self._holders: Counter[str] = Counter()
        self._trees: dict[str, Tree] = {}
        for stack in stacks.values():
            for tree in stack or ():
                self._holders[tree.path] += 1
                self._trees[tree.path] = tree
        self._shares = self._sizes.shares(agent_id, self._trees.values())

    def snapshots_of(self, vm_id: str) -> list[str]:
        """The snapshots of a VM."""
        return [snapshot for snapshot, owner in self._owners.items() if owner == vm_id]

    def all(self) -> int:
        """Bytes of all trees that were counted, each once."""
        return sum(share or 0 for share in self._shares.values())

    def together(self, holders: list[str]) -> int | None:
        """Bytes of all that some VMs or snapshots need; None where it was not counted."""
        trees = self._needed(holders)
        if trees is None:
            return None
        return _sum(self._sizes.shares(self._agent_id, (self._trees[each] for each in trees)))

    def alone(self, holders: list[str]) -> int | None:
        """Bytes of what none but some VMs or snapshots needs; None where it was not counted."""
        trees = self._needed(holders)
        if trees is None:
            return None
        own = {path for path, count in trees.items() if count == self._holders[path]}
        linked = {
            part for path, tree in self._trees.items() if path not in own for part in tree.parts
        }
        return _sum({path: self._shares[path] for path in own - linked})

    def _needed(self, holders: list[str]) -> Counter[str] | None:
        found: Counter[str] = Counter()
        for holder in holders:
            stack = self._stacks.get(holder)
            if stack is None:
                return None
            found.update(tree.path for tree in stack)
        return found


def _stacks(
    layers: LayerStore, agent_id: str, tops: Mapping[str, str | None]
) -> dict[str, list[Tree] | None]:
    """By holder, the trees it needs; None where one of them is damaged."""
    found: dict[str, list[Tree] | None] = {}
    for holder, top in tops.items():
        try:
            found[holder] = layers.trees(agent_id, top)
        except DamagedLayer:
            found[holder] = None
    return found


def _sum(shares: Mapping[str, int | None]) -> int | None:
    total = 0
    for share in shares.values():
        if share is None:
            return None
        total += share
    return total
