"""The host's end of a pseudo-terminal in a VM: bytes in, bytes out, bounded both ways.

The windows are those of SSH's channels (RFC 4254, 5.2): the agent sends as much output as was
granted, which grows by what has been read here; and is sent as much input as may be in flight,
which shrinks by what the terminal has taken. So a reader who takes his time holds up his own
terminal and nothing else of the VM, and what waits is bounded on both sides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mulligan.guest import frames

WINDOW = 256 * 1024  # of output that is on its way, or waits to be read
IN_FLIGHT = 64 * 1024  # of input that the agent may hold
KEPT = 1024 * 1024  # of input that waits here
PIECE = 32 * 1024  # of output that is read at once: looking for secrets in it takes milliseconds

Send = Callable[[int, bytes | dict[str, object]], None]


class Pty:
    """A terminal of ``cols`` times ``rows`` characters, before, while and after it is there."""

    def __init__(self, cols: int, rows: int) -> None:
        self._size = cols, rows
        self._send: Send | None = None
        self._granted = WINDOW
        self._output = bytearray()
        self._input = bytearray()
        self._in_flight = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.is_started = asyncio.Event()
        self.is_over = False
        self.moved = asyncio.get_running_loop().time()  # when something last went in or out

    def body(self) -> dict[str, object]:
        """Its part of the START frame."""
        return {"cols": self._size[0], "rows": self._size[1], "window": WINDOW}

    # For the connection

    def asked(self, send: Send) -> None:
        """A program was asked for that runs in it; ``send`` sends a frame about it."""
        self._send = send
        self._pump()

    def started(self) -> None:
        """The program is there."""
        self.is_started.set()

    def output(self, data: bytes) -> None:
        """Takes what the program wrote.

        Raises:
            FrameError: it is more than was granted.
        """
        self._granted -= len(data)
        if self._granted < -frames.LAST_WORDS:
            raise frames.FrameError("more of a terminal's output than was granted")
        self._output += data
        self._touch()
        self._news.set()

    def taken(self, count: int) -> None:
        """The terminal has taken input.

        Raises:
            FrameError: it was not sent so much.
        """
        if count > self._in_flight:
            raise frames.FrameError("a terminal took more input than it was sent")
        self._in_flight -= count
        self._touch()
        self._pump()

    def over(self, _: object = None) -> None:
        """The program has ended, or never will be."""
        self.is_over = True
        self._send = None
        self._input.clear()
        self._news.set()
        self._room.set()

    # For its user

    async def read(self) -> bytes:
        """What was written since the last read, up to ``PIECE``; empty when it is over."""
        while not self._output:
            if self.is_over:
                return b""
            self._news.clear()
            await self._news.wait()
        data = bytes(self._output[:PIECE])
        del self._output[:PIECE]
        if self._send is not None:
            self._granted += len(data)
            self._send(frames.CREDIT, {"bytes": len(data)})
        return data

    async def write(self, data: bytes) -> None:
        """Gives it input; waits while more waits than is kept. Dropped once it is over."""
        view = memoryview(data)
        while view and not self.is_over:
            room = KEPT - len(self._input)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            self._input += view[:room]
            view = view[room:]
            self._pump()
        self._touch()

    def resize(self, cols: int, rows: int) -> None:
        """Changes its size; the program hears of it by SIGWINCH."""
        self._size = cols, rows
        if self._send is not None:
            self._send(frames.RESIZE, {"cols": cols, "rows": rows})

    def signal(self, number: int) -> None:
        """Signals its foreground process group."""
        if self._send is not None:
            self._send(frames.SIGNAL, {"number": number})

    def _touch(self) -> None:
        self.moved = asyncio.get_running_loop().time()

    def _pump(self) -> None:
        """Sends what input may be sent."""
        while self._send is not None and self._input and self._in_flight < IN_FLIGHT:
            chunk = bytes(self._input[: min(frames.MAX_CHUNK, IN_FLIGHT - self._in_flight)])
            del self._input[: len(chunk)]
            self._in_flight += len(chunk)
            self._send(frames.STDIN, chunk)
        if len(self._input) < KEPT:
            self._room.set()
