"""Boots the machine that becomes a template, and has copies of it go on.

A VM whose memory is to be kept is such a machine also where it is no copy: its process 1 has to be
one that can be told of the moment.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from mulligan.drivers.bubblewrap.arguments import VmPlan
from mulligan.drivers.qemu import templates, warm
from mulligan.drivers.qemu.arguments import LATE, QemuSpec, Tools
from mulligan.drivers.qemu.console import Console
from mulligan.drivers.qemu.firstprocess import hear, renew
from mulligan.drivers.qemu.launching import pair
from mulligan.drivers.qemu.running import Running, start
from mulligan.drivers.qemu.templates import Saved, Stamp, Template
from mulligan.errors import ExecutionFailed
from mulligan.guest.root import AGENT, DISK, IMAGE, LAYERS
from mulligan.guest.woken import WAITS

MAKE_S = {"kvm": 30.0, "tcg": 120.0}
GO_ON_S = {"kvm": 10.0, "tcg": 30.0}
Identity = dict[str, str] | None


@dataclass(frozen=True)
class Ground:
    """What templates and their copies stand on.

    Attributes:
        tools: programs of the host.
        images: the directory of images.
        machine: of a VM of the shape, without sockets and memory.
        run_as: uid and gid QEMU runs as, or None.
    """

    tools: Tools
    images: Path
    machine: QemuSpec
    run_as: tuple[int, int] | None


async def make(ground: Ground, plan: VmPlan, shape: str, stamp: Stamp) -> Template:
    """Boots a machine until its agent and zygote wait, and keeps it.

    Args:
        ground: see there.
        plan: of a VM of the shape, as in the guest.
        shape: what the template is known by.
        stamp: what it is made with.

    Raises:
        ConfigError: the image's interpreter does not say what it needs.
        ExecutionFailed: it did not come up, or could not be kept, as on a full disk.
    """
    staged = await asyncio.to_thread(templates.staging, ground.images, shape)
    try:
        initrd = staged / templates.INITRD
        await asyncio.to_thread(_write_first, ground, plan, initrd)
        with templates.memory_of(ground.machine.memory_mb) as memory:
            machine = replace(ground.machine, initrd=initrd, memory=memory)
            await _saved(ground, machine, staged / templates.DEVICES)
            return await asyncio.to_thread(templates.keep, staged, shape, stamp, memory)
    except BaseException as error:
        shutil.rmtree(staged, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExecutionFailed(f"the template cannot be kept: {error.strerror}") from None
        raise


def _write_first(ground: Ground, plan: VmPlan, initrd: Path) -> None:
    initrd.parent.chmod(0o711)
    first = ground.machine.initrd.read_bytes()
    initrd.write_bytes(warm.first_file_system(ground.tools, warm.plan_of(plan), first))
    initrd.chmod(0o644)


async def _saved(ground: Ground, machine: QemuSpec, devices: Path) -> None:
    """Boots a machine, and has QEMU write down its devices when it waits."""
    console = Console()
    with ExitStack() as stack:
        stack.callback(console.close)
        _, agent = stack.enter_context(pair())
        told, told_end = stack.enter_context(pair())
        file = os.open(devices, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, file)
        machine = replace(
            machine, agent=agent.fileno(), told=told_end.fileno(), console=console.descriptor
        )
        running = await start(ground.tools, machine, ground.run_as)
        told_end.close()
        try:
            await hear(told, WAITS, MAKE_S[machine.accel])
            await running.migrated("migrate", file, MAKE_S[machine.accel])
        except ExecutionFailed as error:
            said = console.complaint()
            why = f"{error.detail}; it said: {said}" if said else error.detail
            raise ExecutionFailed(why) from None
        finally:
            await running.end()


async def go_on(
    ground: Ground,
    template: Template,
    machine: QemuSpec,
    told: socket.socket,
    plan: VmPlan,
    identity: Identity,
) -> Running:
    """Has a copy of a template go on, as a VM of its own with its files.

    Args:
        ground: see there.
        template: of the machine.
        machine: with its sockets, console and memory.
        told: our end of its socket.
        plan: of the VM, as in the guest.
        identity: of the VM; None: that of all.

    Raises:
        ExecutionFailed: it does not; the text says why.
        OSError: there is no room for its memory.
    """
    machine = replace(machine, initrd=template.initrd, tsc_khz=template.stamp.tsc_khz)
    running = await _loaded(ground, template, machine)
    try:
        await _woken(running, told, plan, identity, GO_ON_S[machine.accel])
    except BaseException:
        await running.end()
        raise
    return running


async def begin(
    ground: Ground, machine: QemuSpec, told: socket.socket, plan: VmPlan, identity: Identity
) -> Running:
    """Boots a machine of that kind of which there is no template.

    Args, Raises: as for ``go_on``.
    """
    with tempfile.TemporaryDirectory(dir=ground.images, prefix=f"{templates.PREFIX}") as staged:
        initrd = Path(staged) / templates.INITRD
        await asyncio.to_thread(_write_first, ground, plan, initrd)
        machine = replace(machine, initrd=initrd)
        running = await start(ground.tools, machine, ground.run_as)
        try:
            await hear(told, WAITS, MAKE_S[machine.accel])
            await _woken(running, told, plan, identity, GO_ON_S[machine.accel])
        except BaseException:
            await running.end()
            raise
    return running


async def resume(
    ground: Ground, saved: Saved, machine: QemuSpec, told: socket.socket, identity: Identity
) -> Running:
    """Has a VM go on from memory of its own; its programs do when they can be told of the moment.

    Args, Raises: as for ``go_on``.
    """
    running = await _loaded(ground, saved, replace(machine, shown=True))
    try:
        await renew(told, GO_ON_S[machine.accel], {"identity": identity})
    except BaseException:
        await running.end()
        raise
    return running


async def _loaded(ground: Ground, saved: Saved, machine: QemuSpec) -> Running:
    """Starts a machine with the memory and devices of another."""
    copying = asyncio.create_task(asyncio.to_thread(saved.fill, machine.memory))
    try:
        machine = replace(machine, goes_on=True)
        running = await start(ground.tools, machine, ground.run_as)  # while its memory is copied
        try:
            await copying
            with saved.devices.open("rb") as devices:
                limit = GO_ON_S[machine.accel]
                await running.migrated("migrate-incoming", devices.fileno(), limit)
        except BaseException:
            await running.end()
            raise
    finally:
        await asyncio.wait({copying})
    return running


async def _woken(
    running: Running, told: socket.socket, plan: VmPlan, identity: Identity, limit: float
) -> None:
    """Adds the host's files, and tells process 1 of the moment."""
    await running.command("device_add", LATE)
    await renew(told, limit, {"shown": shown(plan), "identity": identity})


def shown(plan: VmPlan) -> list[tuple[str, str, bool]]:
    """What of the host's files is the VM's: path there, path in the VM, whether it is writable."""
    found = [(str(path), str(path), False) for path in plan.binds]
    found += [(str(path), place, False) for path, place in plan.shares]
    found += [(str(plan.etc), "/etc", False), (str(plan.rootfs), IMAGE, False)]
    found += [(str(plan.agent), AGENT, False), (str(plan.layers), LAYERS, False)]
    return [*found, (str(plan.disk), DISK, True)]
