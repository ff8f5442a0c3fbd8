"""A QEMU that runs, by its monitor: what it is told, and its memory and devices as they move."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mulligan.drivers.qemu.arguments import NONE, QemuSpec, Tools, qemu_command
from mulligan.drivers.qemu.launching import end, launch, pair
from mulligan.drivers.qemu.machine import Part, hang_up
from mulligan.errors import ExecutionFailed

if TYPE_CHECKING:
    from qemu.qmp import EventListener, QMPClient

MIGRATION = "MIGRATION"
DEVICES = "devices"
DEVICES_SET = 2
SETS_FROM = (9, 1)
MOST_SAID = 300
CAPABILITIES = [
    {"capability": "x-ignore-shared", "state": True},
    {"capability": "events", "state": True},
]


@dataclass
class Running:
    """A QEMU and its monitor.

    Attributes:
        qemu: it.
        monitor: to it.
        migrations: what it says of what it saves and loads.
        by_set: whether it takes files for that as members of a set, as newer ones want them.
    """

    qemu: Part
    monitor: QMPClient
    migrations: EventListener
    by_set: bool

    async def end(self) -> None:
        """Ends it, where it is to be no VM."""
        await end(self.qemu)
        self.qemu.process.close()
        await hang_up(self.monitor)

    async def command(self, command: str, arguments: dict[str, str] | None = None) -> None:
        """Has QEMU do something.

        Raises:
            ExecutionFailed: it did not.
        """
        from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415  (of an extra)

        try:
            await self.monitor.execute(command, arguments)
        except (QMPError, ExecuteError) as error:
            why = self.said() or error
            raise ExecutionFailed(f"QEMU refused {command}: {why}") from None

    async def migrated(self, command: str, descriptor: int, limit: float) -> None:
        """Has QEMU save ("migrate") or load ("migrate-incoming") its devices.

        Args:
            command: which.
            descriptor: of a file, which it is given.
            limit: seconds it may take.

        Raises:
            ExecutionFailed: it did not.
        """
        done = asyncio.create_task(self._migrate(command, descriptor))
        ended = asyncio.ensure_future(self.qemu.process.wait())
        try:
            first = {done, ended}
            await asyncio.wait(first, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                why = done.result()
            else:
                why = "it has ended" if ended.done() else f"not within {limit:g} s"
        finally:
            done.cancel()
            ended.cancel()
        if why is not None:
            raise ExecutionFailed(f"QEMU could not {command}: {self.said() or why}")

    async def _migrate(self, command: str, descriptor: int) -> str | None:
        """Why it could not be done; None: it was."""
        from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415  (of an extra)

        try:
            self.monitor.send_fd_scm(descriptor)
            if self.by_set:
                await self.monitor.execute("add-fd", {"fdset-id": DEVICES_SET})
                uri = f"file:/dev/fdset/{DEVICES_SET}"
            else:
                await self.monitor.execute("getfd", {"fdname": DEVICES})
                uri = f"fd:{DEVICES}"
            await self.monitor.execute(command, {"uri": uri})
            async for event in self.migrations:
                data = event["data"]
                status = data.get("status") if isinstance(data, dict) else None
                if status == "completed":
                    break
                if status == "failed":
                    return "it does not say why"
            if self.by_set:
                await self.monitor.execute("remove-fd", {"fdset-id": DEVICES_SET})
        except (QMPError, ExecuteError, OSError) as error:
            return str(error)
        return None

    def said(self) -> str:
        """The last line of what it said when something was wrong."""
        said = self.qemu.said().splitlines()
        return said[-1][:MOST_SAID] if said else ""


async def spawn(
    tools: Tools, machine: QemuSpec, run_as: tuple[int, int] | None
) -> tuple[Running, socket.socket]:
    """Starts QEMU; also gives the socket its monitor is to be connected by.

    Raises:
        ExecutionFailed: it did not start.
    """
    from qemu.qmp import EventListener, QMPClient  # noqa: PLC0415  (of an extra)

    with pair() as (monitor, monitor_end):
        machine = replace(machine, monitor=monitor_end.fileno())
        handed = [machine.agent, machine.told, machine.memory, machine.monitor, machine.console]
        handed = [each for each in (*handed, machine.share) if each != NONE]
        qemu = await launch(qemu_command(tools, machine), handed, run_as)
        ours = monitor.dup()
    client = QMPClient("mulligan")
    migrations = EventListener([MIGRATION])
    client.register_listener(migrations)
    return Running(qemu, client, migrations, tools.qemu_version >= SETS_FROM), ours


async def start(tools: Tools, machine: QemuSpec, run_as: tuple[int, int] | None) -> Running:
    """Starts QEMU, and returns when it takes commands.

    Args:
        tools: programs of the host.
        machine: with its sockets, console and memory.
        run_as: uid and gid QEMU runs as, or None.

    Raises:
        ExecutionFailed: it ended; the text is what it said.
    """
    from qemu.qmp import ConnectError, ExecuteError, QMPError  # noqa: PLC0415  (of an extra)

    running, monitor = await spawn(tools, machine, run_as)
    try:
        await running.monitor.connect(monitor)
        await running.monitor.execute("migrate-set-capabilities", {"capabilities": CAPABILITIES})
    except (ConnectError, QMPError, ExecuteError) as error:
        await end(running.qemu)
        said = running.qemu.said().splitlines() or [str(error)]
        await running.end()
        raise ExecutionFailed(f"QEMU: {said[-1][:MOST_SAID]}") from None
    except BaseException:
        await running.end()
        raise
    return running
