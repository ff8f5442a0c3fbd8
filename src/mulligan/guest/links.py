"""The VM's side of its network where no socket of it can be handed to the host.

A kernel of the VM's own keeps its sockets to itself. There the agent takes the connections that
programs make to the proxy, and passes their bytes on between them and frames (``guest.frames``), on
the one stream to the host that it has anyhow. The host says when it takes another one, so that what
is too much waits where it does on any machine: in the queue of the listening socket.
"""

from __future__ import annotations

from _socket import (
    AF_INET,
    IPPROTO_TCP,
    SHUT_WR,
    SO_REUSEADDR,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    socket,
)
from errno import ECONNABORTED

from mulligan.guest import frames
from mulligan.guest.network import ADDRESS, BACKLOG, PORT
from mulligan.guest.room import check_descriptors

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from mulligan.guest.loop import Loop

    Send = Callable[[int, int, bytes | dict[str, object]], None]

MOST_FREED = frames.LINK_WINDOW // 4  # bytes, before the host hears that they were taken
LAST = 0xFFFFFFFF


class Link:
    """One connection of a program's."""

    __slots__ = (
        *("closing", "connected", "credit", "ended", "freed", "number", "over", "pending"),
        "shut",
    )

    def __init__(self, number: int, connected: socket) -> None:
        self.number = number
        self.connected = connected
        self.credit = frames.LINK_WINDOW  # bytes that may go up
        self.pending = bytearray()  # what came down, and the program has not taken
        self.freed = 0  # bytes it took, of which the host has not heard
        self.ended = False  # the program sends no more
        self.over = False  # the host sends no more
        self.shut = False  # and the program knows
        self.closing = False  # nobody is there on the host's side


class Links:
    """Takes connections as the host asks for them.

    Args:
        loop: where they are watched.
        send: sends a frame to the host.

    Raises:
        OSError: there can be no listening socket.
    """

    def __init__(
        self, loop: Loop, send: Callable[[int, int, bytes | dict[str, object]], None]
    ) -> None:
        self._loop = loop
        self._send = send
        self._links: dict[int, Link] = {}
        self._last = 0
        self._listener = socket(AF_INET, SOCK_STREAM)
        self._listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        self._listener.bind((ADDRESS, PORT))
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)

    def take(self, frame: frames.Frame) -> None:
        """A frame about a connection, or about the next one."""
        if frame.kind == frames.LINK_WANT:
            self._loop.want(self._listener.fileno(), self._accept, read=True)
            return
        link = self._links.get(frame.channel)
        if link is None:
            return  # the program was faster
        if frame.kind == frames.LINK_DOWN:
            link.over |= not frame.payload
            link.pending += frame.payload
        elif frame.kind == frames.LINK_GRANT:
            link.credit += _bytes(frame)
        else:
            link.closing = True
            self._send(frames.LINK_LOST, link.number, b"")  # nothing more is said of it
        self._move(link)

    def renew(self) -> None:
        """The host is another one, which knows of no connection."""
        for link in list(self._links.values()):
            self._close(link)
        self._loop.want(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            check_descriptors()
            # What accept of the socket module, which takes milliseconds to import, calls.
            descriptor, address = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != ECONNABORTED:
                self._loop.want(self._listener.fileno(), self._accept)
                self._send(frames.LINK, 0, {"port": 0})  # it asks again
            return
        self._loop.want(self._listener.fileno(), self._accept)
        connected = socket(AF_INET, SOCK_STREAM, 0, descriptor)
        connected.setblocking(False)
        connected.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._last = self._last % LAST + 1
        while self._last in self._links:
            self._last = self._last % LAST + 1
        link = self._links[self._last] = Link(self._last, connected)
        self._send(frames.LINK, link.number, {"port": address[1]})
        self._move(link)

    def _move(self, link: Link) -> None:
        """Passes on what can be; both ways, a piece at a time."""
        try:
            self._down(link)
            self._up(link)
            done = not link.pending and (link.closing or (link.over and link.ended))
        except OSError:
            done = True
        if done:
            if not link.closing:
                self._send(frames.LINK_LOST, link.number, b"")
            self._close(link)
            return
        read = link.credit > 0 and not link.ended and not link.closing
        write = bool(link.pending)
        self._loop.want(link.connected.fileno(), lambda: self._move(link), read=read, write=write)

    def _down(self, link: Link) -> None:
        if link.pending:
            try:
                count = link.connected.send(link.pending)
            except BlockingIOError:
                return
            del link.pending[:count]
            link.freed += count
        if link.freed and not link.closing and (not link.pending or link.freed >= MOST_FREED):
            self._send(frames.LINK_ROOM, link.number, {"bytes": link.freed})
            link.freed = 0
        if link.over and not link.pending and not link.shut:
            link.shut = True
            link.connected.shutdown(SHUT_WR)

    def _up(self, link: Link) -> None:
        if not link.credit or link.ended or link.closing:
            return
        try:
            data = link.connected.recv(min(link.credit, frames.MAX_CHUNK))
        except BlockingIOError:
            return
        link.credit -= len(data)
        link.ended = not data
        self._send(frames.LINK_UP, link.number, data)

    def _close(self, link: Link) -> None:
        del self._links[link.number]
        self._loop.want(link.connected.fileno(), lambda: None)
        link.connected.close()


def _bytes(frame: frames.Frame) -> int:
    count = frame.body()["bytes"]
    assert isinstance(count, int)
    return count
