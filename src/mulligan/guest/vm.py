"""The VM as a whole: its root file system, and all its processes at once."""

from __future__ import annotations

import os
import sys
import time

from mulligan.guest import frames, processes
from mulligan.guest.execution import UNENDABLE
from mulligan.guest.root import Roots

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IDLE_S = 3600.0
PAUSE_TICK_S = 0.002
PAUSE_PATIENCE_S = 2.0


class Vm:
    """The root programs start in, and the pause all of them can be brought to.

    Args:
        send: sends a frame to the host.
    """

    def __init__(self, send: Callable[[int, int, dict[str, object]], None]) -> None:
        self.root = -1
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
        elif frame.kind == frames.PING:
            self._send(frames.PONG, frame.channel, {})
        elif frame.kind == frames.PAUSE:
            self.pause(frame.channel)
        else:
            return self._postpones(frame)
        return True

    def boot(self, body: dict[str, Any]) -> None:
        """Makes the VM ready for programs, and says so.

        Without a generation it is a VM for jobs alone, and has no root for programs.
        """
        try:
            self._roots = Roots(body["binds"])
            if body["generation"] is not None:
                self.root = self._roots.assemble(body["layers"], body["generation"])
        except OSError as error:
            self._send(frames.FATAL, 0, {"message": str(error)})
            return
        self._send(frames.READY, 0, {"pid": os.getpid(), "python": sys.version.split()[0]})

    def move(self, channel: int, body: dict[str, Any], spared: set[int], *, busy: bool) -> None:
        """Moves the VM to another root: if nothing runs in it, or after ending what does.

        Args:
            channel: of the answer.
            body: ``layers`` and ``generation`` as for ``Roots.assemble``; ``end``, whether
                programs are ended.
            spared: processes that are no programs.
            busy: whether an execution runs.
        """
        if body["end"]:
            if not processes.end_everything(spared):
                os._exit(UNENDABLE)
        elif busy or processes.others(spared):
            self._send(frames.ROOT_DONE, channel, {"busy": True, "error": None})
            return
        assert self._roots is not None
        # First the old one goes: the kernel minds a directory that is written to by one overlay
        # and below another, even for a moment. Where the new one fails the host gives the VM up.
        os.close(self.root)
        self.root = -1
        try:
            self.root = self._roots.assemble(body["layers"], body["generation"])
        except OSError as error:
            self._send(frames.ROOT_DONE, channel, {"busy": False, "error": str(error)})
            return
        self._send(frames.ROOT_DONE, channel, {"busy": False, "error": None})

    # Pauses

    @property
    def paused(self) -> bool:
        """Whether everything stands still, or is about to: nothing may be ended then."""
        return self._pause is not None

    def pause(self, channel: int) -> None:
        """Brings every process to a halt; PAUSED says when, or that one would not."""
        self._pause_channel = channel
        self._pause = processes.Pause()
        self._pause_until = time.monotonic() + PAUSE_PATIENCE_S
        self.on_time()

    def timeout(self) -> float:
        """Seconds until ``on_time`` has something to do."""
        return IDLE_S if self._pause_until is None else PAUSE_TICK_S

    def on_time(self) -> None:
        """Looks whether the halt is complete."""
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
