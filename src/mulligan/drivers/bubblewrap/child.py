"""The process bubblewrap makes its namespaces for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket

from mulligan.drivers.bubblewrap import preflight
from mulligan.drivers.process import OwnedProcess
from mulligan.errors import ExecutionFailed

INFO_LIMIT = 4096
INFO_TIMEOUT_S = 10.0


class Init:
    """Process 1 of a VM, which nobody but bubblewrap can wait for in the ordinary way.

    The kernel lets it go only when every other process of its namespace is gone.

    Args:
        pid: its number on the host.

    Raises:
        ProcessLookupError: it has ended and was reaped.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._pidfd, self._on_end)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if not self._ended.done():
            self._ended.set_result(None)

    def kill(self) -> None:
        """Ends it, if it has not ended."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> None:
        """Returns when it has ended, and with it all others of the VM."""
        await asyncio.shield(self._ended)


async def child(info: socket.socket, process: OwnedProcess) -> Init:
    """Process 1 of the VM, which bubblewrap names on its info socket.

    Raises:
        ConfigError: bubblewrap ended without making a VM.
        ExecutionFailed: it takes too long.
    """
    loop = asyncio.get_running_loop()
    said = b""
    try:
        async with asyncio.timeout(INFO_TIMEOUT_S):
            while b"}" not in said and len(said) < INFO_LIMIT:
                chunk = await loop.sock_recv(info, INFO_LIMIT)
                if not chunk:
                    break
                said += chunk
    except TimeoutError:
        why = f"bubblewrap made no VM within {INFO_TIMEOUT_S:g} s"
        raise ExecutionFailed(why) from None
    with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
        return Init(int(json.loads(said)["child-pid"]))
    await process.wait()
    complaint = process.stderr().splitlines()
    raise preflight.explain(complaint[-1] if complaint else "it ended without a word")
