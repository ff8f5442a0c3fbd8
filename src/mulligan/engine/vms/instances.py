"""A VM as its users see it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mulligan.drivers.interface import Capabilities
from mulligan.layers.stacks import DamagedLayer
from mulligan.models import VmInstance

if TYPE_CHECKING:
    from mulligan.engine.vms.vm import Vm


def instance_of(vm: Vm) -> VmInstance:
    """What is known of a VM without asking it."""
    return VmInstance(
        id=vm.record.id,
        name=vm.record.name,
        vm_type=vm.record.vm_type,
        status=vm.status,
        created_at=vm.record.created_at,
        last_activity=vm.last_activity,
        agent_id=vm.record.agent_id,
        driver=vm.record.driver,
        image=vm.record.image,
        disk_mb=vm.bounds.limit_mb if vm.bounds is not None else None,
        network="none" if vm.network is None else "allowlist",
        allow=None if vm.network is None else vm.network.policy.shown(),
        disk_bytes=_disk_bytes(vm),
        limits=vm.limits or None,
        capabilities=_capabilities(vm).shown(),
    )


def _capabilities(vm: Vm) -> Capabilities:
    """What a driver can is done for the VMs whose type asks for it."""
    can = vm.driver.capabilities
    if vm.kept is not None:
        return replace(can, snapshot_cost="seconds") if can.memory == "all" else can
    memory = "kernels" if can.memory == "all" else can.memory
    return replace(can, memory=memory, memory_across_fork=False, memory_across_restart=False)


def _disk_bytes(vm: Vm) -> int | None:
    """What the disk holds, as far as that was counted before."""
    layers, agent_id = vm.stores.layers, vm.record.agent_id
    try:
        stack = layers.stack(agent_id, vm.state.base)
        sizes = [upper_bytes(vm), *(layers.sizes.get(agent_id, tree) for tree in stack)]
    except (OSError, DamagedLayer):
        return None
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def upper_bytes(vm: Vm) -> int | None:
    """What a VM's disk took since it was last frozen; None where nobody counted."""
    if vm.busy:
        return None
    if vm.writing.size is not None:
        return vm.writing.size
    return None if vm.stores.vms.changed(vm.record.id, vm.state.generation) else 0
