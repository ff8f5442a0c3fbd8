"""Finding and ending every process of an execution, by the mount namespace it cannot leave."""

from __future__ import annotations

import os
import time
from _signal import SIGCONT, SIGHUP, SIGKILL, SIGSTOP

from mulligan.guest import procfs

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

PASSES = 1000
LOOKS = 20
PAUSE_S = 0.001
SHORTEST_PAUSE_S = 0.0001
HANGUP_LOOKS = 20
HANGUP_PAUSE_S = 0.005
_outlived: set[int] = set()  # numbers of processes that went on after a hang-up
_tells: bool | None = None  # whether the kernel says which signals a process ignores


def members(namespace: int, over: set[int] | None = None) -> list[int]:
    """The living processes of the execution whose mount namespace has this inode number.

    A process that cannot be looked into counts as a member: ending too much of one VM is better
    than leaving something behind.

    Args:
        namespace: the inode number.
        over: takes those that were listed and of which nothing runs any more.
    """
    found = []
    for pid in procfs.everything():
        its = procfs.namespace(f"/proc/{pid}", namespace)
        if its == namespace:
            found.append(pid)
        elif its is None and over is not None:
            over.add(pid)
    return found


def is_detached(pid: int, session: int) -> bool:
    """Whether a process was detached on purpose: own session (setsid) or immune to hang-up (nohup).

    Args:
        pid: the process.
        session: the session its execution started in.
    """
    try:
        if os.getsid(pid) != session:
            return True
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("SigIgn:"):
                    return bool(int(line.split()[1], 16) & 1 << (SIGHUP - 1))
    except (ProcessLookupError, FileNotFoundError):
        return False
    return pid in _outlived


def hang_up(namespace: int, session: int) -> None:
    """Where the kernel does not say who is immune to hang-up, as gVisor does not, finds it out.

    Who is attached gets SIGHUP, and is taken for detached if it goes on: whoever catches that
    signal, too, which on Linux is no sign of it.
    """
    global _tells  # noqa: PLW0603  (one kernel, one answer)
    if _tells is None:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            _tells = any(line.startswith("SigIgn:") for line in file)
    if _tells:
        return
    _outlived.intersection_update(procfs.everything())
    attached = stragglers(namespace, session)[0]
    send(attached, SIGHUP)
    send(attached, SIGCONT)
    for _ in range(HANGUP_LOOKS):
        attached = stragglers(namespace, session)[0]
        if not attached:
            return
        time.sleep(HANGUP_PAUSE_S)
    _outlived.update(attached)


def stragglers(namespace: int, session: int) -> tuple[list[int], list[int]]:
    """What an ended execution left: (to be ended, detached on purpose)."""
    attached: list[int] = []
    detached: list[int] = []
    for pid in conclusive(namespace):
        (detached if is_detached(pid, session) else attached).append(pid)
    return attached, detached


def conclusive(namespace: int) -> list[int]:
    """``members``, as sure as can be. After too many looks the last one has to do."""
    return _look(lambda over: members(namespace, over))[0]


def _look(find: Callable[[set[int]], list[int]]) -> tuple[list[int], bool]:
    """Looks for processes until a look was not disturbed; what it found, and whether one was not.

    A process that does nothing but fork and exit is gone from where the look comes to and not yet
    where it has been. Either a number was given out meanwhile, or (a process has its number before
    it is to be seen) one that was listed is over when it is looked into, and was not before.

    Args:
        find: makes one look, and adds to the set it is given what it found to be over.
    """
    known: set[int] = set()
    for _ in range(LOOKS):
        last = procfs.last_pid()
        over: set[int] = set()
        found = find(over)
        if procfs.last_pid() == last and over <= known:
            return found, True
        known |= over
    return found, False


def send(pids: list[int], number: int) -> None:
    """Signals each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def member(pid: int, namespace: int | None) -> bool:
    """Whether a process is there and, where a namespace is given, belongs to it."""
    if pid <= 1:
        return False
    found = procfs.namespace(f"/proc/{pid}", -1)
    return found is not None and found in (namespace or found, -1)


def send_member(pid: int, namespace: int, number: int) -> None:
    """Signals a process, if it still is one of the namespace."""
    if member(pid, namespace):
        send([pid], number)


def end_one(pid: int, namespace: int) -> bool:
    """Kills a process of a namespace; true where it runs no more.

    Freeing what a large process had takes tens of milliseconds, which nobody has to wait for.
    """
    send_member(pid, namespace, SIGKILL)
    for _ in range(LOOKS):
        if procfs.is_dying(pid):
            return True
        time.sleep(PAUSE_S / 10)
    return False


def end_all(
    namespace: int, session: int | None = None, spared: frozenset[int] = frozenset()
) -> bool:
    """Ends the processes of an execution; true where none is left.

    Args:
        namespace: inode number of the execution's mount namespace.
        session: where given, what was detached from it on purpose is spared.
        spared: processes that are spared, too.
    """
    if _look(lambda over: _doomed(namespace, session, spared, over)) == ([], True):
        return True
    return _end(lambda: _doomed(namespace, session, spared))


def end_everything(spared: set[int]) -> bool:
    """Ends every process of the VM but this one and ``spared``; true where none is left."""
    if not any_others(spared):
        return True
    return _end(lambda: others(spared))


def _end(doomed: Callable[[], list[int]]) -> bool:
    """Kills what ``doomed`` names until it names nothing.

    Every process of the VM is stopped first, in one call the kernel keeps forks out of: what is
    there then is all there will be. Those named are killed, the others go on.
    """
    before = {pid for pid in procfs.everything() if procfs.is_stopped(pid)}
    try:
        os.kill(-1, SIGSTOP)
    except ProcessLookupError:
        return True  # process 1 is alone
    try:
        pause = SHORTEST_PAUSE_S
        for _ in range(PASSES):
            found = doomed()
            if not found:
                return True
            send(found, SIGKILL)
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_S)
        return False
    finally:
        _go_on(before)


def _go_on(before: set[int]) -> None:
    """Ends a stop of all processes, but for those that were stopped before it.

    What stops all reaches a process, too, that is being forked just then and is not to be seen yet:
    Linux keeps signals to several processes for it until it is there (``multiprocess`` in
    ``copy_process``). Only a signal to several takes that back; one to its parent alone does not,
    and it would stand still for ever.
    """
    going = [pid for pid in procfs.everything() if pid not in before]
    if not before:
        send([-1], SIGCONT)
        return
    groups = {_group(pid) for pid in going} - {_group(pid) for pid in before} | {_OWN_GROUP}
    send([-group for group in groups], SIGCONT)
    send(going, SIGCONT)


_OWN_GROUP = 0  # kill(2) takes it so; its number is 1, and -1 would mean all


def _group(pid: int) -> int:
    """The process group of a process; the agent's own where it is gone."""
    try:
        group = os.getpgid(pid)
    except ProcessLookupError:
        return _OWN_GROUP
    return _OWN_GROUP if group == os.getpgrp() else group


def mounts_of(pid: int) -> int | None:
    """The mount namespace of a process; None where nothing of it runs, -1 where nobody may look."""
    return procfs.namespace(f"/proc/{pid}", -1)


def has_rights(pid: int) -> bool:
    """Whether a process has any capability, as ours have and programs have not."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("CapEff:"):
                    return int(line.split()[1], 16) != 0
    except (ProcessLookupError, FileNotFoundError):
        pass  # gone
    return False


def outside(own: set[int]) -> list[int]:
    """The living processes of the VM whose mount namespace is none of ``own``."""
    found = []
    for pid in procfs.everything():
        namespace = mounts_of(pid)
        if namespace is None or namespace in own or (namespace == -1 and procfs.is_over(pid)):
            continue
        found.append(pid)
    return found


def end_outside(own: set[int]) -> bool:
    """Ends the processes ``outside`` names, whatever calls they are in; true where none is left."""
    send(outside(own), SIGKILL)
    return _end(lambda: outside(own))


def others(spared: set[int], over: set[int] | None = None) -> list[int]:
    """The living processes of the VM but this one and ``spared``; ``over`` takes what has ended."""
    found = []
    for pid in procfs.everything():
        if pid in spared:
            continue
        if not procfs.is_over(pid):
            found.append(pid)
        elif over is not None:
            over.add(pid)
    return found


def any_others(spared: set[int]) -> bool:
    """Whether there are ``others``, or that cannot be told."""
    return _look(lambda over: others(spared, over)) != ([], True)


class Pause:
    """All processes of the VM, stopped where they stand."""

    def __init__(self) -> None:
        self._before = {pid for pid in procfs.everything() if procfs.is_stopped(pid)}
        self._stop()

    def _stop(self) -> None:
        try:
            os.kill(-1, SIGSTOP)
        except ProcessLookupError:
            return  # process 1 is alone

    def holds(self) -> bool:
        """Whether every thread has come to a halt by now.

        Where one has not, all are stopped again: a terminal that is hung up on has the kernel set
        its programs going.
        """
        if all(
            procfs.state(f"{pid}/task/{thread}") in ("T", "t", "Z", "X", "")
            for pid in procfs.everything()
            for thread in procfs.threads(pid)
        ):
            return True
        self._stop()
        return False

    def end(self) -> None:
        """Has everything go on that was not stopped before."""
        _go_on(self._before)


def _doomed(
    namespace: int, session: int | None, spared: frozenset[int], over: set[int] | None = None
) -> list[int]:
    found = [pid for pid in members(namespace, over) if pid not in spared]
    return found if session is None else [p for p in found if not is_detached(p, session)]
