"""The agent: process 1 of a VM, and the only one that talks to the host.

One thread, one epoll. It starts programs, passes their streams on, ends them, and reaps whatever
the VM leaves to process 1. It owns nothing outside the VM: when the host is gone it exits, and
with process 1 the kernel ends every process of the VM.
"""

from __future__ import annotations

import gc
import os
import resource
import time
from _signal import SIGCHLD, SIGKILL, set_wakeup_fd
from _signal import signal as set_handler

from mulligan.guest import frames, launch, processes
from mulligan.guest.execution import Execution, refused
from mulligan.guest.forkserver import ENDED, FORKED
from mulligan.guest.host import Host
from mulligan.guest.loop import Loop
from mulligan.guest.room import check_descriptors
from mulligan.guest.starts import Starter
from mulligan.guest.streams import Streams
from mulligan.guest.vm import Vm

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mulligan.guest.kernels.manager import Kernels
    from mulligan.guest.links import Links
    from mulligan.guest.network import Owners
    from mulligan.guest.zygotes import Zygote

LINGER_TICK_S = 0.01
PATIENCE_S = 0.5


class Agent:
    """The loop and everything it watches."""

    def __init__(
        self,
        descriptor: int,
        zygote: Zygote,
        env: dict[str, str],
        own: list[int],
        programs: list[int],
        owners: Owners | None = None,
    ) -> None:
        self._loop = Loop()
        self._host = Host(descriptor, self._loop, self._handle)
        self._send = self._host.send
        self._streams = Streams(self._loop, self._host)
        self._executions: dict[int, Execution] = {}
        self._by_pid: dict[int, Execution] = {}
        self._env = env
        self._starter = Starter(zygote, env, programs, self._loop, self._on_zygote)
        self._vm = Vm(self._send, self._running, self._starter, own, self._streams)
        self._kernels: Kernels | None = None
        self._owners = owners
        self._links: Links | None = None

    def run(self) -> None:
        """Serves the host until it is gone."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        set_handler(SIGCHLD, lambda *_: None)
        self._loop.watch(wake_read, lambda: self._on_child(wake_read))
        # Programs keep the usual limit; the agent holds four descriptors for each of them.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        gc.freeze()  # what is here now stays; children should not copy it to look at it
        while True:
            self._loop.step(self._timeout())
            if not self._vm.paused:
                self._on_time()
            self._vm.on_time()
            self._host.flush()

    def _timeout(self) -> float:
        """Seconds until something is due."""
        now = time.monotonic()
        due = self._vm.timeout()
        if self._vm.paused:
            return due
        due = min(due, self._starter.timeout())
        for execution in self._executions.values():
            if execution.linger_until is not None:
                due = min(due, LINGER_TICK_S)
            elif execution.deadline is not None:
                due = min(due, max(0.0, execution.deadline - now))
        return due if self._kernels is None else min(due, self._kernels.timeout())

    def _running(self) -> bool:
        """Whether an execution runs, in a kernel or not."""
        return bool(self._executions) or (self._kernels is not None and self._kernels.busy())

    # Frames

    def _handle(self, frame: frames.Frame) -> None:
        if self._is_of_links(frame) or self._vm.takes(frame):
            return
        if frame.kind == frames.PING:
            look = frame.body().get("look")
            found = self._vm.look(self._starter.spared(), self._kernels) if look else {}
            self._send(frames.PONG, frame.channel, found)
            return
        if frame.kind == frames.START:
            body = frame.body()
            self._vm.begin(body)
            start = self._all_kernels().start if body["runtime"] == "kernel" else self._start
            start(frame.channel, body)
        elif (execution := self._executions.get(frame.channel)) is not None:
            self._on_frame(execution, frame)
        elif frame.kind == frames.ROOT:
            self._move(frame.channel, frame.body())
        elif frame.kind == frames.RESUME:
            for postponed in self._vm.resume():
                self._handle(postponed)
        elif frame.kind == frames.OWNER:
            self._answer_owner(frame)
        elif frame.kind == frames.KERNELS or self._kernels is not None:
            self._all_kernels().handle(frame)

    def _move(self, channel: int, body: dict[str, Any]) -> None:
        if body["end"]:
            self._starter.drop_spare()  # it is ended with the programs that could reach it
        spared, busy = self._starter.spared(), bool(self._executions)
        self._vm.move(channel, body, spared, self._kernels, busy=busy)
        if body["end"]:
            self._starter.keep_spare()

    def _on_frame(self, execution: Execution, frame: frames.Frame) -> None:
        """A frame for an execution that has not ended."""
        if frame.kind == frames.KILL:
            if not self._streams.hang_up(execution):
                self._end(execution, "cancel")
        elif frame.kind in frames.TO_TERMINAL:
            self._streams.control(execution, frame)
        elif execution.stdin is not None:
            execution.stdin.pending += frame.payload
            execution.stdin.ended |= frame.kind == frames.STDIN_END
            self._streams.input(execution)

    def _answer_owner(self, frame: frames.Frame) -> None:
        answer: dict[str, object] = {"channels": []}
        if self._owners is not None:
            answer = self._owners.of(frame.body()["port"], self._executions, self._kernels)
        self._send(frames.OWNER_DONE, frame.channel, answer)

    def _is_of_links(self, frame: frames.Frame) -> bool:
        """Deals with a frame of a connection, and has there be some from the boot on."""
        if frame.kind in frames.TO_LINKS and self._links is not None:
            self._links.take(frame)
        elif frame.kind == frames.BOOT and self._links is not None:
            self._links.renew()
        elif frame.kind == frames.BOOT and frame.body().get("links"):
            from mulligan.guest.links import Links
            from mulligan.guest.network import Owners

            try:
                self._links, self._owners = Links(self._loop, self._send), Owners()
            except OSError as error:
                self._send(frames.FATAL, 0, {"message": f"its network: {error}"})
                return True
        return frame.kind in frames.TO_LINKS

    def _all_kernels(self) -> Kernels:
        """The kernels; what they need is not imported before the first."""
        if self._kernels is None:
            from mulligan.guest.kernels.manager import Kernels
            from mulligan.guest.kernels.place import Place

            place = Place(
                loop=self._loop,
                host=self._host,
                starter=self._starter,
                root=lambda: self._vm.root,
                ends=self._vm.ends,
                env=self._env | self._vm.variables,
                foreign=self._vm.foreign,
                pace=self._vm.pace,
            )
            self._kernels = Kernels(place)
        return self._kernels

    # Executions

    def _start(self, channel: int, body: dict[str, Any]) -> None:
        """Starts a program in the way its job asks for."""
        try:
            check_descriptors()
            execution, inner = self._streams.open(channel, body)
        except OSError as error:
            self._send(frames.EXIT, channel, refused(channel, f"pipe: {error.strerror}"))
            return
        stdin_inner, stdout_inner, stderr_inner, report_inner = inner
        execution.deadline = time.monotonic() + body["timeout_ms"] / 1000
        self._executions[channel] = execution
        assert execution.report is not None
        self._loop.watch(execution.report, lambda: self._on_report(execution))
        streams = (stdin_inner, stdout_inner, stderr_inner)
        try:
            if body["runtime"] == "job":
                execution.is_job = True
                pid = launch.fork_job(body["job"], streams)
            else:
                full, waits = self._vm.quota.full, execution.waits
                job = launch.job(body, self._env_of(body), full=full, waits=waits)
                pid = self._starter.start(channel, job, streams, report_inner, self._vm.root)
            if pid:
                self._started(execution, pid)
        except OSError as error:
            execution.reason, execution.message = "setup", f"fork: {error.strerror}"
        finally:
            for descriptor in inner:
                os.close(descriptor)

    def _env_of(self, body: dict[str, Any]) -> dict[str, str]:
        """What a program starts with; one forked from the zygote, beside an image's, with less."""
        if self._vm.foreign and body["runtime"] == "python":
            return self._env
        return self._env | self._vm.variables

    def _started(self, execution: Execution, pid: int) -> None:
        execution.pid = pid
        self._by_pid[pid] = execution
        self._send(frames.STARTED, execution.channel, {"pid": pid})
        self._streams.hold(execution)
        if execution.reason != "exit":  # ended before it had a number
            execution.end(execution.reason)

    def _on_report(self, execution: Execution) -> None:
        try:
            done = execution.read_report()
        except BlockingIOError:
            return
        self._streams.hold(execution)
        if done and execution.report is not None:
            self._loop.close(execution.report)
            execution.report = None
            if execution.stdin is not None:
                self._streams.input(execution)
            if not execution.pid and not execution.namespace:
                self._on_zygote()  # it may have said so by now
            if not execution.pid and not execution.namespace:
                self._lost(execution)
        if execution.namespace and execution.reason in ("timeout", "cancel"):
            execution.end(execution.reason)

    def _lost(self, execution: Execution) -> None:
        """The program never came to be: its zygote was ended, or could not fork."""
        if execution.reason == "exit":
            execution.reason = "setup"
        execution.message = execution.message or "the process that was to start it was ended"
        self._finish(execution)

    # Ends

    def _on_child(self, wake: int) -> None:
        """Reaps everything that ended: our children, and the orphans left to process 1."""
        try:
            os.read(wake, 4096)
        except BlockingIOError:
            return
        self._on_zygote()  # a dead zygote's children are ours now: learn their numbers first
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                if self._starter.is_zygote(pid) and not self._vm.stands():
                    self._starter.go_on()  # a program did that
                continue
            execution = self._by_pid.pop(pid, None)
            if execution is not None:
                user, system = int(usage.ru_utime * 1e6), int(usage.ru_stime * 1e6)
                self._on_exit(execution, status, (user, system, usage.ru_maxrss))
            elif self._kernels is not None:
                self._kernels.reaped(pid, status)

    def _on_zygote(self) -> None:
        zygote = self._starter.zygote
        if zygote is None:
            return
        try:
            while (reply := zygote.reply()) is not None:
                kind, channel, number, user, system, rss = reply
                known = self._starter.channel_of(kind, channel, number)
                execution = self._executions.get(known) if known is not None else None
                if execution is None:
                    kernels = self._kernels
                    if known is None or (
                        kernels is not None and kernels.from_zygote(kind, known, number)
                    ):
                        continue
                    if kind == FORKED:  # nobody's: an execution given up meanwhile
                        processes.send([number], SIGKILL)
                    continue
                if kind == FORKED:
                    self._started(execution, number)
                elif kind == ENDED:
                    self._by_pid.pop(execution.pid, None)
                    self._on_exit(execution, number, (user, system, rss))
        except ConnectionError:
            self._starter.lost()

    def _on_exit(self, execution: Execution, status: int, usage: tuple[int, int, int]) -> None:
        """The main process has ended; what it left is looked at next."""
        execution.status = status
        execution.usage = usage
        execution.deadline = None
        if execution.report is not None:
            self._on_report(execution)
        if execution.channel not in self._executions:
            return
        if execution.reason == "exit" and not (execution.namespace or execution.is_job):
            self._lost(execution)  # by whatever it was ended, no program of it ever ran
        elif execution.reason == "exit" and execution.left_behind():
            execution.linger_until = time.monotonic() + execution.LINGER_S * self._vm.pace
        else:
            if execution.reason != "exit":
                execution.end(execution.reason)
            self._finish(execution)

    def _on_time(self) -> None:
        """Ends what is over its time, and lets go of what has lingered enough."""
        self._starter.on_time()
        if self._kernels is not None:
            self._kernels.on_time()
        now = time.monotonic()
        for execution in list(self._executions.values()):
            if execution.linger_until is not None:
                if execution.left_behind():
                    if now < execution.linger_until:
                        continue
                    execution.end_attached()
                self._finish(execution)
            elif execution.deadline is not None and now >= execution.deadline:
                execution.deadline = None
                self._end(execution, "timeout")

    def _end(self, execution: Execution, reason: str) -> None:
        """Ends an execution; where its zygote does not answer for it in a moment, that, too."""
        if not execution.pid and not execution.namespace:
            self._on_zygote()
        execution.end(reason)
        if execution.status is not None or execution.channel not in self._executions:
            return
        if execution.patience:
            execution.patience = False
            execution.deadline = time.monotonic() + PATIENCE_S * self._vm.pace
        else:
            self._starter.give_up()

    def _finish(self, execution: Execution) -> None:
        """Passes on the last of the output and says how it ended."""
        for kind in list(execution.open):
            self._streams.drain(execution, kind)
        if execution.report is not None:
            self._loop.close(execution.report)
        if execution.stdin is not None:
            self._loop.close(execution.stdin.descriptor)
        self._by_pid.pop(execution.pid, None)
        del self._executions[execution.channel]
        self._vm.leaves(execution, alone=not self._executions and self._kernels is None)
        self._streams.release(execution)
        if self._owners is not None:
            self._owners.leaves(execution)
        self._vm.ends()
        self._send(frames.EXIT, execution.channel, execution.result() | self._vm.written())
        if not self._vm.paused:
            self._starter.keep_spare()
