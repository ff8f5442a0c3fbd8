"""Starting the programs of a microVM, and what is handed to them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from mulligan.drivers.bubblewrap.child import child
from mulligan.drivers.process import OwnedProcess
from mulligan.drivers.qemu.machine import Part


async def launch(
    command: list[str], inherited: list[int], run_as: tuple[int, int] | None = None
) -> Part:
    """Starts a program in bubblewrap; returns when its process 1 is known.

    Args:
        command: the argument vector.
        inherited: descriptors it gets.
        run_as: uid and gid to become first, or None.

    Raises:
        ExecutionFailed: it did not start.
    """
    with pair() as (info, theirs):
        info.setblocking(False)
        where = command.index("--unshare-user")
        command = [*command[:where], "--info-fd", str(theirs.fileno()), *command[where:]]
        process = OwnedProcess(
            command, run_as=run_as, pass_fds=[*inherited, theirs.fileno()], env={}, cwd="/"
        )
        theirs.close()
        try:
            return Part(process, await child(info, process))
        except BaseException:
            process.kill()
            await asyncio.shield(process.wait())
            process.close()
            raise


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets, closed at the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@contextmanager
def memory(content: bytes) -> Iterator[int]:
    """A descriptor some bytes can be read from."""
    made = os.memfd_create("microvm", os.MFD_CLOEXEC)
    try:
        os.write(made, content)
        os.lseek(made, 0, os.SEEK_SET)
        yield made
    finally:
        os.close(made)


async def end(part: Part) -> None:
    """Ends a part of a microVM that never came to be."""
    part.kill()
    await asyncio.shield(asyncio.create_task(part.ended()))
