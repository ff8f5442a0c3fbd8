"""Connections of a VM's programs that come as frames of its agent's, where no socket can come.

What the agent says of them is a stranger's: a connection is one that was asked for, and takes no
more than its window.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable

from mulligan.guest import frames

MOST_PORT = 0xFFFF
MOST_LINKS = 8192  # and those it was told to let go of, and has not yet


class Link:
    """One of them, as ``network.streams.AnyStream`` has it.

    Args:
        links: those it is of.
        number: what the agent calls it.
        idle: seconds the program has to take what it is sent.
    """

    def __init__(self, links: Links, number: int, idle: float) -> None:
        self._links = links
        self._number = number
        self._idle = idle
        self._incoming = bytearray()
        self._ended = False  # the program sends no more
        self._lost = False  # it is gone
        self._dropped = False  # nobody serves it any more
        self._late = 0  # bytes that came even so
        self._window = frames.LINK_WINDOW  # bytes that may go down
        self._changed = asyncio.Event()
        self.received = 0
        self.sent = 0

    async def receive(self, timeout: float | None = None) -> bytes:
        """See ``Stream``."""
        async with asyncio.timeout(timeout):
            while not self._incoming and not self._ended:
                await self._wait()
        data = bytes(self._incoming)
        self._incoming.clear()
        if data:
            self.received += len(data)
            self._links.tell(frames.LINK_GRANT, self._number, {"bytes": len(data)})
        return data

    async def send(self, data: bytes) -> None:
        """See ``Stream``."""
        start = 0
        async with asyncio.timeout(self._idle):
            while start < len(data):
                self._check()
                while not self._window:
                    await self._wait()
                piece = data[start : start + min(self._window, frames.MAX_CHUNK)]
                self._window -= len(piece)
                start += len(piece)
                self._links.tell(frames.LINK_DOWN, self._number, piece)
                await self._links.drained()
        self.sent += len(data)

    async def finish(self) -> None:
        """See ``Stream``."""
        self._links.tell(frames.LINK_DOWN, self._number, b"")

    def close(self) -> None:
        """See ``Stream``."""
        if not self._dropped:
            self._dropped = True
            self._incoming.clear()
            self._links.tell(frames.LINK_DROP, self._number)

    async def _wait(self) -> None:
        self._check()
        self._changed.clear()
        await self._changed.wait()

    def _check(self) -> None:
        if self._lost:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def take(self, frame: frames.Frame) -> None:
        """A frame about it.

        Raises:
            FrameError: it is none.
        """
        if frame.kind == frames.LINK_LOST:
            self._lost = True
        elif frame.kind == frames.LINK_ROOM:
            self._window += _number(frame, "bytes", frames.LINK_WINDOW - self._window)
        elif self._dropped:
            self._late += max(1, len(frame.payload))
            if self._late > frames.LINK_WINDOW + 1:  # it takes no room, but time
                raise frames.FrameError("a connection goes on though it was dropped")
        elif self._ended:
            raise frames.FrameError("a connection goes on after its end")
        else:
            self._incoming += frame.payload
            self._ended = not frame.payload
            if len(self._incoming) > frames.LINK_WINDOW:
                raise frames.FrameError("a connection sends more than it may")
        self._changed.set()


class Links:
    """Those of one VM, as ``network.proxy.Entrance`` has it.

    Args:
        write: sends bytes to the agent.
        drained: waits until it takes more.
        idle: see ``Link``.
    """

    def __init__(
        self, write: Callable[[bytes], None], drained: Callable[[], Awaitable[None]], idle: float
    ) -> None:
        self._write = write
        self.drained = drained
        self._idle = idle
        self._links: dict[int, Link] = {}
        self._next: asyncio.Future[tuple[Link, int]] | None = None
        self._asked = False

    def tell(self, kind: int, number: int, payload: bytes | dict[str, object] = b"") -> None:
        """Sends the agent a frame about a connection there is."""
        if number in self._links:
            self._write(frames.encode(kind, number, payload))

    async def accept(self) -> tuple[Link, int]:
        """See ``Entrance``."""
        self._next = asyncio.get_running_loop().create_future()
        if not self._asked:
            self._asked = True
            self._write(frames.encode(frames.LINK_WANT))
        return await self._next

    def close(self) -> None:
        """See ``Entrance``. What there is has been closed."""

    def take(self, frame: frames.Frame) -> None:
        """A frame of the agent's about a connection.

        Raises:
            FrameError: it is none.
        """
        if len(frame.payload) > frames.MAX_CHUNK:
            raise frames.FrameError(f"{len(frame.payload)} bytes of a connection at once")
        if frame.kind == frames.LINK:
            self._take_next(frame)
            return
        link = self._links.get(frame.channel)
        if link is None:
            raise frames.FrameError("a frame of a connection there is none of")
        link.take(frame)
        if frame.kind == frames.LINK_LOST:
            del self._links[frame.channel]

    def _take_next(self, frame: frames.Frame) -> None:
        if not self._asked or self._next is None:
            raise frames.FrameError("a connection that nobody asked for")
        self._asked = False
        port = _number(frame, "port", MOST_PORT)
        if not port:
            if not self._next.done():
                self._next.set_exception(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return
        if frame.channel in self._links or len(self._links) >= MOST_LINKS:
            raise frames.FrameError("a connection there is already, or one too many")
        link = self._links[frame.channel] = Link(self, frame.channel, self._idle)
        if self._next.done():  # whoever asked is gone
            link.close()
        else:
            self._next.set_result((link, port))


def _number(frame: frames.Frame, name: str, most: int) -> int:
    value = frame.body().get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise frames.FrameError(f"{name} is no number in range")
    return value
