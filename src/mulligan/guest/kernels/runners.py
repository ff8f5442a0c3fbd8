"""The processes of kernels: starting them, hearing them, and ending them."""

from __future__ import annotations

import os
from _signal import SIGKILL

from mulligan.guest import processes
from mulligan.guest.captures import CHUNK
from mulligan.guest.execution import DRAIN_READS, UNENDABLE
from mulligan.guest.kernels.links import LinkError, Message
from mulligan.guest.kernels.live import IDLE_OUTPUT, Live
from mulligan.guest.room import check_descriptors

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from mulligan.guest.kernels.cells import Cell
    from mulligan.guest.kernels.memories import Memory
    from mulligan.guest.kernels.place import Place

FIRST_CHANNEL = 1 << 31  # executions have the numbers below


class Kernel:
    """A kernel by its name, whether a process of it runs or not."""

    def __init__(self, name: str, language: str) -> None:
        self.name = name
        self.language = language
        self.program = ""
        self.live: Live | None = None
        self.cell: Cell | None = None
        self.queue: list[Cell] = []
        self.number = 0
        self.memories: dict[str, Memory] = {}
        self.latest: Memory | None = None  # what of them it still is
        self.saving = False
        self.displaced = False  # it was alive when the VM went to another state
        self.obituary: str | None = None

    def empty(self) -> bool:
        """Whether nothing of it is there any more."""
        return not (self.live or self.cell or self.queue or self.memories)


class Runners:
    """The side of ``Kernels`` that has to do with processes; what is left open it fills in."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.by_channel: dict[int, tuple[Kernel, Live]] = {}
        self._last_channel = 0

    def heard(self, kernel: Kernel, live: Live, message: Message) -> None:
        """A runner has said something."""
        raise NotImplementedError

    def ready(self, kernel: Kernel, live: Live) -> None:
        """A runner may be able to take cells now."""
        raise NotImplementedError

    def fail(self, kernel: Kernel, why: str) -> None:
        """A kernel did not come to be."""
        raise NotImplementedError

    def broken(self, kernel: Kernel, live: Live, error: LinkError) -> None:
        """A runner is gone, or breaks the protocol."""
        raise NotImplementedError

    def spared(self, kernel: Kernel) -> frozenset[int]:
        """Processes that do not end with their kernel."""
        raise NotImplementedError

    def say(
        self, kernel: Kernel, live: Live, text: str, descriptors: list[int] | None = None
    ) -> None:
        """Tells a runner something; one that does not listen is ended."""
        try:
            live.link.send(text, descriptors)
        except LinkError as error:
            self.broken(kernel, live, error)

    def begin(
        self, kernel: Kernel, cwd: str, env: dict[str, str], state: bytes | None = None
    ) -> None:
        """Starts a process for a kernel; a shell may take up a state."""
        try:
            check_descriptors()
            live = Live(kernel.language)
            report, report_inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self.fail(kernel, f"the kernel could not start: {error.strerror}")
            return
        os.set_blocking(report_inner, True)
        self._last_channel += 1
        live.channel = FIRST_CHANNEL + self._last_channel
        live.report = report
        kernel.live = live
        self.by_channel[live.channel] = (kernel, live)
        self.watch(kernel, live)
        self.place.loop.watch(report, lambda: self.on_report(kernel, live))
        job = live.job(kernel.program, cwd, self.place.env | env, state, foreign=self.place.foreign)
        root, streams = self.place.root(), [*live.streams(), *live.inherited().values()]
        try:
            live.pid = self.place.starter.start(live.channel, job, streams, report_inner, root)
        except OSError as error:
            self.fail(kernel, f"the kernel could not start: {error.strerror}")
            return
        finally:
            os.close(report_inner)
            live.started()
        if kernel.language == "python":
            self.say(kernel, live, "hello", live.files.descriptors)

    def watch(self, kernel: Kernel, live: Live) -> None:
        """Listens to a runner."""
        self.place.loop.watch(live.link.socket.fileno(), lambda: self._on_link(kernel, live))
        for kind, descriptor in live.outputs.items():
            self.place.loop.watch(descriptor, self._output_handler(kernel, live, kind))

    def _output_handler(self, kernel: Kernel, live: Live, kind: int) -> Callable[[], None]:
        return lambda: self._on_output(kernel, live, kind)

    def _on_output(self, kernel: Kernel, live: Live, kind: int) -> None:
        """Passes on what the kernel wrote; between cells it is kept for the next one."""
        descriptor = live.outputs[kind]
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self.place.loop.close(descriptor)
            del live.outputs[kind]
        elif kernel.live is live and kernel.cell is not None:
            self.pass_on(kernel.cell, kind, data)
            if self.place.crowded():
                self.place.loop.hold(descriptor)
        else:
            room = IDLE_OUTPUT - len(live.idle[kind])
            live.idle[kind] += data[:room]
            live.lost += max(0, len(data) - room)

    def pass_on(self, cell: Cell, kind: int, data: bytes) -> None:
        """Sends a cell's output on, as far as its limit goes."""
        kept = cell.take(kind, data)
        if kept:
            self.place.send(kind, cell.channel, kept)

    def drain(self, kernel: Kernel, live: Live) -> None:
        """Reads what is in the pipes now: it was written before the cell ended."""
        for kind in list(live.outputs):
            for _ in range(DRAIN_READS):
                try:
                    data = os.read(live.outputs[kind], CHUNK)
                except BlockingIOError:
                    break
                if not data:
                    break
                if kernel.cell is not None:
                    self.pass_on(kernel.cell, kind, data)

    def on_report(self, kernel: Kernel, live: Live) -> None:
        """Takes what a starting process says."""
        try:
            error = live.read_report()
        except BlockingIOError:
            return
        if error is not None:
            if live.report is not None:
                self.place.loop.close(live.report)
                live.report = None
            if kernel.live is live and (error or not live.namespace):
                self.fail(kernel, error or "the process that was to start it was ended")
                return
        if kernel.live is live:
            self.ready(kernel, live)

    def _on_link(self, kernel: Kernel, live: Live) -> None:
        """Takes what a runner said, believing none of it."""
        try:
            message = live.link.receive()
            if message is not None:
                self.heard(kernel, live, message)
        except BlockingIOError:
            return
        except LinkError as error:
            self.broken(kernel, live, error)

    def discard(self, kernel: Kernel) -> None:
        """Kills all processes of a kernel, but frozen ones, and closes what was theirs."""
        live, kernel.live = kernel.live, None
        if live is None:
            return
        self.by_channel.pop(live.channel, None)
        if live.namespace:
            spared = self.spared(kernel)
            if processes.end_one(live.pid, live.namespace):
                spared |= {live.pid}  # its memory may take a while to go; it does nothing any more
            if not processes.end_all(live.namespace, spared=spared):
                os._exit(UNENDABLE)
        elif live.pid:
            processes.send([live.pid], SIGKILL)
        live.started()
        for descriptor in (live.link.socket.fileno(), live.report, *live.outputs.values()):
            if descriptor is not None and self.place.loop.watches(descriptor):
                self.place.loop.forget(descriptor)
        for descriptor in (live.report, *live.outputs.values()):
            if descriptor is not None:
                os.close(descriptor)
        live.outputs, live.report = {}, None
        live.link.close()
