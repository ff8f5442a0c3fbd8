"""Starting programs: by the zygote, or by a fork of the agent where that cannot be.

Whatever has the zygote as its parent is in the control groups of programs from its first
instruction, at no cost: it was born there. A child of the agent has to move first, which can take
the kernel tens of milliseconds.

When an execution has ended, a spare child of the zygote is forked for the next one, which then
begins without the fork: that takes as long as a short program runs. It stands in the mount
namespace of the zygote, where no program can get, until it has its job.
"""

from __future__ import annotations

import os
import resource
import select
import sys
import time
from _signal import SIGCONT, SIGKILL

from mulligan.guest import forkserver, launch, processes, spawn, zygotes
from mulligan.guest.confinement import Confinement

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mulligan.guest.loop import Loop

FORK_S = 0.25  # a fork takes no longer
SPARE_S = 10.0  # for so long a spare waits: a VM that does nothing need not pay for it
NEVER_S = 3600.0
MOST_SPARES = 1 << 29  # before their channels come round again


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
        self._spare: zygotes.Spare | None = None
        self._spares = 0
        self._spare_until = 0.0
        self._taken: dict[int, int] = {}  # what the zygote calls a spare: its execution's channel
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
            if pid := self._start_spare(channel, job, descriptors):
                return pid
            if job["zygote"] or self.zygote.serves:
                self.zygote.request(channel, job, descriptors)
                return 0  # else it would be waited for
        except OSError:
            pass  # there is none, or it takes no more
        pid = os.fork()
        if pid == 0:
            launch.become(job, descriptors, self._groups)
        return pid

    def _start_spare(self, channel: int, job: dict[str, Any], descriptors: list[int]) -> int:
        """Has the spare do a job; its number, or 0 where there is none that can."""
        self._await_spare()  # the zygote forks one after the other
        spare, self._spare = self._spare, None
        if spare is None:
            return 0
        try:
            spare.request(job, descriptors)
        except OSError:
            spare.close()  # it was ended
            return 0
        self._taken[spare.channel] = channel
        return spare.pid

    def keep_spare(self) -> None:
        """Has a spare forked, if there is none: a program has ended, and another may come."""
        if self._spare is not None or self.zygote is None or not self.zygote.serves:
            return
        self._spares = (self._spares + 1) % MOST_SPARES
        self._spare_until = time.monotonic() + SPARE_S
        try:
            self._spare = self.zygote.spare(forkserver.SPARE + self._spares)
        except OSError:
            return  # the next one is forked when it comes

    def channel_of(self, kind: bytes, channel: int, number: int) -> int | None:
        """Whom a reply of the zygote is about; None where it was a spare nobody has taken.

        Args:
            kind, channel, number: see ``forkserver.REPLY``.
        """
        if channel < forkserver.SPARE:
            return channel
        spare = self._spare
        if kind == forkserver.FORKED:
            if spare is not None and spare.channel == channel:
                spare.pid = number
            return None
        if spare is not None and spare.channel == channel:
            self.drop_spare()
        return self._taken.pop(channel, None)

    def timeout(self) -> float:
        """Seconds until the spare has waited for long enough."""
        if self._spare is None:
            return NEVER_S
        return max(0.0, self._spare_until - time.monotonic())

    def on_time(self) -> None:
        """Lets go of a spare that nobody wanted."""
        if self._spare is not None and time.monotonic() >= self._spare_until:
            self.drop_spare()

    def drop_spare(self) -> None:
        """Lets go of the spare, which ends: nothing done to it lasts."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _walls(self, job: dict[str, Any]) -> dict[str, Any]:
        return self._confinement.of(self.zygote, moves=job["moves"])

    def _renew(self) -> None:
        self.zygote = zygotes.Zygote(*spawn.zygote(sys.executable, self.env, self._groups))
        self._loop.watch(self.zygote.control.fileno(), self._on_reply)

    def spared(self) -> set[int]:
        """Processes that are no programs."""
        self._await_spare()
        spared = {self.zygote.pid} if self.zygote is not None else set()
        spare = self._spare
        if spare is not None and self._stands_beside(spare.pid):
            spared.add(spare.pid)
        return spared

    def _await_spare(self) -> None:
        """Waits until it is known which process the spare is, for as long as a fork may take."""
        until = time.monotonic() + FORK_S
        while self._spare is not None and not self._spare.pid:
            assert self.zygote is not None
            poll = select.poll()
            poll.register(self.zygote.control.fileno(), select.POLLIN)
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                self.drop_spare()
                return
            self._on_reply()

    def _stands_beside(self, pid: int) -> bool:
        """Whether a process is where the zygote is; a number may have become a program's."""
        assert self.zygote is not None
        place = processes.mounts_of(self.zygote.pid)
        return place not in (None, -1) and processes.mounts_of(pid) == place

    def lost(self) -> None:
        """The zygote is gone: the next start makes another."""
        if self.zygote is not None:
            self.drop_spare()
            self._taken.clear()
            self._loop.forget(self.zygote.control.fileno())
            self.zygote.close()
            self.zygote = None

    def go_on(self) -> None:
        """Has a zygote that a program stopped go on."""
        self._signal_zygote(SIGCONT)

    def give_up(self) -> None:
        """Ends a zygote that hangs: its children become ours."""
        self._signal_zygote(SIGKILL)

    def _signal_zygote(self, number: int) -> None:
        if self.zygote is not None:
            processes.send([self.zygote.pid], number)

    def is_zygote(self, pid: int) -> bool:
        """Whether that process is the zygote."""
        return self.zygote is not None and self.zygote.pid == pid
