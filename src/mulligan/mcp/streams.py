"""Standard input and output as the protocol's two streams.

Threads that a process does not wait for read and write, so that an end is an end even while the
client neither sends nor reads. Whatever else this process prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    import anyio

READ_SIZE = 64 * 1024
WAITING = 64  # messages on their way
TOO_LONG = "a message over the limit\n"


class Lines:
    """The lines that come in, without end of file for as long as the client may send more.

    Args:
        descriptor: to read from.
        most: bytes of a line; what is longer comes as a line that is no message.
    """

    def __init__(self, descriptor: int, most: int) -> None:
        self._descriptor = descriptor
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(WAITING)
        threading.Thread(target=self._read, daemon=True, name="mcp-stdin").start()

    def _read(self) -> None:
        try:
            for line in self._lines():
                self._put(line)
            self._put(None)
        except RuntimeError:  # the loop is gone, and nobody listens any more
            return

    def _put(self, line: str | None) -> None:
        asyncio.run_coroutine_threadsafe(self._queue.put(line), self._loop).result()

    def _lines(self) -> Iterator[str]:
        held = bytearray()
        dropping = False
        while data := self._some():
            *ends, rest = data.split(b"\n")
            for end in ends:
                held += end
                too_long = dropping or len(held) > self._most
                yield TOO_LONG if too_long else held.decode(errors="replace") + "\n"
                held.clear()
                dropping = False
            held += rest
            if len(held) > self._most:
                held.clear()
                dropping = True
        if held and not dropping:
            yield held.decode(errors="replace") + "\n"

    def _some(self) -> bytes:
        try:
            return os.read(self._descriptor, READ_SIZE)
        except OSError:  # a terminal that went away
            return b""

    async def __aiter__(self) -> AsyncIterator[str]:
        while (line := await self._queue.get()) is not None:
            yield line


class Writer:
    """Writes what goes out; ``flush`` waits for it.

    Raises:
        BrokenPipeError: from ``flush``: the client has gone.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []

    async def write(self, text: str) -> None:
        """Takes a text."""
        self._pending.append(text.encode(errors="replace"))

    async def flush(self) -> None:
        """Writes all that was taken."""
        data, self._pending = b"".join(self._pending), []
        done: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(
            target=self._write, args=(data, done), daemon=True, name="mcp-stdout"
        ).start()
        await done

    def _write(self, data: bytes, done: asyncio.Future[None]) -> None:
        failure: OSError | None = None
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            failure = error
        try:
            self._loop.call_soon_threadsafe(_settle, done, failure)
        except RuntimeError:  # the loop is gone
            return


def _settle(done: asyncio.Future[None], failure: OSError | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


@contextmanager
def private_streams() -> Iterator[tuple[int, int]]:
    """Descriptors of standard input and output that nothing else in this process has.

    Meanwhile descriptor 0 is empty and descriptor 1 is standard error.
    """
    own = (os.dup(0), os.dup(1))
    empty = os.open(os.devnull, os.O_RDONLY)
    try:
        os.dup2(empty, 0)
        os.dup2(2, 1)
        yield own
    finally:
        os.dup2(own[0], 0)
        os.dup2(own[1], 1)
        os.close(empty)
        # Not closed: a thread may still read or write them, and the number must not become another
        # file's under it.


Files: TypeAlias = "tuple[anyio.AsyncFile[str], anyio.AsyncFile[str]]"


def as_files(lines: Lines, writer: Writer) -> Files:
    """The two as what the SDK takes; of a file it uses no more than they have."""
    return cast("anyio.AsyncFile[str]", lines), cast("anyio.AsyncFile[str]", writer)
