"""The kernels of a VM: starting them, giving them cells one at a time, and ending them."""

from __future__ import annotations

import os
import time
from _signal import SIGINT, SIGKILL

from mulligan.guest import frames, processes
from mulligan.guest.execution import refused
from mulligan.guest.forkserver import ENDED, FORKED
from mulligan.guest.kernels.cells import Cell
from mulligan.guest.kernels.departure import Departure
from mulligan.guest.kernels.links import LinkError, Message
from mulligan.guest.kernels.live import IDLE_OUTPUT, Live, words
from mulligan.guest.kernels.runners import Kernel, Runners
from mulligan.guest.room import check_descriptors

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mulligan.guest.kernels.place import Place

MOST_KERNELS = 32
SILENCE_S = 0.5
IDLE_S = 3600.0
LANGUAGES = ("python", "bash", "javascript")
FRESH = "; the next execution starts a fresh one"


class Kernels(Runners):
    """All kernels, and what happens to them."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.kernels: dict[str, Kernel] = {}
        self._cells: dict[int, Cell] = {}
        self.departure: Departure | None = None
        from mulligan.guest.kernels.snapshots import Snapshots

        self.snapshots = Snapshots(self)

    # What the agent passes on

    def start(self, channel: int, body: dict[str, Any]) -> None:
        """Takes a START frame."""
        try:
            check_descriptors()
        except OSError as error:
            why = f"the execution could not start: {error.strerror}"
            self.place.send(frames.EXIT, channel, refused(channel, why))
            return
        cell = Cell(channel, body)
        kernel = self.kernels.get(cell.name)
        why = ""
        if cell.language not in LANGUAGES:
            why = f"there are no kernels for {cell.language}; there are for {', '.join(LANGUAGES)}"
        elif kernel is None and self._full():
            why = f"this VM has {MOST_KERNELS} kernels already"
        elif kernel is not None and kernel.language != cell.language:
            if kernel.live or kernel.cell or kernel.queue:
                why = f"kernel {cell.name!r} runs {kernel.language}; give another name"
            else:
                kernel.language = cell.language
        if why:
            cell.reason, cell.message = "setup", why
            self.place.send(frames.EXIT, channel, cell.answer(0))
            return
        if kernel is None:
            kernel = self.kernels[cell.name] = Kernel(cell.name, cell.language)
        self._cells[channel] = cell
        kernel.queue.append(cell)
        self.pump(kernel)

    def _full(self) -> bool:
        if len(self.kernels) >= MOST_KERNELS:
            self.kernels = {name: each for name, each in self.kernels.items() if not each.empty()}
        return len(self.kernels) >= MOST_KERNELS

    def handle(self, frame: frames.Frame) -> None:
        """Takes a frame about a cell, or about kernels as a whole."""
        if frame.kind == frames.KERNELS:
            self.snapshots.ask(frame.channel, frame.body())
            return
        cell = self._cells.get(frame.channel)
        if cell is None:
            return
        kernel = self.kernels[cell.name]
        if frame.kind == frames.KILL:
            self._stop(kernel, cell, "cancel")
        elif frame.kind in (frames.STDIN, frames.STDIN_END):
            cell.feed(frame.payload, ended=frame.kind == frames.STDIN_END)
            if cell.input_ended:
                self.pump(kernel)

    def from_zygote(self, kind: bytes, channel: int, number: int) -> bool:
        """The zygote has something to say of a runner; false where it is none of ours (any more).

        Args:
            kind: as in ``forkserver.REPLY``.
            channel: that of the runner.
            number: of its process, or its wait status.
        """
        found = self.by_channel.get(channel)
        if found is None:
            return False
        if kind == FORKED:
            found[1].pid = number
            self.ready(*found)
        elif kind == ENDED:
            self._on_exit(*found, number)
        return True

    def reaped(self, pid: int, status: int) -> bool:
        """A process that was left to process 1 has ended; false where it is none of ours."""
        for kernel in self.kernels.values():
            if kernel.live is not None and kernel.live.pid == pid:
                self._on_exit(kernel, kernel.live, status)
                return True
        return self.snapshots.reaped(pid)

    def leave(self, then: Callable[[], None]) -> None:
        """Has all kernels let go of the root, calls ``then``, and has them go on."""
        self.departure = Departure(self, then)
        self.departure.begin()

    def busy(self) -> bool:
        """Whether a cell runs, or is to run, or memory is on its way."""
        return any(each.cell or each.queue or each.saving for each in self.kernels.values())

    def pids(self) -> frozenset[int]:
        """The kernels' own processes, frozen ones included; not those that cells started."""
        lives = (each.live.pid for each in self.kernels.values() if each.live is not None)
        return self.snapshots.frozen_pids() | {pid for pid in lives if pid}

    def open_namespaces(self) -> list[int]:
        """A descriptor of every mount namespace of a kernel or of a frozen image.

        Raises:
            OSError: one could not be opened.
        """
        found = {memory.namespace: memory.pid for memory in self.snapshots.frozen()}
        for kernel in self.kernels.values():
            if kernel.live is not None and kernel.live.namespace and kernel.live.pid:
                found[kernel.live.namespace] = kernel.live.pid
        opened: list[int] = []
        try:
            for number, pid in found.items():
                try:
                    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue  # it has just ended; the loop hears of it next
                opened.append(descriptor)
                if os.fstat(descriptor).st_ino != number:
                    os.close(opened.pop())  # its number is somebody else's by now
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return opened

    def owners(self) -> dict[int, int]:
        """The cell that runs in each kernel, by the kernel's mount namespace."""
        return {
            kernel.live.namespace: kernel.cell.channel
            for kernel in self.kernels.values()
            if kernel.live is not None and kernel.cell is not None
        }

    def end_all(self, why: str) -> None:
        """Ends every kernel and cancels its cells; frozen images stay."""
        for kernel in list(self.kernels.values()):
            self.snapshots.displace(kernel, why)

    # Time

    def timeout(self) -> float:
        """Seconds until something is due."""
        due = min(
            (cell.deadline for cell in self._cells.values() if cell.deadline is not None),
            default=None,
        )
        leaving = self.departure.deadline if self.departure is not None else None
        moments = [each for each in (due, leaving, self.snapshots.due()) if each is not None]
        lives = (kernel.live for kernel in self.kernels.values() if kernel.live is not None)
        moments += [x.silent_since + SILENCE_S for x in lives if x.silent_since is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else IDLE_S

    def on_time(self) -> None:
        """Stops what is over its time."""
        now = time.monotonic()
        for cell in list(self._cells.values()):
            if cell.deadline is not None and now >= cell.deadline:
                self._stop(self.kernels[cell.name], cell, "timeout")
        for kernel in list(self.kernels.values()):
            live = kernel.live
            if live is None or live.silent_since is None:
                continue
            if now >= live.silent_since + SILENCE_S:
                self.end(kernel, f"the kernel closed its control channel and was ended{FRESH}")
                self.pump(kernel)
        self.snapshots.on_time(now)
        if self.departure is not None and now >= self.departure.deadline:
            self.departure.give_up()

    # Cells

    def pump(self, kernel: Kernel) -> None:
        """Gives a kernel its next cell, if it can have one."""
        if kernel.cell is not None or kernel.saving or not kernel.queue:
            return
        cell = kernel.queue[0]
        if kernel.live is None:
            kernel.program = cell.program
            self.begin(kernel, cell.cwd, cell.env)
            return
        if not kernel.live.usable or not cell.input_ended:
            return
        kernel.queue.pop(0)
        kernel.cell = cell
        kernel.latest = None
        kernel.number += 1
        live = kernel.live
        if kernel.obituary is not None:
            cell.notes.append(kernel.obituary)
            kernel.obituary = None
        self.place.send(frames.STARTED, cell.channel, {"pid": live.pid})
        for kind, data in live.idle.items():
            if data:
                self.pass_on(cell, kind, bytes(data))
                data.clear()
        if live.lost:
            cell.notes.append(f"{live.lost} bytes written between executions were dropped")
            live.lost = 0
        cell.notes += live.notes
        live.notes = []
        settings = cell.enter or bool(cell.env)
        live.files.fill(cell, settings=settings)
        self.say(kernel, live, words(cell, kernel.language, kernel.number, settings=settings))

    def _stop(self, kernel: Kernel, cell: Cell, reason: str) -> None:
        """Ends a cell: by taking it back, by an interrupt, or with its kernel."""
        live = kernel.live
        if cell is not kernel.cell:
            if cell is kernel.queue[0] and live is not None and not live.usable:
                cell.reason = reason
                if not live.pid and not live.namespace:
                    self.place.starter.give_up()
                self.end(kernel, f"the kernel did not come up in time{FRESH}")
                return
            kernel.queue.remove(cell)
            cell.reason = reason
            cell.message = "it waited for the execution before it in its kernel"
            self.finish(cell, SIGKILL)
            return
        assert live is not None
        if cell.reason == "exit" and processes.member(live.pid, live.namespace):
            cell.interrupted(reason, self.place.grace)
            try:
                os.killpg(live.pid, SIGINT)
            except ProcessLookupError:
                processes.send([live.pid], SIGINT)  # it has left its group
        elif reason == "timeout" or cell.reason == "exit":
            cell.reason = reason if cell.reason == "exit" else cell.reason
            grace = self.place.grace
            ended = f"the kernel was ended: it did not stop within {grace:g} s of an interrupt"
            self.end(kernel, ended + FRESH)
            self.pump(kernel)

    def finish(self, cell: Cell, status: int) -> None:
        """Says how a cell ended."""
        self._cells.pop(cell.channel, None)
        self.place.ends()
        self.place.send(frames.EXIT, cell.channel, cell.answer(status))

    def fail(self, kernel: Kernel, why: str) -> None:
        """A kernel that did not come to be: its first cell says so."""
        self.discard(kernel)
        if kernel.queue:
            cell = kernel.queue.pop(0)
            if cell.reason == "exit":
                cell.reason = "setup"
            cell.message = cell.message or why
            self.finish(cell, SIGKILL)
        self.snapshots.gone(kernel, why)
        self.pump(kernel)

    # What comes from a kernel

    def ready(self, kernel: Kernel, live: Live) -> None:
        """See ``Runners``."""
        if live.usable:
            self.snapshots.came_up(kernel, live)
            self.pump(kernel)

    def heard(self, kernel: Kernel, live: Live, message: Message) -> None:
        """See ``Runners``."""
        if message.pid and live.pid and message.pid != live.pid:
            raise LinkError("another process spoke for it")
        if message.op == "ready" and not live.said_ready:
            if message.pid and not live.pid:
                if not processes.member(message.pid, live.namespace or None):
                    raise LinkError("a stranger spoke for it")
                live.pid = message.pid
            live.said_ready = True
            live.notes = message.notes()
            self.ready(kernel, live)
        elif message.op == "done" and kernel.cell is not None:
            self._done(kernel, live, message)
        elif message.op in ("state", "failed") and kernel.saving:
            self.snapshots.said(kernel, message)
        elif message.op == "released" and live.late:
            live.late -= 1
        elif (
            message.op != "released"
            or self.departure is None
            or not self.departure.released(kernel)
        ):
            raise LinkError("it spoke out of turn")

    def _done(self, kernel: Kernel, live: Live, message: Message) -> None:
        cell = kernel.cell
        assert cell is not None
        status = message.number("status", 255)
        result, results = message.optional("result", 2 * IDLE_OUTPUT), message.results()
        cell.notes += message.notes()
        cell.result, cell.results = result, results
        self.drain(kernel, live)
        cell.cpu, cell.rss_kb = live.usage()
        kernel.cell = None
        self.finish(cell, status << 8)
        self.pump(kernel)

    # Ends

    def spared(self, kernel: Kernel) -> frozenset[int]:
        """See ``Runners``."""
        self.snapshots.renew(kernel)
        return self.snapshots.frozen_pids()

    def broken(self, kernel: Kernel, live: Live, error: LinkError) -> None:
        """A runner that is gone, or breaks the protocol: gone first, since it then has a status."""
        if kernel.live is not live:
            return
        if "closed" in str(error):
            self.place.loop.forget(live.link.socket.fileno())
            live.silent_since = time.monotonic()
            return
        self.end(kernel, f"the kernel was ended: {error}{FRESH}")
        self.pump(kernel)

    def _on_exit(self, kernel: Kernel, live: Live, status: int) -> None:
        self.by_channel.pop(live.channel, None)
        if kernel.live is not live:
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"exit status {code}" if code >= 0 else f"signal {-code}"
        if live.usable:
            self.end(kernel, f"the kernel ended ({how}){FRESH}", status)
            self.pump(kernel)
        elif live.report is not None:
            self.on_report(kernel, live)
        if kernel.live is live:
            self.fail(kernel, f"the kernel did not come up ({how})")

    def end(self, kernel: Kernel, why: str, status: int = SIGKILL) -> None:
        """Ends a kernel's processes, and with them its cell; frozen images stay."""
        live, cell = kernel.live, kernel.cell
        if live is None:
            return
        self.drain(kernel, live)
        if cell is not None:
            cell.cpu, cell.rss_kb = live.usage()
        self.discard(kernel)
        kernel.latest = None
        if self.departure is not None:
            self.departure.released(kernel)
        kernel.cell = None
        if cell is None and kernel.queue and not live.usable:
            cell = kernel.queue.pop(0)
        if cell is not None:
            cell.kernel_ended = why
            self.finish(cell, status)
        else:
            kernel.obituary = why.removesuffix(FRESH) + "; this execution started a fresh one"
        self.snapshots.gone(kernel, why)
