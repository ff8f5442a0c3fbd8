"""The agent's end of the stream to the host."""

from __future__ import annotations

import os

from mulligan.guest import frames

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from mulligan.guest.loop import Loop

RECEIVE = 256 * 1024
OUTGOING_HIGH = 1024 * 1024
OUTGOING_LOW = 256 * 1024


class Host:
    """The host: where it is gone the agent ends, and the VM with it.

    Args:
        descriptor: of the connection.
        loop: where it is watched.
        handle: called with each frame that comes.
    """

    def __init__(self, descriptor: int, loop: Loop, handle: Callable[[frames.Frame], None]) -> None:
        self._descriptor = descriptor  # a socket, or the port of a microVM
        os.set_blocking(descriptor, False)
        self._decoder = frames.Decoder(frames.FROM_HOST)
        self._outgoing = bytearray()
        self._loop = loop
        self._writing = False
        self._handle = handle
        loop.watch(descriptor, self._receive)

    def _receive(self) -> None:
        try:
            data = os.read(self._descriptor, RECEIVE)
        except BlockingIOError:
            data = b""
            if not self._outgoing:
                return
        except ConnectionError:
            os._exit(0)
        else:
            if not data:
                os._exit(0)
        for frame in self._decoder.feed(data):
            self._handle(frame)

    def send(self, kind: int, channel: int = 0, payload: bytes | dict[str, object] = b"") -> None:
        """Sends a frame with the next ``flush``."""
        self._outgoing += frames.encode(kind, channel, payload)

    def crowded(self) -> bool:
        """Whether the host takes too little of what is sent."""
        return len(self._outgoing) > OUTGOING_HIGH

    def flush(self) -> None:
        """Sends what the host takes; holds the programs' output back while it takes too little."""
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self._descriptor, self._outgoing)]
        except BlockingIOError:
            pass  # the rest goes when the socket says so
        except ConnectionError:
            os._exit(0)
        if self._writing != bool(self._outgoing):
            self._writing = bool(self._outgoing)
            self._loop.also_write(self._descriptor, self._writing)
        if len(self._outgoing) < OUTGOING_LOW:
            self._loop.release()
