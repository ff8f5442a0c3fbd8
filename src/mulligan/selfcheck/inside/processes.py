"""The host's processes, and what they share with each other.

``told["target"]`` is a process of the run's own on the host. In the control it is of whoever asks.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

from mulligan.selfcheck.inside.probing import (
    Seen,
    empty,
    look,
    named,
    names,
    probe,
    read,
    short,
    shut,
    syscall,
    text,
    told,
)

ENOENT, EFAULT = 2, 14
USER_KEYRINGS = (-3, -4, -5)  # session, user, user session
KEYCTL_SEARCH, KEYCTL_READ = 10, 11
PRIO_PROCESS = 0


def pids() -> list[str]:
    """The processes that are seen."""
    return [name for name in names("/proc") if name.isdigit()]


def started(pid: str | int) -> str | None:
    """When a process started, in ticks since the host did; with its number, that is who it is."""
    try:
        return text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
    except OSError:
        return None


def _target() -> int | None:
    """The number of the planted process, unless another process has it here."""
    pid, start = told["target"]
    return None if started(pid) not in (None, start) else int(pid)


def _seen(who: str) -> Seen:
    pid, start = told[who]
    return started(pid) != start, "seen" if started(pid) == start else "not seen"


@probe("processes.server", "look for the server in /proc", "not seen")
def server() -> Seen:
    return _seen("server")


@probe("processes.child", "look for the planted process in /proc", "not seen")
def child() -> Seen:
    return _seen("target")


@probe("processes.command_lines", "read every command line there is", "none has the secret")
def command_lines() -> Seen:
    return _of_all("cmdline")


@probe("processes.environments", "read every environment there is", "none has the secret")
def environments() -> Seen:
    return _of_all("environ")


@probe("processes.own_environment", "read its own environment", "nothing of the server's")
def own_environment() -> Seen:
    inherited = [name for name in told["environment"] if name in os.environ]
    look("\0".join(os.environ.values()).encode(errors="replace"))
    return not inherited, f"inherited {short(' '.join(inherited))}" if inherited else "nothing"


def _of_all(entry: str) -> Seen:
    number = 0
    for pid in pids():
        try:
            read(f"/proc/{pid}/{entry}")
        except OSError:
            continue
        number += 1
    return True, f"{number} read"


def _tried(work: Callable[[int], tuple[int, int]]) -> Seen:
    """Whether a call that names the planted process finds nobody, or is refused."""
    pid = _target()
    if pid is None:
        return True, "another process has that number here"
    result, number = work(pid)
    return result == -1, named(number) if result == -1 else "it worked"


def _raises(work: Callable[[int], object]) -> Seen:
    pid = _target()
    if pid is None:
        return True, "another process has that number here"
    return shut(lambda: work(pid))


def _register_questions() -> None:
    asked: dict[str, tuple[str, Callable[[int], object], str]] = {
        "signal": ("send signal 0 to", lambda pid: os.kill(pid, 0), "fails"),
        "priority": (
            "ask for the priority of",
            lambda pid: os.getpriority(PRIO_PROCESS, pid),
            "fails",
        ),
        "session": ("ask for the session of", os.getsid, "fails"),
        "group": ("ask for the process group of", os.getpgid, "fails"),
        "affinity": ("ask for the CPUs of", os.sched_getaffinity, "fails"),
        "scheduler": ("ask for the scheduling of", os.sched_getscheduler, "fails"),
        "limits": (
            "ask for the limits of",
            lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE),
            "fails",
        ),
        "pidfd": ("open a descriptor of", lambda pid: os.close(os.pidfd_open(pid)), "fails"),
        "pidfd_signal": ("send signal 0 by descriptor to", _pidfd_signal, "fails"),
        "memory": ("read the memory of", memory_of, "depends"),
        "mapping": (
            "read the memory map of",
            lambda pid: len(read(f"/proc/{pid}/maps")),
            "depends",
        ),
        "descriptors": ("list the descriptors of", lambda pid: names(f"/proc/{pid}/fd"), "depends"),
        "directory": (
            "ask for the directory of",
            lambda pid: os.readlink(f"/proc/{pid}/cwd"),
            "depends",
        ),
        "namespaces": (
            "ask for the namespaces of",
            lambda pid: os.readlink(f"/proc/{pid}/ns/mnt"),
            "depends",
        ),
    }
    for name, (what, work, outside) in asked.items():

        def run(work: Callable[[int], object] = work) -> Seen:
            return _raises(work)

        probe(f"processes.{name}", f"{what} the planted process, by its number", "nobody", outside)(
            run
        )


def _pidfd_signal(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)


def memory_of(pid: int) -> str:
    """Reads of a process's stack, where arguments and environment are, through /proc."""
    for line in text(f"/proc/{pid}/maps").splitlines():
        if line.endswith("[stack]"):
            first, last = (int(each, 16) for each in line.split()[0].split("-"))
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(first)
                return f"{len(look(memory.read(last - first) or b''))} bytes"
    raise OSError(ENOENT, "no stack")


_register_questions()


@probe(
    "processes.vm_readv",
    "process_vm_readv: read of the planted process's memory",
    "nobody, or refused",
    "depends",
)
def vm_readv() -> Seen:
    return _tried(vm_read)


def vm_read(pid: int) -> tuple[int, int]:
    """Reads a byte where there is none: EFAULT says that it might have."""
    buffer = ctypes.create_string_buffer(1)
    here = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 1)
    there = (ctypes.c_void_p * 2)(4096, 1)
    result, number = syscall(
        "process_vm_readv", pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0
    )
    return (0, 0) if number == EFAULT else (result, number)


@probe("processes.kcmp", "kcmp: compare itself with the planted process", "nobody", "depends")
def kcmp() -> Seen:
    return _tried(lambda pid: syscall("kcmp", os.getpid(), pid, 1, 0, 0))


@probe("processes.robust_list", "get_robust_list of the planted process", "nobody", "depends")
def robust_list() -> Seen:
    def work(pid: int) -> tuple[int, int]:
        head, size = ctypes.c_void_p(), ctypes.c_size_t()
        return syscall("get_robust_list", pid, ctypes.byref(head), ctypes.byref(size))

    return _tried(work)


@probe("processes.io_priority", "ask for the I/O priority of the planted process", "nobody")
def io_priority() -> Seen:
    return _tried(lambda pid: syscall("ioprio_get", 1, pid))


# System V and POSIX IPC, and keys


@probe(
    "processes.shared_memory",
    "attach the planted System V shared memory",
    "it is not there",
    "depends",
)
def shared_memory() -> Seen:
    result, number = syscall("shmget", told["ipc"]["key"], 0, 0)
    if result == -1:
        return True, named(number)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(result, None, 0o10000)  # SHM_RDONLY
    if address not in (None, ctypes.c_void_p(-1).value):
        look(ctypes.string_at(address, 64))
    return False, "it is there"


@probe("processes.semaphores", "open the planted System V semaphore", "it is not there", "depends")
def semaphores() -> Seen:
    result, number = syscall("semget", told["ipc"]["key"], 0, 0)
    return result == -1, named(number) if result == -1 else "it is there"


@probe(
    "processes.messages", "open the planted System V message queue", "it is not there", "depends"
)
def messages() -> Seen:
    result, number = syscall("msgget", told["ipc"]["key"], 0)
    return result == -1, named(number) if result == -1 else "it is there"


@probe(
    "processes.posix_queue", "open the planted POSIX message queue", "it is not there", "depends"
)
def posix_queue() -> Seen:
    result, number = syscall("mq_open", told["ipc"]["queue"].encode(), os.O_RDONLY, 0, 0)
    if result != -1:
        os.close(result)
    return result == -1, named(number) if result == -1 else "it is there"


def _register_tables() -> None:
    for kind in ("shm", "sem", "msg"):

        def run(kind: str = kind) -> Seen:
            try:
                lines = text(f"/proc/sysvipc/{kind}").splitlines()[1:]
            except FileNotFoundError:
                return True, "no such list"
            key = str(told["ipc"]["key"])
            return empty([line for line in lines if line.split()[0] == key])

        probe(
            f"processes.list_{kind}",
            f"look for the planted one in /proc/sysvipc/{kind}",
            "not listed",
            "depends",
        )(run)


_register_tables()


@probe(
    "processes.key", "search keyrings for the planted key, and read it", "none is found", "depends"
)
def key() -> Seen:
    last = 0
    for ring in USER_KEYRINGS:
        number, last = syscall("keyctl", KEYCTL_SEARCH, ring, b"user", told["key"].encode(), 0)
        if number == -1:
            continue
        buffer = ctypes.create_string_buffer(256)
        syscall("keyctl", KEYCTL_READ, number, ctypes.byref(buffer), 256)
        look(buffer.raw)
        return False, f"found in keyring {ring}"
    return True, named(last)


# What a program is to the processes around it


@probe("processes.parent", "ask who its parent is", "not the server")
def parent() -> Seen:
    status = dict(
        line.split(":\t", 1)
        for line in text(f"/proc/{told['main']}/status").splitlines()
        if ":\t" in line
    )
    pid = status["PPid"]
    return [pid, started(pid)] != [str(told["server"][0]), told["server"][1]], f"process {pid}"


@probe("processes.own_session", "ask whether its session is its own", "it leads it")
def own_session() -> Seen:
    number: Any = os.getsid(told["main"])
    return number == told["main"], f"session {number}"


@probe(
    "processes.oom_score", "read its /proc/self/oom_score_adj", "above 0: ended before the host's"
)
def oom_score() -> Seen:
    value = int(text("/proc/self/oom_score_adj"))
    return value > 0, str(value)


@probe(
    "processes.core", "read its limit for core files", "0 for good: no handler of the host's runs"
)
def core() -> Seen:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    return hard == 0, "unlimited" if hard == resource.RLIM_INFINITY else str(hard)


@probe("processes.terminal", "open /dev/tty", "there is none", "depends")
def terminal() -> Seen:
    return shut(lambda: os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)))
