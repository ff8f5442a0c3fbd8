"""What goes between the agent and a kernel's runner, seen from the agent.

The runner runs what programs tell it: every word of it is a stranger's. Messages are JSON objects,
bounded in length and typed; the process that sent one is named by the kernel (SCM_CREDENTIALS), not
by the message. Anything else is a LinkError, and ends that kernel.
"""

from __future__ import annotations

import struct
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    SCM_RIGHTS,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
    socketpair,
)

from mulligan.guest import lightjson

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE = 3 * 1024 * 1024
PACKET = 64 * 1024
MOST_NOTES = 16
MOST_NOTE = 300
MOST_RESULT = 64 * 1024
MOST_RESULTS = 16
MOST_RICH = 2 * 1024 * 1024
MOST_MIME_TYPE = 100
_SO_PASSCRED = 16
_SCM_CREDENTIALS = 2
_CREDENTIALS = struct.Struct("=3i")


class LinkError(Exception):
    """The runner broke the protocol, or is gone."""


class Message:
    """One message: its fields, the text that came with it, and the process it came from."""

    __slots__ = ("_body", "pid", "text")

    def __init__(self, data: bytes, pid: int) -> None:
        head, _, self.text = data.partition(b"\n")
        self.pid = pid
        try:
            body = lightjson.loads(head.decode())
        except (ValueError, RecursionError):
            raise LinkError("it said what is no JSON") from None
        if not isinstance(body, dict):
            raise LinkError("it said what is no object")
        self._body: dict[str, Any] = body

    @property
    def op(self) -> str:
        """What it is about."""
        value = self._body.get("op")
        return value if isinstance(value, str) else ""

    def number(self, name: str, most: int) -> int:
        """A whole number from 0 to ``most``."""
        value = self._body.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise LinkError(f"its {name} is no number in range")
        return value

    def optional(self, name: str, most: int) -> str | None:
        """A text of at most ``most`` bytes, or None."""
        value = self._body.get(name)
        return None if value is None else _text(value, name, most)

    def notes(self) -> list[str]:
        """Its notes; there may be none."""
        value = self._body.get("notes", [])
        if not isinstance(value, list) or len(value) > MOST_NOTES:
            raise LinkError("its notes are no list, or too many")
        return [_text(each, "note", 4 * MOST_NOTE)[:MOST_NOTE] for each in value]

    def results(self) -> list[dict[str, str]]:
        """Pictures and other forms of a cell's value."""
        value = self._body.get("results", [])
        if not isinstance(value, list) or len(value) > MOST_RESULTS:
            raise LinkError("its results are no list, or too many")
        found = []
        left = MOST_RICH
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2:  # noqa: PLR2004
                raise LinkError("one of its results is no pair")
            mime_type = _text(pair[0], "mime type", MOST_MIME_TYPE)
            data = _text(pair[1], "data", left)
            left -= len(data.encode())
            found.append({"mime_type": mime_type, "data": data})
        return found


def _text(value: object, name: str, most: int) -> str:
    if not isinstance(value, str):
        raise LinkError(f"its {name} is no text")
    data = value.encode("utf-8", "replace")  # JSON can spell surrogates; frames cannot
    if len(data) > most:
        raise LinkError(f"its {name} is too long")
    return data.decode()


class PacketLink:
    """A link that keeps messages apart and can carry descriptors: that of the Python runner.

    A message of more than one packet has a plus before all packets but the last, which has a full
    stop.
    """

    def __init__(self) -> None:
        self.socket, self.theirs = _pair(SOCK_SEQPACKET)
        self._parts: list[bytes] = []
        self._length = 0

    def send(self, words: str, descriptors: list[int] | None = None) -> None:
        """Sends words, with descriptors where there are any.

        Raises:
            LinkError: it is gone, or does not listen.
        """
        rights = struct.pack(f"={len(descriptors or ())}i", *(descriptors or ()))
        ancillary = [(SOL_SOCKET, SCM_RIGHTS, rights)] if rights else []
        try:
            self.socket.sendmsg([words.encode()], ancillary)
        except OSError as error:
            raise LinkError(f"it does not listen: {error.strerror}") from None

    def receive(self) -> Message | None:
        """The next message, or None where it is not there or not whole yet.

        Raises:
            LinkError: the runner is gone, or what it sent is none.
            BlockingIOError: nothing has come.
        """
        try:
            data, ancillary, _, _ = self.socket.recvmsg(PACKET + 1, CMSG_SPACE(_CREDENTIALS.size))
        except ConnectionError:
            data = b""
        if not data:
            raise LinkError("it closed its control channel")
        self._length += len(data)
        if data[:1] not in (b"+", b".") or self._length > MAX_MESSAGE:
            raise LinkError("it said what is no message")
        self._parts.append(data[1:])
        if data[:1] == b"+":
            return None
        whole = b"".join(self._parts)
        self._parts, self._length = [], 0
        for _, kind, content in ancillary:
            if kind == _SCM_CREDENTIALS:
                return Message(whole, _CREDENTIALS.unpack(content)[0])
        raise LinkError("its message says not from whom it is")

    def close(self) -> None:
        """Closes both ends."""
        self.socket.close()
        self.theirs.close()


class StreamLink:
    """A link of lines to, and of texts ended by NUL from, a runner that knows streams alone."""

    def __init__(self) -> None:
        self.socket, self.theirs = _pair(SOCK_STREAM)
        self._buffer = bytearray()

    def send(self, words: str, descriptors: list[int] | None = None) -> None:
        """Sends a line. See ``PacketLink.send``."""
        assert not descriptors
        data = words.encode() + b"\n"
        try:
            if self.socket.send(data) != len(data):
                raise LinkError("it does not listen")
        except OSError as error:
            raise LinkError(f"it does not listen: {error.strerror}") from None

    def receive(self) -> Message | None:
        """See ``PacketLink.receive``."""
        end = self._buffer.find(b"\0")
        if end < 0:
            try:
                data = self.socket.recv(PACKET)
            except ConnectionError:
                data = b""
            if not data:
                raise LinkError("it closed its control channel")
            self._buffer += data
            if len(self._buffer) > MAX_MESSAGE:
                raise LinkError("it said what is no message")
            end = self._buffer.find(b"\0")
            if end < 0:
                return None
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return Message(message, 0)

    def close(self) -> None:
        """Closes both ends."""
        self.socket.close()
        self.theirs.close()


def _pair(kind: int) -> tuple[socket, socket]:
    ours, theirs = socketpair(AF_UNIX, kind)
    ours.setsockopt(SOL_SOCKET, _SO_PASSCRED, 1)
    ours.setblocking(False)
    return ours, theirs
