"""Finding and ending every process of an execution, by the mount namespace it cannot leave."""

import os
import signal
import time

PASSES = 500
PAUSE_S = 0.001


def members(namespace: int) -> list[int]:
    """The living processes of the execution whose mount namespace has this inode number.

    A process that cannot be looked into counts as a member: ending too much of one VM is better
    than leaving something behind.
    """
    own = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        if _namespace(f"/proc/{name}", namespace) == namespace:
            found.append(int(name))
    return found


def _namespace(directory: str, unknown: int) -> int | None:
    """The mount namespace of a process; None where nothing of it runs any more.

    A process goes on without its first thread, which then is a zombie and shows no namespace: its
    other threads are asked.
    """
    try:
        return os.stat(f"{directory}/ns/mnt").st_ino
    except PermissionError:
        return unknown
    except (FileNotFoundError, ProcessLookupError):
        pass  # gone, or its first thread has ended
    try:
        threads = os.listdir(f"{directory}/task")
    except (FileNotFoundError, ProcessLookupError):
        return None
    for thread in threads if len(threads) > 1 else ():
        try:
            return os.stat(f"{directory}/task/{thread}/ns/mnt").st_ino
        except PermissionError:
            return unknown
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def all_stopped(pids: list[int]) -> bool:
    """Whether each process is stopped, dead or gone."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] not in "TtZX":
                    return False
        except (FileNotFoundError, ProcessLookupError):
            continue
    return True


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
                    return bool(int(line.split()[1], 16) & 1 << (signal.SIGHUP - 1))
    except (ProcessLookupError, FileNotFoundError):
        return False
    return False


def stragglers(namespace: int, session: int) -> tuple[list[int], list[int]]:
    """What an ended execution left: (to be ended, detached on purpose)."""
    attached: list[int] = []
    detached: list[int] = []
    for pid in members(namespace):
        (detached if is_detached(pid, session) else attached).append(pid)
    return attached, detached


def send(pids: list[int], number: int) -> None:
    """Signals each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end_all(namespace: int) -> bool:
    """Ends every process of an execution; true where none is left.

    First everything is stopped, again and again until no pass finds a process that was not there
    before, so that nothing can fork away from the kill; then everything is killed.
    """
    stopped: set[int] = set()
    for _ in range(PASSES):
        new = [pid for pid in members(namespace) if pid not in stopped]
        if not new:
            break
        send(new, signal.SIGSTOP)
        stopped.update(new)
    for _ in range(PASSES):
        alive = members(namespace)
        if not alive:
            return True
        send(alive, signal.SIGKILL)
        time.sleep(PAUSE_S)
    return not members(namespace)
