"""Forks of a Python kernel, and what they leave behind. Runs beside ``runner``."""

from __future__ import annotations

import os
import sys
import warnings
from _signal import SIGCHLD

MOST_NOTES = 16


class Quiet:
    """Keeps a SIGCHLD of our own from the program."""

    def __init__(self) -> None:
        from _signal import SIG_BLOCK, pthread_sigmask, sigpending

        self._before = pthread_sigmask(SIG_BLOCK, {SIGCHLD})
        self._was_pending = SIGCHLD in sigpending()

    def reap(self, pid: int) -> int:
        """Waits for a child of ours; its wait status."""
        from _signal import sigpending, sigtimedwait

        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:  # the program has its children reaped by the system
            status = 0
        if not self._was_pending and SIGCHLD in sigpending():
            sigtimedwait({SIGCHLD}, 0)
        self.over()
        return status

    def over(self) -> None:
        """Lets signals come again."""
        from _signal import SIG_SETMASK, pthread_sigmask

        pthread_sigmask(SIG_SETMASK, self._before)


def fork_twice() -> bool:
    """Forks a process that is no child of this one; true in it."""
    signals = Quiet()
    with warnings.catch_warnings():  # of threads: they are reported
        warnings.simplefilter("ignore")
        try:
            middle = os.fork()
        except OSError:
            signals.over()
            raise
        if middle == 0:
            try:
                last = os.fork()
            except OSError as error:
                os._exit(error.errno or 1)
            if last:
                os._exit(0)
            signals.over()
            return True
    status = signals.reap(middle)
    if status:
        number = os.waitstatus_to_exitcode(status)
        raise OSError(number, os.strerror(number))
    return False


def left_out(own: set[int], given: set[tuple[int, str]]) -> list[str]:
    """What of this process a fork does not bring along, or brings along stale.

    Args:
        own: numbers of descriptors that are not the program's.
        given: of the interpreter's own libraries; see ``descriptors``.
    """
    ours = own | {0, 1, 2}
    theirs = [each for each in descriptors() if each[0] not in ours and each not in given]
    notes = [*_threads(), *_stale(theirs), *_children(), *_shared_memory()]
    if len(notes) > MOST_NOTES:
        notes[MOST_NOTES - 1 :] = [f"and {len(notes) - MOST_NOTES + 1} more"]
    return [note[:200] for note in notes]


def _threads() -> list[str]:
    threading = sys.modules.get("threading")
    others = []
    if threading is not None:
        others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    notes = [f"thread {t.name!r} does not come along" for t in others]
    native = len(os.listdir("/proc/self/task")) - 1 - len(others)
    if native > 0:
        notes.append(f"{native} threads of libraries do not come along")
    return notes


def descriptors() -> list[tuple[int, str]]:
    """The descriptors of this process, by their numbers: each with what it leads to."""
    found = []
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            found.append((number, os.readlink(f"/proc/self/fd/{number}")))
        except OSError:  # the one that listed them
            continue
    return found


def _stale(found: list[tuple[int, str]]) -> list[str]:
    notes = []
    for number, target in found:
        kind = target.partition(":")[0]
        if kind in ("socket", "pipe"):
            notes.append(f"{kind} {number} is shared or its other end is gone")
        elif target.startswith("/") and not target.startswith("/dev/"):
            notes.append(f"file {target} is open: its content and position are not rewound")
    return notes


def _children() -> list[str]:
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            pids = file.read().split()
    except OSError:
        return []
    return [f"child process {pid} does not come along" for pid in pids]


def _shared_memory() -> list[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        found = {line.split(maxsplit=5)[-1].strip() for line in file if " rw-s " in line[:48]}
    return [f"shared memory {name} is not rewound" for name in sorted(found)]
