"""A bound on the memory of a VM's programs, held by the agent where no control group can.

The kernel bounds the memory of a process for an ordinary user, never that of several. So the agent
looks: resident sets, whose sum is never less than what programs have of their own, cost
microseconds to add up; how often it does follows from what is left. Where they come to more than
the VM may have, shares are asked for (``smaps_rollup`` of proc(5): a page that n processes share
counts a nth), which takes milliseconds for each gigabyte. If those are too much, too, the largest
programs are ended until the rest fits, as the kernel would in a control group.

Files in memory count with them: those of ``/dev/shm``, and memfds. What is in pipes and sockets is
not seen.
"""

from __future__ import annotations

import os
import time
from _signal import SIGKILL

from mulligan.guest import frames, processes, procfs

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_S = 3600.0
SHORTEST_S = 0.005
LONGEST_S = 0.25
BACKGROUND_S = 1.0  # while nothing runs but what was left in the background
FASTEST = 8 << 30  # bytes a second that no VM fills memory faster than
PATIENCE = 10  # asking for shares takes at most one part in so many of the time
BUDGET_S = 0.1  # in which one look asks for shares; the largest come first
FILES_S = 0.5  # so often descriptors are looked through
FILES_BUDGET_S = 0.02
BLOCK = 512  # what st_blocks counts in
MEMFD = "/memfd:"
SHM = "/dev/shm"
KIB = 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHARES = (b"Pss_Anon:", b"SwapPss:")
_SHARED = b"Pss_Shmem:"


class Memory:
    """Watches the memory of all programs together.

    Args:
        limit: bytes they may have; 0: nothing is watched.
        running: whether an execution runs, in a kernel or not.
        programs: the processes that may be ended.
        send: sends a frame to the host.
    """

    def __init__(
        self,
        limit: int,
        running: Callable[[], bool],
        programs: Callable[[], list[int]],
        send: Callable[[int, int, dict[str, object]], None],
    ) -> None:
        self._limit = limit
        self._running = running
        self._programs = programs
        self._send = send
        self._due = float("inf")
        self._pardon = 0.0
        self._files: dict[int, int] = {}
        self._files_due = 0.0

    def begin(self) -> None:
        """A program is about to start."""
        if self._limit:
            self._due = min(self._due, time.monotonic() + SHORTEST_S)

    def tell(self) -> None:
        """A program has ended: says what the host is to know before it hears of that."""

    def timeout(self) -> float:
        """Seconds until ``on_time`` has something to do."""
        return min(IDLE_S, max(0.0, self._due - time.monotonic()))

    def on_time(self) -> None:
        """Looks, if it is time to."""
        now = time.monotonic()
        if now < self._due:
            return
        sizes = {pid: resident(pid) for pid in procfs.everything()}
        running = self._running()
        if not running and not self._programs():
            self._due = float("inf")  # until the next program starts
            return
        if now >= self._files_due:
            self._files = memfds(list(sizes))
            self._files_due = time.monotonic() + FILES_S
        left = self._limit - sum(sizes.values()) - self._in_files()
        if left < 0 and now >= self._pardon:
            self._judge(sizes)
        longest = LONGEST_S if running else BACKGROUND_S
        self._due = time.monotonic() + min(longest, max(SHORTEST_S, left / FASTEST))

    def _judge(self, sizes: dict[int, int]) -> None:
        """Ends the largest programs, if there is too much even where nothing counts twice."""
        began = time.monotonic()
        own: dict[int, int] = {}
        shared = 0
        for pid in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if time.monotonic() > began + BUDGET_S:
                break  # what is left are the smallest
            own[pid], of_others = shares(pid)
            shared += of_others
        # Files in memory count where they are mapped, and where they are: once is enough.
        over = sum(own.values()) + max(shared, self._in_files()) - self._limit
        self._pardon = time.monotonic() + (time.monotonic() - began) * PATIENCE
        if over > 0:
            self._end(over, own)

    def _in_files(self) -> int:
        return shared_files() + sum(self._files.values())

    def _end(self, over: int, own: dict[int, int]) -> None:
        sizes = {pid: own.get(pid, 0) + self._files.get(pid, 0) for pid in self._programs()}
        doomed = []
        for pid in sorted(sizes, key=sizes.__getitem__, reverse=True):
            doomed.append(pid)
            over -= sizes[pid]
            if over <= 0:
                break
        if doomed:
            self._send(frames.MEMORY, 0, {"ended": len(doomed)})  # before how they ended
            processes.send(doomed, SIGKILL)
            self._pardon = self._files_due = 0.0


def resident(pid: int) -> int:
    """Bytes of memory a process has, shared or not; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def shares(pid: int) -> tuple[int, int]:
    """A process's share of anonymous memory, and of shared memory, in bytes.

    What can be read again from a disk does not count.
    """
    anonymous = shared = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(_SHARES):
                    anonymous += int(line.split()[1])
                elif line.startswith(_SHARED):
                    shared = int(line.split()[1])
    except PermissionError:
        return _of_its_own(pid), 0
    except OSError:
        pass  # it is gone
    return anonymous * KIB, shared * KIB


def _of_its_own(pid: int) -> int:
    """Bytes of a process that no file is behind, where nobody may ask how they are shared."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, size, of_files, *_ = file.read().split()
    except OSError:
        return 0
    return (int(size) - int(of_files)) * _PAGE


def memfds(pids: list[int]) -> dict[int, int]:
    """Bytes of the files without a name that processes have in memory, each with one holder."""
    until = time.monotonic() + FILES_BUDGET_S
    seen: set[int] = set()
    found: dict[int, int] = {}
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        try:
            for name in os.listdir(directory):
                if time.monotonic() > until:
                    return found
                if os.readlink(f"{directory}/{name}").startswith(MEMFD):
                    status = os.stat(f"{directory}/{name}")
                    if status.st_ino not in seen:
                        seen.add(status.st_ino)
                        found[pid] = found.get(pid, 0) + status.st_blocks * BLOCK
        except OSError:
            continue  # it is gone, or has closed it
    return found


def shared_files() -> int:
    """Bytes of the files in memory that programs share."""
    found = os.statvfs(SHM)
    return (found.f_blocks - found.f_bfree) * found.f_frsize
