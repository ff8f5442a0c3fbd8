"""A bound on what a VM's programs keep on its disk, held by the agent.

No kernel lets an ordinary user bound a directory, so the agent looks. Free space of the host's file
system costs a microsecond to ask for and can shrink by no less than programs wrote; how often it
is asked follows from what is left. When it has shrunk by as much as the VM may still write, all
programs are stopped where they stand and the disk is measured. If it was another who wrote, they
go on. If the disk is full, their RLIMIT_FSIZE becomes 0: from then on writes to files fail with
EFBIG, while removing files works, and once there is room again, so do writes. What grows even then
(directories, holes that were mapped) is ended.
"""

from __future__ import annotations

import os
import time
from resource import RLIMIT_FSIZE, prlimit

from mulligan.guest import frames, processes
from mulligan.guest.execution import UNENDABLE
from mulligan.guest.measuring import WRITER, Measuring
from mulligan.guest.room import check_descriptors

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IDLE_S = 3600.0
SHORTEST_S = 0.001
FULL_S = 0.005
LONGEST_S = 0.25
BACKGROUND_S = 1.0  # while nothing runs but what was left in the background
FULL_BACKGROUND_S = 0.1
FASTEST = 4 << 30  # bytes a second that no VM writes faster than
RECOUNT_S = 2.0  # others may free what programs write: so often it is measured whatever is free
PATIENCE = 50  # measuring takes at most one part in so many of the time
FULL_RECOUNT_S = 0.02
FULL_PATIENCE = 5
STALLED_S = 10.0  # measuring that takes longer, while programs run, may have been stopped by one
GRACE = 8 << 20  # a full disk may grow by so much before what runs is ended
FEWEST_FILES = 100  # one part in so many of the host's inodes stays free


class Terms:
    """What the host allows: see ``engine.quota.Bounds.terms``. Sizes are in bytes."""

    def __init__(self, body: dict[str, object]) -> None:
        self.limit = _count(body["limit"])
        self.reserve = _count(body["reserve"]) or 0
        self.known = _count(body["known"]) or 0
        unknown = body["unknown"]
        assert isinstance(unknown, list)
        self.unknown: list[str] = unknown


class Quota:
    """Watches one disk.

    Args:
        running: whether an execution runs, in a kernel or not; the disk is watched closely then.
        send: sends a frame to the host.
        layers: directory the trees of ``Terms.unknown`` are in.
    """

    def __init__(
        self,
        running: Callable[[], bool],
        send: Callable[[int, int, dict[str, object]], None],
        layers: str,
    ) -> None:
        self._running = running
        self._send = send
        self._layers = layers
        self._own: set[int] = set()  # mount namespaces in which no program runs
        self._upper = ""
        self._terms: Terms | None = None
        self._frozen: dict[str, int] = {}  # trees that were measured; they do not change
        self._measured = 0
        self._free_then = 0
        self._due = float("inf")
        self._recount = float("inf")
        self._pardon = 0.0
        self._full_at: int | None = None
        self._why = "full"
        self._lent: dict[int, int] = {}
        self._pause: processes.Pause | None = None
        self._measuring: Measuring | None = None
        self._children: set[int] = set()
        self.resting = False

    @property
    def full(self) -> bool:
        """Whether nothing may be written now."""
        return self._full_at is not None

    @property
    def pausing(self) -> bool:
        """Whether programs were stopped to be measured."""
        return self._pause is not None

    def ready(self, own: set[int]) -> None:
        """Takes the mount namespaces, by inode number, whose processes are no programs."""
        self._own = own

    def moved(self, upper: str) -> None:
        """The disk is written to in another directory from now on."""
        self.release()
        self._upper = upper
        self._measured = 0
        self._free_then = self._free()
        if self.full:
            self._unfill()

    def begin(self, start: dict[str, Any]) -> None:
        """Takes the terms of a START frame, before its program starts; null: there are none."""
        if start["runtime"] == "job":
            return  # the agent's own work
        self._terms = Terms(start["disk"]) if start["disk"] is not None else None
        if self._terms is None:
            self._due = float("inf")
            return
        now = time.monotonic()
        self._due = now + min(LONGEST_S, self._interval())
        self._recount = min(self._recount, now + RECOUNT_S)
        if not self.full and self._allowance() <= 0 and not self._missing():
            self._fill("full")
        elif self.full:
            self._say(self._why)

    def rest(self) -> None:
        """Stops nothing until ``resting`` is taken back: kernels are to answer in time."""
        self.release()
        self.resting = True

    def release(self) -> None:
        """Lets programs go on that were stopped to be measured; they are looked at again soon."""
        if self._measuring is not None:
            self._measuring.abandon()
            self._measuring = None
        if self._pause is not None:
            self._pause.end()
            self._pause = None

    def helpers(self) -> set[int]:
        """Processes that are this one's own, also those that are about to be gone."""
        found = set()
        for pid in self._children:
            namespace = processes.mounts_of(pid)
            if namespace is None or namespace in self._own:
                found.add(pid)
        self._children = found
        return set(found)

    # Looking

    def timeout(self) -> float:
        """Seconds until ``on_time`` has something to do."""
        if self.resting:
            return IDLE_S
        if self._measuring is not None:
            return SHORTEST_S
        return min(IDLE_S, max(0.0, self._due - time.monotonic()))

    def on_time(self) -> None:
        """Looks, if it is time to."""
        if self.resting:
            return
        if self._measuring is not None:
            self._on_measured()
            return
        now = time.monotonic()
        if now < self._due or self._terms is None:
            return
        if not self._running() and not self._programs():
            self._due = float("inf")  # until the next program starts
            return
        self._look(now)
        self._due = time.monotonic() + self._interval()

    def _look(self, now: float) -> None:
        if self.full:
            self._limit_programs()
            if now >= self._recount or self._grown(self._free()) > GRACE:
                self._measure()
        elif self._suspicious() and now >= self._pardon:
            self._pause = processes.Pause()
            self._measure()
        elif now >= self._recount or (self._missing() and self._running()):
            self._measure()

    def _free(self) -> int:
        """Bytes that are free where the disk is."""
        found = os.statvfs(self._upper)
        return found.f_bavail * found.f_frsize

    def _allowance(self) -> int:
        """Bytes the upper directory may hold."""
        terms = self._terms
        if terms is None or terms.limit is None:
            return 1 << 62
        below = sum(self._frozen.get(tree, 0) for tree in terms.unknown)
        return terms.limit - terms.known - below

    def _missing(self) -> list[str]:
        """Frozen trees nobody has measured."""
        if self._terms is None or self._terms.limit is None:
            return []
        return [tree for tree in self._terms.unknown if tree not in self._frozen]

    def _left(self) -> int:
        """Bytes that can be written before there is anything to see to, at least."""
        free = self._free()
        grown = self._grown(free)
        reserve = self._terms.reserve if self._terms is not None else 0
        return min(self._allowance() - self._measured - grown, free - reserve)

    def _grown(self, free: int) -> int:
        """What was written since the last measuring, at most: others write, too."""
        return max(0, self._free_then - free)

    def _interval(self) -> float:
        """Seconds in which nothing can happen, or what may happen is little."""
        longest = LONGEST_S if self._running() else BACKGROUND_S
        if self.full:
            return FULL_S if self._running() else FULL_BACKGROUND_S
        return min(longest, max(SHORTEST_S, self._left() / FASTEST))

    def _suspicious(self) -> bool:
        return self._left() < 0 or self._host_short()

    def _host_short(self) -> bool:
        found = os.statvfs(self._upper)
        assert self._terms is not None
        if not self._terms.reserve:
            return False
        free = found.f_bavail * found.f_frsize
        return free < self._terms.reserve or found.f_favail < found.f_files // FEWEST_FILES

    # Measuring

    def _measure(self) -> None:
        missing = self._missing()
        self._free_then = self._free()
        paths = [self._upper, *(f"{self._layers}/{tree}" for tree in missing)]
        try:
            check_descriptors()
            self._measuring = Measuring(paths, missing)
        except OSError:
            self.release()  # it is looked at again soon
            return
        self._children.add(self._measuring.pid)

    def _on_measured(self) -> None:
        measuring = self._measuring
        assert measuring is not None
        sizes = measuring.result()
        if sizes is None and (self._pause is not None or measuring.took < STALLED_S):
            return  # not yet
        self._measuring = None
        now = time.monotonic()
        if not sizes:  # it met what it could not read, or a program ended or stopped it
            measuring.abandon()
            self._again()
            return
        if self.full:
            self._recount = now + max(FULL_RECOUNT_S, measuring.took * FULL_PATIENCE)
        else:
            self._recount = now + max(RECOUNT_S, measuring.took * PATIENCE)
        self._measured = sizes[0]
        self._frozen.update(zip(measuring.names, sizes[1:], strict=True))
        self._judge(now, measuring.took)
        if self._pause is not None:
            self._pause.end()
            self._pause = None

    def _again(self) -> None:
        """Measures where nobody can get in the way; what cannot be measured then is ended."""
        if self._pause is not None:
            self._end()
        else:
            self._pause = processes.Pause()
            self._measure()

    def _judge(self, now: float, took: float) -> None:
        over = self._measured >= max(0, self._allowance())
        short = self._host_short() and self._measured >= WRITER
        if self._full_at is None:
            if over or short:
                self._fill("full" if over else "host")
            elif self._pause is not None:
                self._pardon = now + (max(LONGEST_S, took * PATIENCE) if self._host_short() else 0)
        elif not over and not short:
            self._unfill()
        elif self._measured > self._full_at + GRACE:
            self._end()

    # A full disk

    def _fill(self, why: str) -> None:
        """Nothing is written any more. Programs are stopped meanwhile: none is missed."""
        pause = None if self._pause is not None else processes.Pause()
        self._full_at, self._why = self._measured, why
        self._recount = 0.0  # it may grow even so
        self._limit_programs()
        if pause is not None:
            pause.end()
        self._say(why)

    def _unfill(self) -> None:
        self._full_at = None
        for pid in self._programs():
            _limit(pid, self._lent.get(pid))
        self._lent.clear()

    def _limit_programs(self) -> None:
        for pid in self._programs():
            if processes.has_rights(pid):
                continue  # it is not yet the program it will be, and has to write that first
            was = _limit(pid, 0)
            if was:
                self._lent[pid] = was

    def _end(self) -> None:
        """Ends what runs: it goes on growing where nothing may be written."""
        self._say("ended" if self._why == "full" else "host-ended")
        ended = processes.end_outside(self._own)
        self.release()
        self._full_at = self._measured
        if not ended:
            os._exit(UNENDABLE)

    def _programs(self) -> list[int]:
        return processes.outside(self._own)

    def _say(self, state: str) -> None:
        wanted = self._terms.unknown if self._terms is not None else []
        sizes = {tree: self._frozen[tree] for tree in wanted if tree in self._frozen}
        self._send(frames.DISK, 0, {"state": state, "sizes": sizes})


def _limit(pid: int, soft: int | None) -> int:
    """Sets a process's soft RLIMIT_FSIZE, None for as much as it may; returns what it was."""
    try:
        was, hard = prlimit(pid, RLIMIT_FSIZE)
        wanted = hard if soft is None else soft
        if was != wanted:
            prlimit(pid, RLIMIT_FSIZE, (wanted, hard))
    except (ProcessLookupError, PermissionError, ValueError):
        return 0
    return was


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
