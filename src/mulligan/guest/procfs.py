"""What proc_pid_stat(5) says of processes and threads."""

from __future__ import annotations

import os

_NUM_THREADS = 17  # in what ``status`` returns


def threads(pid: int) -> list[str]:
    """The threads of a process, by their numbers; [] for none."""
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
    """Whether a process was stopped by a signal."""
    return state(pid) == "T"


def is_over(pid: int) -> bool:
    """Whether nothing of a process runs any more: its first thread may end before the others."""
    found = status(pid)
    if found and found[0] not in "ZX":
        return False
    # gVisor lists no threads where the first has ended, but counts them.
    alive = threads(pid)
    return len(alive) <= 1 if alive or not found else int(found[_NUM_THREADS]) <= 1
