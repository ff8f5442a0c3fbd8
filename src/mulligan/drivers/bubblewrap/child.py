"""The process bubblewrap makes its namespaces for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from dataclasses import dataclass

from mulligan.drivers.bubblewrap import preflight
from mulligan.drivers.process import OwnedProcess
from mulligan.errors import ExecutionFailed

INFO_LIMIT = 4096
INFO_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Init:
    """Process 1 of a VM: a pidfd of it, and its number on the host."""

    pidfd: int
    pid: int


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
        pid = int(json.loads(said)["child-pid"])
        return Init(os.pidfd_open(pid), pid)
    await process.wait()
    complaint = process.stderr().splitlines()
    raise preflight.explain(complaint[-1] if complaint else "it ended without a word")
