"""Putting VMs to rest: those nobody uses, and those that have run long enough."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mulligan.errors import ExecutionFailed
from mulligan.log import get_logger

if TYPE_CHECKING:
    from mulligan.engine.vms.vm import Vm

log = get_logger()

POLL_S = 0.02
OWN_WORK_S = 10.0  # no longer does the engine take in a VM that nobody uses
ANSWER_S = 5.0  # an agent that has nothing to do answers at once, whatever the host is at
HOUR_S = 3600.0


def idle_s(vm: Vm) -> float:
    """For how many seconds nobody has wanted anything of a VM; 0 while somebody does."""
    connection = vm.connection
    if vm.busy or vm.life.booting or vm.held or (connection is not None and connection.busy):
        return 0.0
    used_at = max(vm.life.used_at, connection.used_at if connection is not None else 0.0)
    return max(0.0, time.monotonic() - used_at)


async def is_quiet(vm: Vm) -> bool:
    """Whether no program and no kernel of a VM lives; for the holder of ``steady``.

    One whose agent does not answer is ended, and is as quiet as can be.
    """
    connection = vm.connection
    if connection is None or connection.busy:
        return connection is None
    try:
        found = await connection.ping(ANSWER_S, look=True)
    except ExecutionFailed:
        return True
    return found.quiet and not found.kernels


async def hibernate(vm: Vm, *, even_with_programs: bool = False) -> bool:
    """Ends a VM's processes until the next request; false where it does something.

    Args:
        vm: it keeps its disk.
        even_with_programs: whether programs in the background and kernels are ended, too.
    """
    if vm.connection is None or idle_s(vm) == 0.0:
        return False
    async with vm.steady():
        if not even_with_programs and not await is_quiet(vm):
            return False
        if vm.busy or (vm.connection is not None and vm.connection.busy):
            return False  # somebody came meanwhile
        await vm.down()
        vm.life.hibernated = True
    log.info("vm_hibernated", vm_id=vm.record.id, agent_id=vm.record.agent_id)
    return True


async def stop_idle(vm: Vm) -> bool:
    """``hibernate`` for whoever asks for it; false where somebody's execution or terminal runs.

    What the engine itself does in the VM, such as looking what is in it, is waited for.
    """
    until = time.monotonic() + OWN_WORK_S
    while not await hibernate(vm, even_with_programs=True):
        if vm.connection is None:
            return True
        if vm.busy or vm.running or time.monotonic() > until:
            return False
        await asyncio.sleep(POLL_S)
    return True


def worn(vm: Vm) -> bool:
    """Whether a VM has run as much, or as long, as its type says."""
    if vm.connection is None:
        return False
    executions, hours = vm.life.wear
    up_s = time.monotonic() - vm.life.booted_at
    return (0 < executions <= vm.life.executions) or (0 < hours * HOUR_S <= up_s)


async def recycle(vm: Vm) -> bool:
    """Ends a VM's processes if it is worn and quiet; for the holder of ``steady``.

    Returns:
        Whether it did; the VM boots with the next request, or when it is asked to.
    """
    if not worn(vm) or not await is_quiet(vm):
        return False
    log.info(
        "vm_recycled",
        vm_id=vm.record.id,
        agent_id=vm.record.agent_id,
        executions=vm.life.executions,
        up_seconds=round(time.monotonic() - vm.life.booted_at),
    )
    await vm.down()
    if vm.kept is not None:
        vm.kept.void()
    return True
