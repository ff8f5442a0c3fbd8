"""Conversations with ``guest/filework.py``, which works on files inside a VM.

What it says is a stranger's: messages are bounded one by one and together, and a program that sends
more than it was given leave to is ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources

from mulligan.engine.vms.connection import AgentConnection
from mulligan.engine.vms.program import Program, Running
from mulligan.engine.vms.quota import said_of
from mulligan.errors import ExecutionFailed, FileBroken, FileDiskFull, VmExecutionError
from mulligan.guest import filework, frames

WINDOW = 1024 * 1024
MOST_MESSAGE = 128 * 1024
MESSAGE_COST = 64  # what a message takes besides its payload, so that empty ones are bounded, too
SLACK = 2 * MOST_MESSAGE
MOST_SAID = 2000
PATIENCE_S = 1.0
LONGEST_MS = 7 * 86_400_000  # who waits for the other side is bounded by idleness
UNBOUNDED = 2**62
TEXT = (resources.files("mulligan.guest") / "filework.py").read_text(encoding="utf-8")


def program_for(python: str, *call: object) -> Program:
    """A program that does some work on files.

    Args:
        python: the interpreter of the image.
        call: the name of a function of ``guest/filework.py``, and its arguments: bytes, numbers,
            truth values and None.
    """
    literals = ", ".join(map(repr, call))  # ASCII
    return Program(
        runtime="python",
        steps=[[python, "-I", "-S", "/run/mulligan/main.py"]],
        files={"main.py": f"{TEXT}\n\nmain({literals})\n"},
        env={},
        cwd="/",
        timeout_ms=LONGEST_MS,
        output_limit=UNBOUNDED,
        stdin=b"",
    )


class Inbox:
    """Messages that have come and were not read yet.

    Args:
        most: bytes they may take together; more breaks it.
    """

    def __init__(self, most: int = WINDOW + SLACK) -> None:
        self.most = most
        self.broken: str | None = None
        self._buffer = bytearray()
        self._messages: deque[tuple[int, bytes]] = deque()
        self._held = 0

    def feed(self, data: bytes) -> None:
        """Takes what came; what comes after it broke is dropped."""
        if self.broken is not None:
            return
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= filework.HEADER.size:
            kind, length = filework.HEADER.unpack_from(self._buffer, start)
            if length > MOST_MESSAGE:
                self._break(f"a message of {length} bytes")
                return
            end = start + filework.HEADER.size + length
            if len(self._buffer) < end:
                break
            payload = bytes(self._buffer[start + filework.HEADER.size : end])
            self._messages.append((kind, payload))
            self._held += length + MESSAGE_COST
            start = end
        del self._buffer[:start]
        if self._held > self.most:
            self._break("more than it was asked for")

    def _break(self, why: str) -> None:
        self.broken = f"what works on files in the VM sent {why}"
        self._buffer.clear()
        self._messages.clear()
        self._held = 0

    def next(self) -> tuple[int, bytes] | None:
        """The oldest message, if there is one."""
        if not self._messages:
            return None
        kind, payload = self._messages.popleft()
        self._held -= len(payload) + MESSAGE_COST
        return kind, payload


@dataclass
class Conversing(Running):
    """A program whose output is messages; nothing of it is kept but those."""

    inbox: Inbox = field(default_factory=Inbox)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    said: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        """Has the end wake whoever waits for a message."""
        self.done.add_done_callback(lambda _: self.news.set())

    def take(self, kind: int, data: bytes) -> bool:
        """See ``Running``."""
        if kind == frames.STDOUT:
            wanted = self.inbox.broken is None
            self.inbox.feed(data)
            self.news.set()
            return wanted
        wanted = len(self.said) < MOST_SAID
        self.said += data[: MOST_SAID - len(self.said)]
        return wanted


class Transfer:
    """One conversation.

    Args:
        connection: to the agent of the VM.
        running: the program.
        idle_s: how long it may be silent while it is waited for.
        changes: whether it writes to the VM's disk.
        clean: takes secrets out of what the VM says of an error.
    """

    def __init__(
        self,
        connection: AgentConnection,
        running: Conversing,
        *,
        idle_s: float,
        changes: bool,
        clean: Callable[[str], str],
    ) -> None:
        self.running = running
        self.changes = changes
        self.ended_for: str | None = None
        self._connection = connection
        self._idle_s = idle_s
        self.clean = clean

    async def send(self, kind: int, payload: bytes) -> None:
        """Tells the program something, no faster than the agent takes it.

        Raises:
            FileBroken: it takes nothing.
        """
        data = filework.HEADER.pack(kind, len(payload)) + payload
        for start in range(0, len(data), frames.MAX_CHUNK):
            if self.running.done.done():
                return  # ``receive`` says why
            self._connection.feed(self.running, data[start : start + frames.MAX_CHUNK])
            try:
                async with asyncio.timeout(self._idle_s):
                    await self._connection.drained()
            except TimeoutError:
                raise self._silent() from None

    async def receive(self) -> tuple[int, bytes]:
        """The program's next message.

        Raises:
            FileBroken, FileDiskFull: none will come.
        """
        running = self.running
        while True:
            running.news.clear()
            message = running.inbox.next()
            if message is not None:
                return message
            if running.inbox.broken is not None:
                raise FileBroken(running.inbox.broken)
            if running.done.done():
                raise self._ended()
            try:
                async with asyncio.timeout(self._idle_s):
                    await running.news.wait()
            except TimeoutError:
                raise self._silent() from None

    def heard(self) -> tuple[int, bytes] | None:
        """A message that is there already."""
        return self.running.inbox.next()

    def _silent(self) -> FileBroken:
        return FileBroken(
            f"the VM did not go on within {self._idle_s:g} s",
            remedy="what runs in it may keep it busy; see files.idle_seconds",
        )

    def _ended(self) -> VmExecutionError:
        if self.ended_for is not None:
            return FileBroken(self.ended_for)
        try:
            result = self.running.done.result()
        except ExecutionFailed as error:
            return FileBroken(str(error.detail))
        if self.running.disk is not None:
            note, ended = said_of(result)
            return FileDiskFull(str(ended or note))
        lines = bytes(self.running.said).decode(errors="replace").strip().splitlines()
        said = result.message or (lines[-1] if lines else result.reason)
        return FileBroken(f"what works on files in the VM ended: {self.clean(said[:500])}")

    async def over(self) -> None:
        """Waits until the program has ended, which it is about to.

        An end by force could meet a program that has its number by then (docs/decisions/0001).
        """
        await asyncio.wait({self.running.done}, timeout=self._idle_s)

    async def close(self) -> None:
        """Ends the program if it has not ended: it sees the end of its input, or is killed."""
        done = self.running.done
        try:
            if not done.done():
                self._connection.feed(self.running, b"")
                await asyncio.wait({done}, timeout=PATIENCE_S)
            if not done.done():
                await self._connection.end([self.running])
        finally:
            self._connection.forget(self.running)


class Transfers:
    """The conversations a VM has."""

    def __init__(self) -> None:
        self._open: set[Transfer] = set()

    @property
    def changing(self) -> bool:
        """Whether one of them writes."""
        return any(each.changes for each in self._open)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, transfer: Transfer) -> None:
        """One began."""
        self._open.add(transfer)

    def remove(self, transfer: Transfer) -> None:
        """One ended. May be repeated."""
        self._open.discard(transfer)

    async def end(self, why: str) -> None:
        """Ends all of them; whoever waits for one is told ``why``."""
        ending = list(self._open)
        for each in ending:
            each.ended_for = each.ended_for or why
        await asyncio.gather(*(each.close() for each in ending))
