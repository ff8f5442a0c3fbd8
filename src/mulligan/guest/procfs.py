"""What /proc says of the processes of a VM."""

from __future__ import annotations

import os

_PF_EXITING = 4  # linux/sched.h
_NUM_THREADS = 17  # in what ``status`` returns


def everything() -> list[int]:
    """Every process of the VM but this one."""
    own = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]


def namespace(directory: str, unknown: int) -> int | None:
    """The mount namespace of a process; None where nothing of it runs any more.

    A process goes on without its first thread, which then is a zombie and shows no namespace: its
    other threads are asked. One killed on its way to becoming a program is a zombie that Linux lets
    nobody look into, until it is reaped.
    """
    try:
        return os.stat(f"{directory}/ns/mnt").st_ino
    except PermissionError:
        return None if is_over(int(directory.rpartition("/")[2])) else unknown
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


def last_pid() -> bytes:
    """The number the kernel gave out last in this VM; programs cannot set it.

    gVisor does not tell. There a listing of processes is one moment's, which on Linux it is not:
    two that are the same have missed nobody who was there both times, and whoever only forks and
    exits has another number in the second.
    """
    try:
        with open("/proc/sys/kernel/ns_last_pid", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b" ".join(sorted(b"%d" % pid for pid in everything()))


def threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []


def status(path: int | str) -> list[str]:
    """The fields of proc_pid_stat(5) from the state on, of a process or thread; [] for none."""
    try:
        with open(f"/proc/{path}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def state(path: int | str) -> str:
    """The state letter of a process or thread; "" where it is gone."""
    return (status(path) or [""])[0]


def is_stopped(pid: int) -> bool:
    return state(pid) == "T"


def is_over(pid: int) -> bool:
    """Whether nothing of a process runs any more: its first thread may end before the others."""
    found = status(pid)
    if found and found[0] not in "ZX":
        return False
    # gVisor lists no threads where the first has ended, but counts them.
    listed = threads(pid)
    return len(listed) <= 1 if listed or not found else int(found[_NUM_THREADS]) <= 1


def is_dying(pid: int) -> bool:
    """Whether every thread of a process is past its last instruction (PF_EXITING)."""
    try:
        for thread in threads(pid):
            with open(
                f"/proc/{pid}/task/{thread}/stat", encoding="ascii", errors="replace"
            ) as file:
                state, *numbers = file.read().rpartition(")")[2].split()
                # gVisor shows no flags, only what has ended
                if not int(numbers[5]) & _PF_EXITING and state not in "ZX":
                    return False
    except (FileNotFoundError, ProcessLookupError):
        return not os.path.exists(f"/proc/{pid}")
    return True
