"""Boots the machine that becomes a template, and has copies of it go on."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mulligan.drivers.bubblewrap.arguments import VmPlan
from mulligan.drivers.qemu import templates, warm
from mulligan.drivers.qemu.arguments import LATE, QemuSpec, Tools, qemu_command
from mulligan.drivers.qemu.console import Console
from mulligan.drivers.qemu.launching import end, launch, pair
from mulligan.drivers.qemu.machine import Part, hang_up
from mulligan.drivers.qemu.templates import Stamp, Template
from mulligan.errors import ExecutionFailed
from mulligan.guest.root import AGENT, DISK, IMAGE, LAYERS
from mulligan.guest.woken import MOST_TOLD, WAITS, WOKEN

if TYPE_CHECKING:
    from qemu.qmp import EventListener, QMPClient

MAKE_S = {"kvm": 30.0, "tcg": 120.0}
GO_ON_S = {"kvm": 10.0, "tcg": 30.0}
SEED_BYTES = 64
MIGRATION = "MIGRATION"
DEVICES = "devices"
CAPABILITIES = [
    {"capability": "x-ignore-shared", "state": True},
    {"capability": "events", "state": True},
]


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
        archive = await asyncio.to_thread(
            warm.first_file_system,
            ground.tools,
            warm.plan_of(plan),
            ground.machine.initrd.read_bytes(),
        )
        initrd.write_bytes(archive)
        initrd.chmod(0o644)
        memory = templates.new_memory(ground.machine.memory_mb)
        try:
            machine = replace(ground.machine, initrd=initrd, memory=memory)
            await _saved(ground, machine, staged / templates.DEVICES)
            return await asyncio.to_thread(templates.keep, staged, shape, stamp, memory)
        finally:
            os.close(memory)
    except BaseException as error:
        shutil.rmtree(staged, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExecutionFailed(f"the template cannot be kept: {error.strerror}") from None
        raise


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
        running = await start(ground, machine)
        told_end.close()
        try:
            await _hear(told, WAITS, MAKE_S[machine.accel])
            await _migrated(running, "migrate", file, MAKE_S[machine.accel])
        except ExecutionFailed as error:
            said = console.complaint()
            why = f"{error.detail}; it said: {said}" if said else error.detail
            raise ExecutionFailed(why) from None
        finally:
            await running.end()


@dataclass
class Running:
    """A QEMU and its monitor."""

    qemu: Part
    monitor: QMPClient
    migrations: EventListener

    async def end(self) -> None:
        """Ends it, where it is to be no VM."""
        await end(self.qemu)
        self.qemu.process.close()
        await hang_up(self.monitor)


async def start(ground: Ground, machine: QemuSpec) -> Running:
    """Starts QEMU, and returns when it takes commands.

    Raises:
        ExecutionFailed: it ended; the text is what it said.
    """
    from qemu.qmp import ConnectError, EventListener, ExecuteError, QMPClient, QMPError  # noqa: PLC0415  (of an extra)

    with pair() as (monitor, monitor_end):
        machine = replace(machine, monitor=monitor_end.fileno())
        handed = [machine.agent, machine.told, machine.memory, machine.monitor, machine.console]
        handed += [machine.share] if machine.goes_on else []
        command = qemu_command(ground.tools, machine)
        qemu = await launch(command, handed, ground.run_as)
        ours = monitor.dup()
    client = QMPClient("mulligan")
    migrations = EventListener([MIGRATION])
    client.register_listener(migrations)
    running = Running(qemu, client, migrations)
    try:
        await client.connect(ours)
        await client.execute("migrate-set-capabilities", {"capabilities": CAPABILITIES})
    except (ConnectError, QMPError, ExecuteError) as error:
        await end(qemu)
        said = qemu.process.stderr().splitlines() or [str(error)]
        await running.end()
        raise ExecutionFailed(f"QEMU: {said[-1][:300]}") from None
    except BaseException:
        await running.end()
        raise
    return running


async def go_on(
    ground: Ground, template: Template, machine: QemuSpec, told: socket.socket, plan: VmPlan
) -> Running:
    """Has a copy of a template go on, as a VM of its own with its files.

    Args:
        ground: see there.
        template: of the machine.
        machine: with its sockets and console.
        told: our end of its socket.
        plan: of the VM, as in the guest.

    Raises:
        ExecutionFailed: it does not; the text says why.
        OSError: there is no room for its memory.
    """
    memory = templates.new_memory(machine.memory_mb)
    copying = asyncio.create_task(asyncio.to_thread(template.fill, memory))
    try:
        machine = replace(
            machine,
            initrd=template.initrd,
            memory=memory,
            goes_on=True,
            tsc_khz=template.stamp.tsc_khz,
        )
        running = await start(ground, machine)  # while its memory is copied
        try:
            await copying
            await _woken(running, template, machine, told, plan)
        except BaseException:
            await running.end()
            raise
    finally:
        await asyncio.wait({copying})
        os.close(memory)
    return running


async def _woken(
    running: Running, template: Template, machine: QemuSpec, told: socket.socket, plan: VmPlan
) -> None:
    """Loads the devices, adds the host's files, and tells process 1 of the moment."""
    limit = GO_ON_S[machine.accel]
    with template.devices.open("rb") as devices:
        await _migrated(running, "migrate-incoming", devices.fileno(), limit)
    await _command(running, "device_add", LATE)
    body = {
        "time_ns": time.time_ns(),
        "seed": secrets.token_hex(SEED_BYTES),
        "shown": shown(plan),
    }
    line = json.dumps(body).encode() + b"\n"
    assert len(line) < MOST_TOLD
    told.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(told, line)
    await _hear(told, WOKEN, limit)


def shown(plan: VmPlan) -> list[tuple[str, str, bool]]:
    """What of the host's files is the VM's: path there, path in the VM, whether it is writable."""
    found = [(str(path), str(path), False) for path in plan.binds]
    found += [(str(path), place, False) for path, place in plan.shares]
    found += [(str(plan.etc), "/etc", False), (str(plan.rootfs), IMAGE, False)]
    found += [(str(plan.agent), AGENT, False), (str(plan.layers), LAYERS, False)]
    return [*found, (str(plan.disk), DISK, True)]


async def _migrated(running: Running, command: str, descriptor: int, limit: float) -> None:
    """Has QEMU save or load its devices, by a descriptor it is given."""
    from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415  (of an extra)

    try:
        async with asyncio.timeout(limit):
            running.monitor.send_fd_scm(descriptor)
            await running.monitor.execute("getfd", {"fdname": DEVICES})
            await running.monitor.execute(command, {"uri": f"fd:{DEVICES}"})
            async for event in running.migrations:
                data = event["data"]
                status = data.get("status") if isinstance(data, dict) else None
                if status == "completed":
                    return
                if status == "failed":
                    break
    except TimeoutError:
        raise ExecutionFailed(f"QEMU did not {command} within {limit:g} s") from None
    except (QMPError, ExecuteError) as error:
        raise ExecutionFailed(f"QEMU did not {command}: {_said(running) or error}") from None
    raise ExecutionFailed(f"QEMU could not {command}: {_said(running) or 'it does not say why'}")


async def _command(running: Running, command: str, arguments: dict[str, str]) -> None:
    from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415  (of an extra)

    try:
        await running.monitor.execute(command, arguments)
    except (QMPError, ExecuteError) as error:
        raise ExecutionFailed(f"QEMU refused {command}: {_said(running) or error}") from None


def _said(running: Running) -> str:
    said = running.qemu.process.stderr().splitlines()
    return said[-1][:300] if said else ""


async def _hear(told: socket.socket, word: bytes, limit: float) -> None:
    """Waits for a word of process 1."""
    told.setblocking(False)
    loop = asyncio.get_running_loop()
    heard = b""
    try:
        async with asyncio.timeout(limit):
            while heard != word and word.startswith(heard):
                more = await loop.sock_recv(told, len(word) - len(heard))
                if not more:
                    raise ExecutionFailed("the microVM ended as it came up")
                heard += more
    except TimeoutError:
        raise ExecutionFailed(f"the microVM did not come up within {limit:g} s") from None
    except ConnectionError:
        raise ExecutionFailed("the microVM ended as it came up") from None
    if heard != word:
        raise ExecutionFailed("process 1 of the microVM broke the protocol")
