"""Booting a microVM that is no copy, and goes on from nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from mulligan.drivers.qemu.arguments import QemuSpec, Tools
from mulligan.drivers.qemu.running import MOST_SAID, Running, spawn
from mulligan.errors import ExecutionFailed

if TYPE_CHECKING:
    from qemu.qmp import EventListener, QMPClient

PORT_OPEN = "VSERPORT_CHANGE"


async def boot(
    tools: Tools, machine: QemuSpec, run_as: tuple[int, int] | None, limit: float
) -> Running:
    """Starts QEMU, and returns when the guest has opened its port.

    Args:
        tools: programs of the host.
        machine: with its sockets and console.
        run_as: uid and gid QEMU runs as, or None.
        limit: seconds it may take.

    Raises:
        ExecutionFailed: it did not; the text is what it said.
    """
    from qemu.qmp import EventListener  # noqa: PLC0415  (of an extra)

    running, monitor = await spawn(tools, machine, run_as)
    try:
        listener = EventListener([PORT_OPEN])
        running.monitor.register_listener(listener)
        await _await_guest(running, monitor, listener, limit)
    except BaseException:
        await running.end()
        raise
    return running


async def _await_guest(
    running: Running, monitor: socket.socket, listener: EventListener, limit: float
) -> None:
    opened = asyncio.create_task(_opened(running.monitor, monitor, listener))
    ended = asyncio.ensure_future(running.qemu.process.wait())
    await asyncio.wait({opened, ended}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if opened.done() and opened.result():
        return
    opened.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opened
    said = running.qemu.said().splitlines()
    if said:
        raise ExecutionFailed(f"QEMU: {said[-1][:MOST_SAID]}")
    raise ExecutionFailed(f"the microVM did not come up within {limit:g} s")


async def _opened(client: QMPClient, monitor: socket.socket, listener: EventListener) -> bool:
    """Whether the guest has opened its port; false where there is no QEMU any more."""
    from qemu.qmp import ConnectError  # noqa: PLC0415

    try:
        await client.connect(monitor)
    except ConnectError:
        return False  # it has ended, or is about to
    async for event in listener:
        data = event.get("data")
        if isinstance(data, dict) and data.get("open") is True:
            return True
    return False
