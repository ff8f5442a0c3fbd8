"""The host's end of the stream to a VM's agent.

Everything that comes from it is a stranger's: frames are bounded and typed, output is held to its
limit here again, numbers are checked, and a VM that breaks the protocol is given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from mulligan.engine.vms.links import Links
from mulligan.engine.vms.program import OutputCallback, Program, Running
from mulligan.engine.vms.questions import ASK_S, Questions
from mulligan.engine.vms.replies import (
    ANSWERS,
    MOST_PAYLOAD,
    ProgramResult,
    disk_state,
    memory_ended,
    taken,
)
from mulligan.engine.vms.unasked import Unasked
from mulligan.errors import ExecutionFailed
from mulligan.guest import frames

AGENT_MAX_PAYLOAD = 4 * 1024 * 1024
MOST_UNREAD = 128 * 1024 * 1024  # bytes that wait for an agent to read them
BACKSTOP_S = 5.0
UNREAD_S = 0.1
MOST_CHANNELS = 2**31 - 1  # the agent has the numbers above for itself
STREAM_NAMES = {frames.STDOUT: "stdout", frames.STDERR: "stderr"}


class AgentConnection(Questions, asyncio.Protocol):
    """Speaks with one agent, about any number of executions at a time.

    Args:
        on_lost: called once, with the reason, when there is nobody to speak with any more.
        known: why the VM ended, where that is known.
    """

    def __init__(
        self, on_lost: Callable[[str], None], known: Callable[[], str | None] = lambda: None
    ) -> None:
        loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._known = known
        self._decoder = frames.Decoder(frames.FROM_AGENT, AGENT_MAX_PAYLOAD)
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = loop.create_future()
        self._running: dict[int, Running] = {}
        self._answers: dict[int, tuple[int, asyncio.Future[dict[str, Any]]]] = {}
        self._last_channel = self._highest_channel = 0
        self._unasked = Unasked()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._goes_on = asyncio.Event()  # nothing can be ended during a pause
        self._goes_on.set()
        self._lost: str | None = None
        self.links: Links | None = None  # where connections of its programs come as frames
        self.memory_ended = 0  # programs, by the agent, for want of memory
        self.counted: dict[str, int] = {}  # trees the agent found the size of
        self.used_at = time.monotonic()  # when something was last begun, or ended

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        try:
            for frame in self._decoder.feed(data):
                if self._lost is not None:
                    return
                (self._on_link if frame.kind in frames.OF_LINKS else self._handle)(frame)
        except (frames.FrameError, ValueError) as error:
            self.give_up(f"its agent broke the protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        broke = f"the connection to its agent broke: {exc}" if exc else "its agent is gone"
        self.give_up(self._known() or broke)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._can_write.set()

    # The VM

    async def boot(self, body: dict[str, object], timeout: float) -> None:
        """Has the agent make the VM ready.

        Raises:
            ExecutionFailed: it could not, or did not answer in time.
        """
        self._write(frames.encode(frames.BOOT, 0, body))
        await asyncio.wait({self._ready}, timeout=timeout)
        if not self._ready.done():
            raise ExecutionFailed(f"the VM did not get ready within {timeout:g} s")
        self._ready.result()
        if self._lost is not None:
            raise ExecutionFailed(f"the VM could not boot: {self._lost}")

    @property
    def channel(self) -> int:
        """The last number it gave an execution."""
        return self._last_channel

    def go_on_from(self, channel: int) -> None:
        """Its agent has heard of executions up to that number, from another connection."""
        self._last_channel = self._highest_channel = channel

    def give_up(self, why: str) -> None:
        """Ends the connection; every execution still running fails with ``why``."""
        if self._lost is not None:
            return
        self._lost = why
        self._can_write.set()
        self._goes_on.set()
        if self._transport is not None:
            self._transport.abort()
        _fail(self._ready, f"the VM could not boot: {why}")
        for running in self._running.values():
            _fail(running.done, f"the VM ended: {why}")
        self._running.clear()
        for _, answer in self._answers.values():
            _fail(answer, f"the VM ended: {why}")
        self._on_lost(why)

    # Executions

    async def run(self, program: Program, on_output: OutputCallback | None = None) -> ProgramResult:
        """``start`` and ``finish`` in one."""
        return await self.finish(self.start(program, on_output))

    def start(
        self,
        program: Program,
        on_output: OutputCallback | None = None,
        make: type[Running] = Running,
    ) -> Running:
        """Has a program started; ``finish`` has to follow at once, or ``forget`` in the end.

        Args:
            program: what to run.
            on_output: called with "stdout" or "stderr" and each piece as it comes.
            make: what takes its output.

        Raises:
            ExecutionFailed: the VM has ended.
            ValidationFailed: the program is too large for a frame.
        """
        channel = self._new_channel()
        start = program.start_frame(channel)
        done: asyncio.Future[ProgramResult] = asyncio.get_running_loop().create_future()
        running = self._running[channel] = make(channel, program, done, on_output)
        self.used_at = time.monotonic()
        if program.pty is not None:
            program.pty.asked(lambda kind, body: self._write(frames.encode(kind, channel, body)))
            done.add_done_callback(program.pty.over)
        self._write(start)
        return running

    def _new_channel(self) -> int:
        if self._lost is not None:
            raise ExecutionFailed(f"the VM ended: {self._lost}")
        self._last_channel = self._last_channel % MOST_CHANNELS + 1
        self._highest_channel = max(self._highest_channel, self._last_channel)
        return self._last_channel

    def feed(self, running: Running, data: bytes) -> None:
        """Sends a program some of its input, nothing for its end; ``drained`` has to follow."""
        kind = frames.STDIN if data else frames.STDIN_END
        self._write(frames.encode(kind, running.channel, data))

    async def drained(self) -> None:
        """Waits until the agent takes more."""
        await self._can_write.wait()

    def forget(self, running: Running) -> None:
        """What still comes of a program is dropped."""
        self._running.pop(running.channel, None)

    async def finish(self, running: Running) -> ProgramResult:
        """Waits for a program's end. Cancelling this ends the program.

        Raises:
            ExecutionFailed: the VM ended under it.
            Exception: what ``on_output`` raised; the program was ended.
        """
        program, channel, done = running.program, running.channel, running.done
        try:
            async with asyncio.timeout(program.timeout_ms / 1000 + BACKSTOP_S):
                if program.stdin is not None:
                    await self._feed(channel, program.stdin, done)
                await asyncio.wait({done})
        except TimeoutError:
            if program.runtime != "job" and not self._goes_on.is_set():
                await self._wait({done})
            await asyncio.sleep(UNREAD_S)  # what has come may not have been read yet
            if not done.done():
                self.give_up("it did not end an execution that was over its time")
        except asyncio.CancelledError:
            await self.end([running])  # or the VM, if it will not
            raise
        finally:
            self._running.pop(channel, None)
        if running.failure is not None:
            raise running.failure
        return done.result()

    async def _wait(self, ending: set[asyncio.Future[ProgramResult]]) -> bool:
        """Gives what should end its time, which a pause does not count for; whether it did not."""
        await self._goes_on.wait()
        return bool((await asyncio.wait(ending, timeout=BACKSTOP_S))[1])

    async def _feed(self, channel: int, data: bytes, done: asyncio.Future[ProgramResult]) -> None:
        """Sends a program its input, no faster than the agent takes it."""
        for start in range(0, len(data), frames.MAX_CHUNK):
            if done.done():
                return
            chunk = data[start : start + frames.MAX_CHUNK]
            self._write(frames.encode(frames.STDIN, channel, chunk))
            await self._can_write.wait()
        self._write(frames.encode(frames.STDIN_END, channel))

    def _write(self, data: bytes) -> None:
        if self._transport is None or self._lost is not None:
            return
        if self._transport.get_write_buffer_size() > MOST_UNREAD:
            self.give_up("it does not read what it is sent")
            return
        self._transport.write(data)

    async def end(self, running: list[Running]) -> None:
        """Ends programs, and waits until they have ended."""
        for each in running:
            if not each.done.done():
                self._write(frames.encode(frames.KILL, each.channel))
        pending = {each.done for each in running if not each.done.done()}
        if pending and await self._wait(pending):
            self.give_up("it did not end a cancelled execution")

    @property
    def busy(self) -> bool:
        """Whether anything runs, or is waited for."""
        return bool(self._running or self._answers)

    def link(self, idle: float) -> Links:
        """Has connections of its programs come as frames; see ``Links``."""
        self.links = Links(self._write, self.drained, idle)
        return self.links

    # The VM as a whole; see ``Questions``

    async def pause(self) -> bool:
        """Brings every process of the VM to a halt; false where one would not."""
        self._goes_on.clear()
        return (await self._ask(frames.PAUSE, {})).get("holds") is True

    def resume(self) -> None:
        """Ends a pause."""
        self._goes_on.set()
        self._write(frames.encode(frames.RESUME))

    async def _ask(
        self, kind: int, body: dict[str, object], timeout: float | None = None
    ) -> dict[str, Any]:
        channel = self._new_channel()
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[channel] = ANSWERS[kind], answer
        try:
            self._write(frames.encode(kind, channel, body))
            await asyncio.wait({answer}, timeout=ASK_S if timeout is None else timeout)
            if not answer.done():
                self.give_up("it does not answer")
                raise ExecutionFailed("the VM ended: it does not answer")
            return answer.result()
        finally:
            self._answers.pop(channel, None)

    # Frames

    def _handle(self, frame: frames.Frame) -> None:
        if frame.channel > self._highest_channel:
            raise frames.FrameError("a frame of an execution there never was")
        if len(frame.payload) > MOST_PAYLOAD.get(frame.kind, AGENT_MAX_PAYLOAD):
            raise frames.FrameError(f"{len(frame.payload)} bytes in a frame of kind {frame.kind}")
        if frame.kind == frames.READY and not self._ready.done():
            self._ready.set_result(None)
        elif frame.kind == frames.FATAL:
            message = str(frame.body().get("message", ""))[:500]
            self.give_up(message or "its agent gave no reason")
        elif frame.kind == frames.DISK:
            self._unasked.take(frame)
            self._on_disk(frame)
        elif frame.kind == frames.MEMORY:
            self._unasked.take(frame)
            self.memory_ended += memory_ended(frame.body())
        elif (running := self._running.get(frame.channel)) is not None and not running.done.done():
            self._on_running(running, frame)
        elif (asked := self._answers.get(frame.channel)) is not None and not asked[1].done():
            if frame.kind != asked[0]:
                raise frames.FrameError("it answered something else than it was asked")
            asked[1].set_result(frame.body())
        else:
            self._unasked.take(frame)  # such as the last words of what was given up

    def _on_link(self, frame: frames.Frame) -> None:
        if self.links is None:
            raise frames.FrameError("a connection of a VM that has none")
        self.links.take(frame)

    def _on_disk(self, frame: frames.Frame) -> None:
        state, sizes = disk_state(frame.body())
        for running in self._running.values():
            unknown = (running.program.disk or {}).get("unknown")
            wanted = unknown if isinstance(unknown, list) else []
            self.counted.update({tree: sizes[tree] for tree in wanted if tree in sizes})
            if running.disk is None or state.endswith("ended"):
                running.disk = state

    def _on_running(self, running: Running, frame: frames.Frame) -> None:
        """A frame of a program that has not ended."""
        pty = running.program.pty
        if frame.kind in STREAM_NAMES and frame.payload:
            self._on_output(running, frame)
        elif frame.kind == frames.EXIT:
            self._on_exit(running, frame)
        elif frame.kind == frames.STARTED and not running.started:
            running.started = True
            if pty is not None:
                pty.started()
        elif frame.kind == frames.TAKEN and pty is not None and (count := taken(frame.body())):
            pty.taken(count)
        else:
            self._unasked.take(frame)

    def _on_output(self, running: Running, frame: frames.Frame) -> None:
        if not running.take(frame.kind, frame.payload):
            self._unasked.take(frame)
        if running.on_output is None:
            return
        try:
            running.on_output(STREAM_NAMES[frame.kind], frame.payload)
        except Exception as error:  # noqa: BLE001  (the caller's, and raised to it by run)
            running.failure, running.on_output = error, None
            self._write(frames.encode(frames.KILL, frame.channel))

    def _on_exit(self, running: Running, frame: frames.Frame) -> None:
        self.used_at = time.monotonic()
        running.done.set_result(running.result(frame.body()))


def _fail(waited_for: asyncio.Future[Any], why: str) -> None:
    if not waited_for.done():
        waited_for.set_exception(ExecutionFailed(why))
        waited_for.exception()  # it is not lost where nobody waits any more
