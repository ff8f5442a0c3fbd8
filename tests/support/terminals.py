"""Reading from terminals until something came, with a bound on the time."""

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary

PROMPT = b"$ "
PATIENCE_S = 20
_unread: WeakKeyDictionary["Readable", bytes] = WeakKeyDictionary()


class Readable(Protocol):
    async def receive(self) -> bytes: ...


async def until(terminal: Readable, *wanted: bytes) -> bytes:
    """What came up to each of ``wanted``, in their order; fails at the end or after a while.

    What came after that is there for the next call.
    """
    got, at, seen = _unread.pop(terminal, b""), 0, 0
    pending = list(wanted)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while pending:
                found = got.find(pending[0], max(at, seen - len(pending[0])))
                if found >= 0:
                    at = found + len(pending.pop(0))
                    continue
                data = await terminal.receive()
                assert data, f"it ended before {pending[0]!r} came: {got[-2000:]!r}"
                seen = len(got)
                got += data
    except TimeoutError:
        raise AssertionError(f"{pending[0]!r} did not come: {got[-2000:]!r}") from None
    _unread[terminal] = got[at:]
    return got[:at]


async def rest(terminal: Readable) -> bytes:
    """What comes up to the end."""
    got = _unread.pop(terminal, b"")
    async with asyncio.timeout(PATIENCE_S):
        while data := await terminal.receive():
            got += data
    return got
