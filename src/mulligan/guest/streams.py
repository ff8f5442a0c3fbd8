"""The streams of executions, passed on between their descriptors and the host."""

from __future__ import annotations

import os
import time
from _socket import socketpair

from mulligan.guest import frames
from mulligan.guest.captures import Capture, Feed, open_pipes
from mulligan.guest.execution import DRAIN_READS, Execution

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mulligan.guest.host import Host
    from mulligan.guest.loop import Loop


class Streams:
    """Opens, feeds, reads and drains them.

    Args:
        loop: where they are watched.
        host: where output goes.
    """

    def __init__(self, loop: Loop, host: Host) -> None:
        self._loop = loop
        self._host = host
        self.holds = False  # every execution's namespace, not only that of terminals

    def open(self, channel: int, body: dict[str, Any]) -> tuple[Execution, list[int]]:
        """An execution with its streams, and the program's ends of stdin, stdout, stderr, report.

        Raises:
            OSError: there are no descriptors or terminals left; none is kept.
        """
        if body["terminal"] is not None:
            return self._open_terminal(channel, body["terminal"])
        inner, (stdout, stderr, report), stdin = open_pipes(with_stdin=body["stdin"])
        limit = body["output_limit"]
        execution = Execution(channel, Capture(stdout, limit), Capture(stderr, limit))
        if self.holds:
            report = self._answerable(execution, report, inner)
        execution.report = report
        if stdin is not None:
            execution.stdin = Feed(stdin)
        self._watch(execution, frames.STDOUT)
        self._watch(execution, frames.STDERR)
        return execution, inner

    def _answerable(self, execution: Execution, report: int, inner: list[int]) -> int:
        """A way to report by which an answer can be given, in place of a pipe."""
        execution.waits = True
        ours, theirs = (end.detach() for end in socketpair())
        os.set_blocking(ours, False)
        os.close(report)
        os.close(inner.pop())
        inner.append(theirs)
        return ours

    def _open_terminal(self, channel: int, body: dict[str, int]) -> tuple[Execution, list[int]]:
        from mulligan.guest.terminals import Terminal

        terminal = Terminal(body)
        made: list[int] = []
        try:
            made += [end.detach() for end in socketpair()]
            for descriptor in (terminal.descriptor, *[terminal.slave] * 3):
                made.append(os.dup(descriptor))
        except OSError:
            terminal.let_go()
            for descriptor in (terminal.descriptor, *made):
                os.close(descriptor)
            raise
        report, report_inner, stdin, *inner = made
        os.set_blocking(report, False)
        execution = Execution(channel, terminal, Capture(-1, 0))
        execution.terminal = terminal
        execution.waits = True
        execution.open = {frames.STDOUT}
        execution.report = report
        execution.stdin = Feed(stdin)
        self._watch(execution, frames.STDOUT)
        return execution, [*inner, report_inner]

    def _watch(self, execution: Execution, kind: int) -> None:
        descriptor = execution.outputs[kind].descriptor
        self._loop.watch(descriptor, lambda: self._output(execution, kind))

    def _output(self, execution: Execution, kind: int) -> None:
        capture = execution.outputs[kind]
        try:
            chunk = capture.read()
        except BlockingIOError:
            return
        if chunk is None:
            self._loop.close(capture.descriptor)
            execution.open.discard(kind)
            return
        if chunk:
            self._host.send(kind, execution.channel, chunk)
        if execution.terminal is not None and not execution.terminal.credit:
            self._loop.forget(capture.descriptor)  # until the host grants more
        elif self._host.crowded():
            self._loop.hold(capture.descriptor)

    def input(self, execution: Execution) -> None:
        """Gives the program what has come for it, and closes its input at the end."""
        feed = execution.stdin
        if feed is None or execution.report is not None:
            return
        watched = self._loop.watches(feed.descriptor)
        before = len(feed.pending)
        if feed.write():
            execution.stdin = None
            self._loop.close(feed.descriptor)
        elif feed.pending and not watched:
            self._loop.watch(feed.descriptor, lambda: self.input(execution), write=True)
        elif not feed.pending and watched:
            self._loop.forget(feed.descriptor)
        if execution.terminal is not None and len(feed.pending) < before:
            taken = before - len(feed.pending)
            self._host.send(frames.TAKEN, execution.channel, {"bytes": taken})

    def drain(self, execution: Execution, kind: int) -> None:
        """Reads what is left of a stream and closes it.

        Where a program stays in the background its pipe stays open and what comes is dropped, so
        that its writes go on succeeding.
        """
        capture = execution.outputs[kind]
        if execution.terminal is not None:
            execution.terminal.last_words()
        if not self._read_rest(execution, kind) and execution.background:
            self._loop.replace(capture.descriptor, lambda: self._discard(capture))
            return
        if execution.terminal is not None:
            execution.terminal.let_go()
        self._loop.close(capture.descriptor)

    def _read_rest(self, execution: Execution, kind: int) -> bool:
        """Sends what is there already; whether the stream has ended."""
        try:
            for _ in range(DRAIN_READS):
                chunk = execution.outputs[kind].read()
                if chunk is None:
                    return True
                if chunk:
                    self._host.send(kind, execution.channel, chunk)
        except BlockingIOError:
            pass  # it is empty
        return False

    def _discard(self, capture: Capture) -> None:
        try:
            if capture.read() is None:
                self._loop.close(capture.descriptor)
        except BlockingIOError:
            return

    # Terminals

    def control(self, execution: Execution, frame: frames.Frame) -> None:
        """A frame about the terminal of an execution."""
        terminal = execution.terminal
        if terminal is None or frames.STDOUT not in execution.open:
            return
        body: dict[str, Any] = frame.body()
        if frame.kind == frames.RESIZE:
            terminal.resize(body["cols"], body["rows"])
        elif frame.kind == frames.SIGNAL:
            terminal.signal(body["number"])
        elif frame.kind == frames.CREDIT:
            terminal.credit += body["bytes"]
            if terminal.credit and not self._loop.watches(terminal.descriptor):
                self._watch(execution, frames.STDOUT)

    def hold(self, execution: Execution) -> None:
        """Keeps the namespace of an execution that waits for it, and lets it go on.

        It may end by itself before what it left is looked for, and the kernel gives the number of a
        namespace that is gone to the next one: that would be another execution's.
        """
        if not (execution.waits and execution.namespace and execution.pid):
            return
        execution.waits = False
        if execution.report is None:
            return  # it has ended, and has said all
        try:
            path = f"/proc/{execution.pid}/ns/mnt"
            execution.mounts = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.write(execution.report, b"\0")
        except OSError:
            execution.end("setup")  # it was ended already, or would wait for ever

    def release(self, execution: Execution) -> None:
        """Nothing of an execution is looked for any more."""
        if execution.mounts >= 0:
            os.close(execution.mounts)
            execution.mounts = -1

    def hang_up(self, execution: Execution) -> bool:
        """Closes the terminal of an execution that is to end, if it has one.

        Its programs are told by SIGHUP, as when a line is cut: an editor saves, a shell writes its
        history. They have ``HANGUP_S`` for that.
        """
        terminal = execution.terminal
        if terminal is None or frames.STDOUT not in execution.open or not execution.namespace:
            return False
        if execution.status is not None or execution.reason != "exit":
            return False
        from mulligan.guest.terminals import HANGUP_S

        execution.reason = "cancel"
        execution.deadline = time.monotonic() + HANGUP_S
        execution.open.clear()
        if execution.stdin is not None:
            self._loop.close(execution.stdin.descriptor)
            execution.stdin = None
        terminal.let_go()
        self._loop.close(terminal.descriptor)
        return True
