"""What VMs may take of the host's disk, and what is said where they reach it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mulligan.engine.vms.program import Program
from mulligan.engine.vms.replies import ProgramResult
from mulligan.errors import ExecutionFailed
from mulligan.layers.store import LayerStore
from mulligan.settings import Settings

if TYPE_CHECKING:
    from mulligan.engine.vms.vm import Vm

MIB = 1024 * 1024
# Of a small file system the reserve is one part in so many: it can be used even so.
SMALLEST_SHARE = 10
NEARLY = 10  # full but for one part in so many
FEWEST_FILES = 100  # as in guest.quota


@dataclass(frozen=True)
class Bounds:
    """What one VM is held to.

    Attributes:
        directory: on the file system the VM's disk is on.
        limit_bytes: what its disk may hold beyond the image; None: any amount.
        reserve_mb: what stays free of the host's file system, in MiB, as the settings have it.
    """

    directory: Path
    limit_bytes: int | None
    reserve_mb: int

    @property
    def limit_mb(self) -> int:
        """The limit in MiB; 0: there is none."""
        return (self.limit_bytes or 0) // MIB

    def reserve(self) -> int:
        """Bytes of the host's file system that stay free."""
        found = os.statvfs(self.directory)
        return min(self.reserve_mb * MIB, found.f_blocks * found.f_frsize // SMALLEST_SHARE)

    def terms(self, layers: LayerStore, agent_id: str, stack: list[str]) -> dict[str, object]:
        """What the agent holds programs to, as ``guest.quota.Terms`` takes it.

        Args:
            layers: where it is known how large trees are.
            agent_id: whose they are.
            stack: the trees the VM's disk is stacked on.
        """
        sizes = {tree: layers.sizes.get(agent_id, tree) for tree in stack}
        return {
            "limit": self.limit_bytes,
            "reserve": self.reserve(),
            "known": sum(size for size in sizes.values() if size is not None),
            "unknown": [tree for tree, size in sizes.items() if size is None],
        }


def bounded(program: Program, vm: Vm) -> Program:
    """A program with what may be written to its VM's disk by now."""
    if vm.bounds is None:
        return program
    layers, agent_id = vm.stores.layers, vm.record.agent_id
    stack = layers.stack(agent_id, vm.state.base)
    return replace(program, disk=vm.bounds.terms(layers, agent_id, stack))


async def note_sizes(vm: Vm, program: Program, counted: dict[str, int]) -> None:
    """Keeps what a VM's agent has found out of the trees a program's terms asked about."""
    unknown = program.disk.get("unknown") if program.disk is not None else None
    for tree, size in counted.items():
        if isinstance(unknown, list) and tree in unknown:
            sizes = vm.stores.layers.sizes
            await asyncio.to_thread(sizes.set, vm.record.agent_id, tree, size)
    counted.clear()


def bounds_of(settings: Settings, vm_type: str, disk_mb: int | None) -> Bounds:
    """The bounds of a VM of a type, or of its own."""
    known = settings.vm_types.get(vm_type)
    of_type = known.disk_mb if known is not None else 0
    own = of_type if disk_mb is None else disk_mb
    return Bounds(settings.data_dir, own * MIB or None, settings.min_free_mb)


def check_room(bounds: Bounds) -> None:
    """Refuses to start anything that could fill the host's disk.

    Raises:
        ExecutionFailed: there is too little room; naming the setting.
    """
    found = os.statvfs(bounds.directory)
    free, reserve = found.f_bavail * found.f_frsize, bounds.reserve()
    remedy = "remove VMs or snapshots nobody needs, or other files there, or lower min_free_mb"
    if free < reserve:
        raise ExecutionFailed(
            f"the file system of {bounds.directory} has {free // MIB} MB free, and "
            f"{reserve // MIB} MB are to stay free (min_free_mb = {bounds.reserve_mb})",
            field="min_free_mb",
            remedy=remedy,
        )
    if found.f_favail < found.f_files // FEWEST_FILES and bounds.reserve_mb:
        raise ExecutionFailed(
            f"the file system of {bounds.directory} has {found.f_favail} inodes left of "
            f"{found.f_files}",
            field="min_free_mb",
            remedy=remedy,
        )


def nearly_full(bounds: Bounds | None, layers: LayerStore, agent_id: str, top: str | None) -> bool:
    """Whether a VM's layers take nearly all its disk may hold, as far as they were counted."""
    if bounds is None or bounds.limit_bytes is None:
        return False
    stack = layers.stack(agent_id, top)
    known = sum(layers.sizes.get(agent_id, tree) or 0 for tree in stack)
    return known > bounds.limit_bytes - bounds.limit_bytes // NEARLY


def said_of(result: ProgramResult) -> tuple[str | None, str | None]:
    """Note and error text of an execution that met a full disk; (None, None) if it did not."""
    if result.disk is None:
        return None, None
    if result.disk_limit is not None and result.disk in ("full", "ended"):
        why = f"disk quota of {result.disk_limit // MIB} MB exceeded"
    else:
        why = "the host's disk is full (see min_free_mb)"
    if result.disk.endswith("ended"):
        return None, f"{why}, and the VM's programs were ended: they went on growing the disk"
    return f"{why}: writes to files failed (EFBIG) from then on; removing files makes room", None
