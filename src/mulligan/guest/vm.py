"""The VM as a whole: its root file system, and all its processes at once."""

from __future__ import annotations

import os
import sys
import time

from mulligan.guest import frames, launch, processes
from mulligan.guest.execution import UNENDABLE
from mulligan.guest.measuring import glance
from mulligan.guest.quota import Quota
from mulligan.guest.root import DISK, LAYERS, Roots

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mulligan.guest.execution import Execution
    from mulligan.guest.kernels.manager import Kernels
    from mulligan.guest.memory import Memory
    from mulligan.guest.starts import Starter
    from mulligan.guest.streams import Streams

IDLE_S = 3600.0
PAUSE_TICK_S = 0.002
PAUSE_PATIENCE_S = 2.0


class Vm:
    """The root programs start in, and the pause all of them can be brought to.

    Args:
        send: sends a frame to the host.
        running: whether an execution runs.
        starter: starts programs.
        groups: entries of the control groups this process is to be in.
        streams: those of executions.
    """

    def __init__(
        self,
        send: Callable[[int, int, dict[str, object]], None],
        running: Callable[[], bool],
        starter: Starter,
        groups: list[int],
        streams: Streams,
    ) -> None:
        self.root = -1
        self.variables: dict[str, str] = {}
        self.foreign = False
        self.pace = 1  # how many times longer a moment is
        self._starter = starter
        self._groups = groups
        self._streams = streams
        self._left: list[int] = []  # namespaces of executions, where each has to be sealed
        self.quota = Quota(running, send, LAYERS)
        self._running = running
        self.memory: Memory | None = None  # where it is this process that watches it
        self._upper = ""
        self._send = send
        self._roots: Roots | None = None
        self._pause: processes.Pause | None = None
        self._pause_channel = 0
        self._pause_until: float | None = None
        self._postponed: list[frames.Frame] = []

    def takes(self, frame: frames.Frame) -> bool:
        """Deals with a frame that is about the VM alone, or that has to wait."""
        if frame.kind == frames.BOOT:
            self.boot(frame.body())
        elif frame.kind == frames.PAUSE:
            self.pause(frame.channel)
        else:
            return self._postpones(frame)
        return True

    def boot(self, body: dict[str, Any]) -> None:
        """Makes the VM ready for programs, and says so.

        Without a generation it is a VM for jobs alone, and has no root for programs. One that is
        ready already is one that goes on from memory that was kept, and says that it does.
        """
        if self._roots is not None:
            self._ready()
            return
        try:
            launch.join(self._groups)
            self._starter.hold_to(body["limits"])
            self.variables = body.get("variables", {})
            self.foreign = body.get("foreign", False)
            self.pace = body.get("pace", 1)
            self._streams.holds = bool(body.get("mounts_apart"))
            own = {_mounts()}
            self._roots = self._roots_of(body)
            own.add(_mounts())
            self.quota.ready(own)
            if body["limits"].get("memory") or body["limits"].get("memory_counted"):
                self._watch_memory(body["limits"], own)
            if body["generation"] is not None:
                self._assemble(body)
        except OSError as error:
            self._send(frames.FATAL, 0, {"message": str(error)})
            return
        self._ready()
        if body.get("identity"):  # its snapshots copy its disk while everything in it stands still
            from mulligan.guest.jobs import copy  # noqa: F401

    def _roots_of(self, body: dict[str, Any]) -> Roots:
        own = None
        if body.get("identity"):
            from mulligan.guest import identity

            own = identity.lay(body["identity"])
        return Roots(body["binds"], self._veiled if body.get("shows_agent") else set, own)

    def _ready(self) -> None:
        self._send(frames.READY, 0, {"pid": os.getpid(), "python": sys.version.split()[0]})

    def _veiled(self) -> set[int]:
        zygote = self._starter.zygote  # not its spare, which is a program to be
        return {os.getpid()} if zygote is None else {os.getpid(), zygote.pid}

    def _watch_memory(self, limits: dict[str, Any], own: set[int]) -> None:
        def programs() -> list[int]:
            return processes.outside(own)

        if limits.get("memory_told"):
            from mulligan.guest.toldmemory import ToldMemory

            self.memory = ToldMemory(limits["memory"], self._running, programs, self._send)
        elif limits.get("memory_counted"):
            from mulligan.guest.countedmemory import CountedMemory

            self.memory = CountedMemory(self._running, programs, self._send)
        else:
            from mulligan.guest.memory import Memory

            self.memory = Memory(limits["memory"], self._running, programs, self._send)

    def begin(self, start: dict[str, Any]) -> None:
        """A program is about to start, by that START frame."""
        self.quota.begin(start)
        if self.memory is not None:
            self.memory.begin()

    def ends(self) -> None:
        """A program has ended, and its EXIT frame is about to be sent."""
        if self.memory is not None:
            self.memory.tell()

    def move(
        self,
        channel: int,
        body: dict[str, Any],
        spared: set[int],
        kernels: Kernels | None,
        *,
        busy: bool,
    ) -> None:
        """Moves the VM to another root: if nothing runs in it, or after ending what does.

        Kernels that are between cells move along; where programs are ended, only their frozen
        images do.

        Args:
            channel: of the answer.
            body: ``layers`` and ``generation`` as for ``Roots.assemble``; ``end``, whether
                programs are ended.
            spared: processes that are no programs.
            kernels: those of the VM, if it ever had any.
            busy: whether an execution runs.
        """
        self.quota.rest()
        if kernels is not None:
            kernels.snapshots.stop()
        if body["end"]:
            self._end_programs(spared, kernels)
            self._switch(channel, body, kernels)
        elif busy or not self._is_quiet(spared | self.quota.helpers(), kernels):
            self.quota.resting = False
            self._send(frames.ROOT_DONE, channel, {"busy": True, "error": None})
        elif kernels is not None:
            kernels.leave(lambda: self._switch(channel, body, kernels))
        else:
            self._switch(channel, body, None)

    def _switch(self, channel: int, body: dict[str, Any], kernels: Kernels | None) -> None:
        """Leaves the present root for another one."""
        assert self._roots is not None
        self.quota.resting = False
        inside: list[int] = []
        private: list[int] = []
        try:
            inside = [] if kernels is None else kernels.open_namespaces()
            apart = [*inside, *self._left] if self._streams.holds else []
            if not self._roots.seal([self.root, *apart]) and not body["end"]:
                self._send(frames.ROOT_DONE, channel, {"busy": True, "error": None})
                return
            # Nobody is in the old root any more, if it could be helped: the kernel minds a
            # directory that is written to by one overlay and below another. Where the new one
            # fails the host gives the VM up.
            private += [self._roots.leave(namespace) for namespace in inside]
            os.close(self.root)
            self.root = -1
            while self._left:
                os.close(self._left.pop())
            self._assemble(body)
            for namespace in inside:
                self._roots.enter(namespace, private.pop(0), self.root)
        except OSError as error:
            self._send(frames.ROOT_DONE, channel, {"busy": False, "error": str(error)})
            return
        finally:
            for descriptor in (*inside, *private):
                os.close(descriptor)
        self._send(frames.ROOT_DONE, channel, {"busy": False, "error": None})

    def _end_programs(self, spared: set[int], kernels: Kernels | None) -> None:
        if kernels is not None:
            kernels.end_all("the VM was rolled back")
            spared = spared | kernels.snapshots.frozen_pids()
        if not processes.end_everything(spared):
            os._exit(UNENDABLE)
        if kernels is not None:
            kernels.snapshots.stop()  # again: nobody is left who could set them going

    def look(self, spared: set[int], kernels: Kernels | None) -> dict[str, object]:
        """For a PONG frame: whether no program lives (kernels are none), and whether kernels do."""
        live = kernels is not None and bool(kernels.pids())
        return {"quiet": self._is_quiet(spared | self.quota.helpers(), kernels), "kernels": live}

    def _is_quiet(self, spared: set[int], kernels: Kernels | None) -> bool:
        if kernels is not None:
            if kernels.busy():
                return False
            spared = spared | kernels.pids()
        return not processes.any_others(spared)

    def _assemble(self, body: dict[str, Any]) -> None:
        assert self._roots is not None
        self.root = self._roots.assemble(body["layers"], body["generation"])
        self._upper = f"{DISK}/{body['generation']}/upper"
        self.quota.moved(self._upper)

    def written(self) -> dict[str, object]:
        """What the disk took since it was last frozen, for an EXIT frame: null where it is much."""
        return {"written": glance(self._upper)}

    def leaves(self, execution: Execution, *, alone: bool) -> None:
        """An execution has ended: where mounts are sealed one by one, its own are seen to.

        Who is still there may have descriptors of it, and write through them to a disk that is
        frozen by then. What cannot be sealed yet is kept until the VM moves.

        Args:
            execution: it, with its namespace still held.
            alone: whether nothing else runs in the VM, and has run since it moved.
        """
        if not self._streams.holds or execution.mounts < 0 or self._roots is None:
            return
        if alone and not self._left and not execution.background:
            return
        if execution.background or not self._roots.seal([execution.mounts]):
            self._left.append(execution.mounts)
            execution.mounts = -1

    # Pauses

    @property
    def paused(self) -> bool:
        """Whether everything stands still, or is about to: nothing may be ended then."""
        return self._pause is not None

    def stands(self) -> bool:
        """Whether programs were stopped on our behalf."""
        return self.paused or self.quota.pausing

    def pause(self, channel: int) -> None:
        """Brings every process to a halt; PAUSED says when, or that one would not."""
        self.quota.release()  # what it has stopped would not be seen as stopped by us
        self._pause_channel = channel
        self._pause = processes.Pause()
        self._pause_until = time.monotonic() + PAUSE_PATIENCE_S
        self.on_time()

    def timeout(self) -> float:
        """Seconds until ``on_time`` has something to do."""
        if self._pause is None:
            due = self.quota.timeout()
            return due if self.memory is None else min(due, self.memory.timeout())
        return IDLE_S if self._pause_until is None else PAUSE_TICK_S

    def on_time(self) -> None:
        """Looks whether the halt is complete; where there is none, after the disk."""
        if self._pause is None:
            self.quota.on_time()
            if self.memory is not None:
                self.memory.on_time()
        if self._pause is None or self._pause_until is None:
            return
        holds = self._pause.holds()
        if holds or time.monotonic() >= self._pause_until:
            self._pause_until = None
            self._send(frames.PAUSED, self._pause_channel, {"holds": holds})

    def _postpones(self, frame: frames.Frame) -> bool:
        """Whether a frame waits for the end of the pause: ending one has the others go on."""
        if self._pause is None or frame.kind not in (frames.KILL, frames.ROOT, frames.KERNELS):
            return False
        self._postponed.append(frame)
        return True

    def resume(self) -> list[frames.Frame]:
        """Ends the pause and returns the frames that waited for it."""
        if self._pause is not None:
            self._pause.end()
            self._pause = None
            self._pause_until = None
        postponed, self._postponed = self._postponed, []
        return postponed


def _mounts() -> int:
    """This process's mount namespace."""
    return os.stat("/proc/self/ns/mnt").st_ino
