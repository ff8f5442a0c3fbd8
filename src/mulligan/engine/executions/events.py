"""The events of one execution: a bounded buffer that any number of listeners read at their pace.

Output comes in pieces of any size; what came in one go (one read from the VM) becomes one event.
Nobody who listens, and nobody who does not, slows a program down: the buffer drops its oldest
output for the newest, and who had not read it is told how much he missed. A listener is a number
in the buffer, so that it costs nothing to be slow.
"""

from __future__ import annotations

import asyncio
import codecs
from array import array
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from pydantic import BaseModel

from mulligan.models import ErrorAnswer, ExecutionEvent, VmExecuteResponse

MOST_TEXT = 64 * 1024  # bytes of output in an event
EVENT_COST = 400  # bytes an event takes beside its text
QUICK_EVENTS = 10_000  # after these, a program that trickles has its output gathered for longer
GATHER_S = 0.05
MOST_FIRST = 64
LINE_BREAKS = "\x85\u2028\u2029"


@dataclass(frozen=True, slots=True)
class Event:
    """One event; see ``mulligan.models.ExecutionEvent`` for the kinds."""

    number: int
    kind: str
    text: str | None = None
    progress: str | None = None
    size: int = 0
    vm_id: str | None = None
    dropped_bytes: int | None = None
    ahead: int | None = None
    queue_ms: int | None = None
    final: VmExecuteResponse | ErrorAnswer | None = None
    body: bytes | None = None  # of ``final``, as JSON: made once for all who listen

    def model(self, execution_id: str) -> ExecutionEvent:
        """The event as users see it."""
        return ExecutionEvent.model_construct(
            id=self.number,
            event=self.kind,
            execution_id=execution_id,
            vm_id=self.vm_id,
            text=self.text,
            progress=self.progress,
            dropped_bytes=self.dropped_bytes,
            ahead=self.ahead,
            queue_ms=self.queue_ms,
            result=self.final if isinstance(self.final, VmExecuteResponse) else None,
            error=self.final if isinstance(self.final, ErrorAnswer) else None,
        )


IDLE = Event(0, "idle")


def json_body(value: BaseModel) -> bytes:
    """A model as JSON on one line, also for those who take the line breaks of Unicode for such."""
    text = value.model_dump_json()
    for char in LINE_BREAKS:
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


class EventBuffer:
    """Takes what happens to an execution and numbers it, from 1 to its end.

    The first events are what it waits for, that it is queued, where it has to wait for its turn,
    and its start.

    Args:
        most_bytes: of output that are kept; the first events and the last always are.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: deque[Event] = deque()
        self._cost = 0
        self._first: list[Event] = []
        self._end: Event | None = None
        self._last = 0
        self._starts = array("Q", [0])  # by number: bytes of output before the event
        self._written = 0
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")
        }
        self._gathered: list[str] = []
        self._gathered_of = ""
        self._gathered_bytes = 0
        self._timer: asyncio.Handle | None = None
        self._changed = asyncio.Event()

    @property
    def last(self) -> int:
        """The newest event's number; 0 where there is none yet."""
        return self._last

    @property
    def has_started(self) -> bool:
        """Whether its turn has come."""
        return any(each.kind == "started" for each in self._first)

    @property
    def end(self) -> Event | None:
        """The last event there will be, once there is."""
        return self._end

    @property
    def cost(self) -> int:
        """Bytes of memory, about, that the buffer takes."""
        end = len(self._end.body or b"") * 2 if self._end is not None else 0
        return self._cost + end + self._starts.itemsize * len(self._starts)

    # What happens

    def queued(self, vm_id: str, ahead: int | None) -> None:
        """It waits for its turn; told once, and before it has started only."""
        if not any(each.kind in ("queued", "started") for each in self._first):
            self._add_first(Event(self._last + 1, "queued", vm_id=vm_id, ahead=ahead))

    def begin(self, vm_id: str, queue_ms: int = 0) -> None:
        """Its turn has come, after so long; told once."""
        number = self._last + 1
        if not self.has_started:
            self._add_first(Event(number, "started", vm_id=vm_id, queue_ms=queue_ms))

    def _add_first(self, event: Event) -> None:
        self._first.append(event)
        self._last = event.number
        self._starts.append(0)
        self._tell()

    def progress(self, text: str) -> None:
        """What is waited for; before it has started this is told a few times only."""
        if not self.has_started:
            if len(self._first) < MOST_FIRST:
                self._add_first(Event(self._last + 1, "progress", progress=text))
            return
        self._publish()
        self._last += 1
        self._starts.append(self._written)
        self._kept.append(Event(self._last, "progress", progress=text))
        self._cost += EVENT_COST
        self._tell()

    def output(self, stream: str, data: bytes) -> None:
        """Takes a piece of "stdout" or "stderr"; a character may be split over two."""
        text = self._decoders[stream].decode(data)
        if text:
            self._gather(stream, text)

    def finish(self, final: VmExecuteResponse | ErrorAnswer) -> None:
        """The last event. What comes after it is ignored."""
        if self._end is not None:
            return
        for stream, decoder in self._decoders.items():
            rest = decoder.decode(b"", final=True)
            if rest:
                self._gather(stream, rest)
        self._publish()
        kind = "result" if isinstance(final, VmExecuteResponse) else "error"
        body = json_body(final)
        self._last += 1
        self._starts.append(self._written)
        self._end = Event(self._last, kind, final=final, body=body)
        self._tell()

    def forget_output(self) -> None:
        """Drops all output; listeners are told of a gap."""
        self._kept.clear()
        self._cost = 0

    def _gather(self, stream: str, text: str) -> None:
        size = len(text.encode())
        if self._gathered and (
            self._gathered_of != stream or self._gathered_bytes + size > MOST_TEXT
        ):
            self._publish()
        self._gathered.append(text)
        self._gathered_of = stream
        self._gathered_bytes += size
        if self._timer is None:
            loop = asyncio.get_running_loop()
            if self._last < QUICK_EVENTS:
                self._timer = loop.call_soon(self._publish)
            else:
                self._timer = loop.call_later(GATHER_S, self._publish)

    def _publish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._gathered:
            return
        text, size = "".join(self._gathered), self._gathered_bytes
        self._gathered, self._gathered_bytes = [], 0
        self._last += 1
        self._starts.append(self._written)
        self._written += size
        self._kept.append(Event(self._last, self._gathered_of, text=text, size=size))
        self._cost += size + EVENT_COST
        while self._cost > self._most:
            self._cost -= self._kept.popleft().size + EVENT_COST
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Who listens

    def get(self, number: int) -> Event | None:
        """The event of that number, or a gap up to where the buffer starts; None: not yet."""
        if number > self._last:
            return None
        if number <= len(self._first):
            return self._first[number - 1]
        if self._end is not None and number == self._end.number:
            return self._end
        if self._kept and number >= self._kept[0].number:
            return self._kept[number - self._kept[0].number]
        if self._kept:
            last_missed, kept_from = self._kept[0].number - 1, self._starts[self._kept[0].number]
        else:
            last_missed, kept_from = self._last - (self._end is not None), self._written
        return Event(last_missed, "gap", dropped_bytes=kept_from - self._starts[number])

    async def listen(
        self, after: int = 0, heartbeat_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events after one, as they come, up to the last.

        Args:
            after: number of an event; 0 for all.
            heartbeat_s: when nothing has come for so long there is an event of kind "idle", which
                has no number.
        """
        while self._end is None or after < self._end.number:
            event = self.get(after + 1)
            if event is None:
                try:
                    async with asyncio.timeout(heartbeat_s):
                        await self._changed.wait()
                except TimeoutError:
                    yield IDLE
                continue
            yield event
            after = event.number
