"""What process 1 of a microVM is told, and what it answers; see ``guest.woken``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import socket
import time

from mulligan.errors import ExecutionFailed
from mulligan.guest.woken import MOST_TOLD, MOVES, WOKEN

SEED_BYTES = 64


async def tell(told: socket.socket, body: dict[str, object]) -> None:
    """Tells it something.

    Raises:
        ExecutionFailed: it is gone.
    """
    line = json.dumps(body).encode() + b"\n"
    assert len(line) < MOST_TOLD
    told.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_sendall(told, line)
    except OSError:
        raise ExecutionFailed("the microVM has ended") from None


async def renew(told: socket.socket, limit: float, more: dict[str, object] | None = None) -> None:
    """Tells it of the moment, and gives it randomness; returns when it has used them.

    Args:
        told: our end of its socket.
        limit: seconds it may take.
        more: what else it is told.

    Raises:
        ExecutionFailed: it does not answer.
    """
    seed = secrets.token_hex(SEED_BYTES)
    await tell(told, {"time_ns": time.time_ns(), "seed": seed} | (more or {}))
    await hear(told, WOKEN, limit)


def identity(vm_id: str) -> dict[str, str]:
    """What a VM is called by inside: its id, and a machine-id(5) of that."""
    machine_id = hashlib.sha256(f"machine-id of {vm_id}".encode()).hexdigest()[:32]
    return {"hostname": vm_id, "machine_id": machine_id}


async def hear(told: socket.socket, word: bytes, limit: float) -> None:
    """Waits for a word of its.

    Raises:
        ExecutionFailed: it does not come, or another one does.
    """
    told.setblocking(False)
    loop = asyncio.get_running_loop()
    heard = b""
    try:
        async with asyncio.timeout(limit):
            while heard != word and word.startswith(heard):
                more = await loop.sock_recv(told, len(word) - len(heard))
                if not more:
                    raise ExecutionFailed("the microVM has ended")
                heard += more
    except TimeoutError:
        raise ExecutionFailed(f"the microVM did not answer within {limit:g} s") from None
    except ConnectionError:
        raise ExecutionFailed("the microVM has ended") from None
    if heard == MOVES:
        raise ExecutionFailed("what runs in the microVM could not be frozen")
    if heard != word:
        raise ExecutionFailed("process 1 of the microVM broke the protocol")
