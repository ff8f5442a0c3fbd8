"""Starting programs: by the zygote, or by a fork of the agent where that cannot be.

Whatever has the zygote as its parent is in the control groups of programs from its first
instruction, at no cost: it was born there. A child of the agent has to move first, which can take
the kernel tens of milliseconds.
"""

from __future__ import annotations

import os
import resource
import sys
from _signal import SIGCONT, SIGKILL

from mulligan.guest import launch, processes, spawn, zygotes
from mulligan.guest.confinement import Confinement

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mulligan.guest.loop import Loop


class Starter:
    """Has programs started.

    Args:
        zygote: the one the VM came up with.
        env: what a new one starts with.
        groups: entries of the programs' control groups.
        loop: where a zygote's replies are watched.
        on_reply: called when there is one.
    """

    def __init__(
        self,
        zygote: zygotes.Zygote,
        env: dict[str, str],
        groups: list[int],
        loop: Loop,
        on_reply: Callable[[], None],
    ) -> None:
        self.zygote: zygotes.Zygote | None = zygote
        self.env = env
        self.nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.limits: dict[str, tuple[int, int]] = {}
        self._groups = groups
        self._loop = loop
        self._on_reply = on_reply
        self._confinement = Confinement()
        loop.watch(zygote.control.fileno(), on_reply)

    def hold_to(self, limits: dict[str, Any]) -> None:
        """Takes what each process is held to by the kernel, from the BOOT frame.

        Args:
            limits: ``processes`` (of all the VM's programs together, see ``launch.limits``),
                ``open_files`` and ``cpu_seconds``; 0: as the agent itself was started.
        """
        soft, hard = self.nofile
        most = limits["open_files"] or hard
        hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
        soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
        self.limits = {"nofile": (soft, hard)}
        if limits["processes"]:
            self.limits["nproc"] = (limits["processes"], limits["processes"])
        if limits["cpu_seconds"]:
            # One second later nobody is asked any more.
            self.limits["cpu"] = (limits["cpu_seconds"], limits["cpu_seconds"] + 1)

    def start(
        self, channel: int, job: dict[str, Any], streams: Sequence[int], report: int, root: int
    ) -> int:
        """Has a program started.

        Args:
            channel: what a zygote calls it.
            job: see ``launch.enter`` and ``launch.become``; its limits and walls are added.
            streams: what it starts with, for the numbers in ``job["places"]``.
            report: where the start is reported.
            root: descriptor of the mount namespace it runs in.

        Returns:
            Its number; 0 where the zygote will say.

        Raises:
            OSError: it could not be forked.
        """
        job["limits"] = self.limits
        job["walls"] = self._walls(job)
        job["zygote"] = job["zygote"] and zygotes.can_serve(job["env"], self.env)
        descriptors = [*streams, report, root]
        try:
            if self.zygote is None:
                self._renew()
                job["walls"] = self._walls(job)
            assert self.zygote is not None
            if job["zygote"] or self.zygote.serves:
                self.zygote.request(channel, job, descriptors)
                return 0  # else it would be waited for
        except OSError:
            pass  # there is none, or it takes no more
        pid = os.fork()
        if pid == 0:
            launch.become(job, descriptors, self._groups)
        return pid

    def _walls(self, job: dict[str, Any]) -> dict[str, Any]:
        return self._confinement.of(self.zygote, moves=job["moves"])

    def _renew(self) -> None:
        self.zygote = zygotes.Zygote(*spawn.zygote(sys.executable, self.env, self._groups))
        self._loop.watch(self.zygote.control.fileno(), self._on_reply)

    def spared(self) -> set[int]:
        """Processes that are no programs."""
        return {self.zygote.pid} if self.zygote is not None else set()

    def lost(self) -> None:
        """The zygote is gone: the next start makes another."""
        if self.zygote is not None:
            self._loop.forget(self.zygote.control.fileno())
            self.zygote.close()
            self.zygote = None

    def go_on(self) -> None:
        """Has a zygote that a program stopped go on."""
        processes.send(list(self.spared()), SIGCONT)

    def give_up(self) -> None:
        """Ends a zygote that hangs: its children become ours."""
        processes.send(list(self.spared()), SIGKILL)
