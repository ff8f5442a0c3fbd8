"""Frames between the host and the agent inside a VM: bounded, versioned, sans-I/O.

A frame is a header of ten bytes, big-endian, and its payload::

    length u32 | version u8 | kind u8 | channel u32 | payload (length bytes)

``channel`` is the number of the execution a frame belongs to, 0 for the VM itself. Payloads are
raw bytes for the kinds in ``RAW``, and a JSON object for every other kind. Either side treats the
other's frames as input from a stranger: a frame of another version, an unknown kind or a length
over the bound ends the connection.

The frames of a terminal: RESIZE has ``cols`` and ``rows``, SIGNAL the ``number`` of a signal for
its foreground process group, CREDIT the ``bytes`` of output that may be sent beyond those granted
before (at first, START's ``terminal.window``), TAKEN the ``bytes`` of STDIN it has taken since the
last.

OWNER asks whose the connection to the host from a ``port`` of the VM's loopback is; OWNER_DONE has
the ``channels`` of the executions it may be of.

Where no socket of the VM can be handed to the host, connections of its programs to the proxy are
passed on as frames, and ``channel`` is the number of the connection. LINK_WANT asks for the next
one; LINK answers, with its number and the ``port`` it is from, or port 0 if there can be none now.
LINK_UP and LINK_DOWN have its bytes; one without any says that no more come from there. At most
LINK_WINDOW may be under way in either direction, beyond the ``bytes`` that LINK_GRANT (of what came
up) and LINK_ROOM (of what went down) say were taken. LINK_DROP says that nobody serves it any more;
LINK_LOST, the last of each, that the program is gone or that it was dropped.

MEMORY says how many programs the agent has ``ended`` because the VM's memory was used up, where it
watches that.
"""

import struct

from mulligan.guest import lightjson

VERSION = 1
HEADER = struct.Struct(">IBBI")
MAX_PAYLOAD = 32 * 1024 * 1024
MAX_CHUNK = 64 * 1024
LINK_WINDOW = 128 * 1024
LAST_WORDS = 64 * 1024  # of a terminal that is over, beyond its window; the kernel keeps less

# From the host
BOOT = 1
START = 2
STDIN = 3
STDIN_END = 4
KILL = 5
PING = 6
KERNELS = 7
ROOT = 8
PAUSE = 9
RESUME = 10
RESIZE = 11
SIGNAL = 12
CREDIT = 13
OWNER = 14
LINK_WANT = 15
LINK_DOWN = 16
LINK_GRANT = 17
LINK_DROP = 18
# From the agent
READY = 65
STARTED = 66
STDOUT = 67
STDERR = 68
EXIT = 69
PONG = 70
FATAL = 71
KERNELS_DONE = 72
ROOT_DONE = 73
PAUSED = 74
DISK = 75
TAKEN = 76
OWNER_DONE = 77
MEMORY = 78
LINK = 79
LINK_UP = 80
LINK_ROOM = 81
LINK_LOST = 82

TO_TERMINAL = frozenset((RESIZE, SIGNAL, CREDIT))
TO_LINKS = frozenset((LINK_WANT, LINK_DOWN, LINK_GRANT, LINK_DROP))
OF_LINKS = frozenset((LINK, LINK_UP, LINK_ROOM, LINK_LOST))
FROM_HOST = (
    TO_TERMINAL
    | TO_LINKS
    | frozenset((BOOT, START, STDIN, STDIN_END, KILL, PING, KERNELS, ROOT, PAUSE, RESUME, OWNER))
)
FROM_AGENT = OF_LINKS | frozenset(
    (READY, STARTED, STDOUT, STDERR, EXIT, PONG, FATAL, KERNELS_DONE, ROOT_DONE, PAUSED)
    + (DISK, TAKEN, OWNER_DONE, MEMORY)
)
RAW = frozenset((STDIN, STDOUT, STDERR, LINK_DOWN, LINK_UP))


class FrameError(ValueError):
    """The other side sent something that is no frame."""


class Frame:
    """One frame, as received."""

    __slots__ = ("channel", "kind", "payload")

    def __init__(self, kind: int, channel: int, payload: bytes) -> None:
        self.kind = kind
        self.channel = channel
        self.payload = payload

    def body(self) -> dict[str, object]:
        """The payload as a JSON object.

        Raises:
            FrameError: it is not one.
        """
        try:
            value = lightjson.loads(self.payload.decode()) if self.payload else {}
        except (ValueError, RecursionError) as error:
            raise FrameError(f"frame of kind {self.kind} has no JSON payload") from error
        if not isinstance(value, dict):
            raise FrameError(f"frame of kind {self.kind} has a payload that is no object")
        return value


def encode(kind: int, channel: int = 0, payload: bytes | dict[str, object] = b"") -> bytes:
    """The bytes of a frame; a dict becomes JSON.

    Raises:
        FrameError: the payload is over the bound.
    """
    if isinstance(payload, dict):
        payload = lightjson.dumps(payload).encode()
    if len(payload) > MAX_PAYLOAD:
        raise FrameError(f"payload of {len(payload)} bytes is over {MAX_PAYLOAD}")
    return HEADER.pack(len(payload), VERSION, kind, channel) + payload


class Decoder:
    """Turns a stream of bytes into frames.

    Args:
        accept: the kinds the other side may send.
        max_payload: the longest payload taken, in bytes.
    """

    def __init__(self, accept: frozenset[int], max_payload: int = MAX_PAYLOAD) -> None:
        self._accept = accept
        self._max_payload = max_payload
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes.

        Raises:
            FrameError: the stream is not one of ours; it cannot be read on.
        """
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            length, version, kind, channel = HEADER.unpack_from(self._buffer, start)
            self._check(length, version, kind)
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append(Frame(kind, channel, bytes(self._buffer[start + HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames

    def _check(self, length: int, version: int, kind: int) -> None:
        if version != VERSION:
            raise FrameError(f"frame of version {version}, expected {VERSION}")
        if kind not in self._accept:
            raise FrameError(f"frame of unexpected kind {kind}")
        if length > self._max_payload:
            raise FrameError(f"frame of {length} bytes is over {self._max_payload}")
