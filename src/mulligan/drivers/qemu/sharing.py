"""Showing a microVM its files: virtiofsd, connected to what QEMU is handed."""

from __future__ import annotations

import os
import resource
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

from mulligan.drivers.bubblewrap import seccomp
from mulligan.drivers.bubblewrap.arguments import VmPlan
from mulligan.drivers.qemu import walls
from mulligan.drivers.qemu.arguments import ShareSpec, Tools, share_command, start_script
from mulligan.drivers.qemu.launching import launch, memory
from mulligan.drivers.qemu.machine import Part


async def serve(
    tools: Tools,
    plan: VmPlan,
    guest: VmPlan,
    directory: Path,
    run_as: tuple[int, int] | None,
    known_as: tuple[Path, Path] | None,
) -> tuple[Part, socket.socket]:
    """Starts virtiofsd.

    Args:
        tools: programs of the host.
        plan: of the VM, as on this host.
        guest: of the VM, as in the guest.
        directory: one of the server's own.
        run_as: uid and gid it runs as, or None.
        known_as: see ``BootSpec``.

    Returns:
        It, and the connected socket QEMU speaks with it by.

    Raises:
        ExecutionFailed: it did not start.
    """
    with ExitStack() as stack:
        listening, connected = _connected(stack, directory)
        start = stack.enter_context(memory(start_script(tools, guest).encode()))
        filtered = seccomp.descriptor()
        stack.callback(os.close, filtered)
        links = stack.enter_context(memory(walls.program()))
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        share = ShareSpec(listening.fileno(), start, filtered, links, most, known_as)
        inherited = [listening.fileno(), start, filtered, links]
        part = await launch(
            share_command(tools, plan, share), inherited, None if plan.staged else run_as
        )
        return part, connected.dup()


def _connected(stack: ExitStack, parent: Path) -> tuple[socket.socket, socket.socket]:
    """A listening socket with one connection made to it, which nobody else can find."""
    directory = stack.enter_context(tempfile.TemporaryDirectory(dir=parent))
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, opened)
    place = f"/proc/self/fd/{opened}/s"  # the directory's own name may be too long
    listening = stack.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(place)
    listening.listen(1)
    connected = stack.enter_context(socket.socket(socket.AF_UNIX))
    connected.connect(place)
    return listening, connected
