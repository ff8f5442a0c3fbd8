"""The agent that runs programs, and what else is around them.

In a VM ``told["agent"]`` is process 1 and the zygote whoever else of its session there is; outside
it is the planted process, which belongs to whoever asks.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable

from mulligan.selfcheck.inside.probing import (
    Seen,
    empty,
    named,
    names,
    probe,
    read,
    refused,
    short,
    shut,
    syscall,
    text,
    told,
)
from mulligan.selfcheck.inside.processes import memory_of, vm_read

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


def agent() -> list[int]:
    """Process 1 of the VM."""
    return [told["agent"]]


def beside() -> list[int]:
    """What the agent runs beside programs: of no session that a program leads."""
    if told["outside"]:
        return [told["agent"]]
    mine = {1, told["main"], os.getpid(), os.getppid()}
    return [
        pid
        for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if pid not in mine and _session(pid) in (0, 1, os.getsid(1))
    ]


def zygote() -> list[int]:
    """Who of them is the agent's own child.

    The zygote's is a program to be, which may be about to end: nothing that is done to it lasts.
    """
    if told["outside"]:
        return [told["agent"]]
    return [pid for pid in beside() if _parent(pid) == 1]


def _session(pid: int) -> int:
    """The session of a process; -1 where it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _parent(pid: int) -> int:
    """The parent of a process (proc(5)); -1 where it is gone."""
    try:
        return int(text(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
    except OSError:
        return -1


def _seized(pid: int) -> tuple[int, int]:
    """Attaches without stopping it, and lets go at once."""
    result, number = syscall("ptrace", PTRACE_SEIZE, pid, 0, 0)
    if result != -1:
        syscall("ptrace", PTRACE_DETACH, pid, 0, 0)
    return result, number


def _taken(pid: int) -> tuple[int, int]:
    """Takes descriptor 0 of another process, and closes it."""
    descriptor = os.pidfd_open(pid)
    try:
        result, number = syscall("pidfd_getfd", descriptor, 0, 0)
    finally:
        os.close(descriptor)
    if result != -1:
        os.close(result)
    return result, number


def _call(work: Callable[[int], tuple[int, int]]) -> Callable[[int], object]:
    """A system call as something that raises where it fails."""

    def run(pid: int) -> object:
        result, number = work(pid)
        if result == -1:
            raise OSError(number, named(number))
        return result

    return run


LOOKS: dict[str, tuple[str, Callable[[int], object]]] = {
    "memory": ("read the memory of", memory_of),
    "environ": ("read the environment of", lambda pid: len(read(f"/proc/{pid}/environ"))),
    "maps": ("read the memory map of", lambda pid: len(read(f"/proc/{pid}/maps"))),
    "auxv": ("read the start values of", lambda pid: len(read(f"/proc/{pid}/auxv"))),
    "descriptors": ("list the descriptors of", lambda pid: names(f"/proc/{pid}/fd")),
    "descriptor": ("open descriptor 0 of", lambda pid: os.close(os.open(f"/proc/{pid}/fd/0", 0))),
    "root": ("look into the root of", lambda pid: names(f"/proc/{pid}/root")),
    "cwd": ("look into the directory of", lambda pid: names(f"/proc/{pid}/cwd")),
    "exe": (
        "open the program file of",
        lambda pid: os.close(os.open(f"/proc/{pid}/exe", os.O_PATH)),
    ),
    "namespace": (
        "open the mount namespace of",
        lambda pid: os.close(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)),
    ),
    "io": ("read the I/O counts of", lambda pid: len(read(f"/proc/{pid}/io"))),
    "ptrace": ("attach (ptrace) to", _call(_seized)),
    "vm_readv": ("process_vm_readv of", _call(vm_read)),
    "pidfd_getfd": ("take a descriptor (pidfd_getfd) of", _call(_taken)),
    "kcmp": ("kcmp with", _call(lambda pid: syscall("kcmp", os.getpid(), pid, 1, 0, 0))),
}
ACTS: dict[str, tuple[str, Callable[[int], object]]] = {
    "signal": ("send signal 0 to", lambda pid: os.kill(pid, 0)),
    "pidfd": ("open a descriptor of", lambda pid: os.close(os.pidfd_open(pid))),
    "limits": (
        "ask for the limits of",
        lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE),
    ),
    "affinity": (
        "set the CPUs, to what they are, of",
        lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(pid)),
    ),
    "priority": (
        "set the priority, to what it is, of",
        lambda pid: os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid)),
    ),
}
# Of each: what looks ask of, and what acts do.
WHO: dict[str, tuple[str, Callable[[], list[int]], Callable[[], list[int]]]] = {
    "agent": ("the agent, process 1", agent, agent),
    "zygote": ("the zygote", beside, zygote),
}


def _register_looks() -> None:
    for who, (called, looked_at, acted_on) in WHO.items():
        for name, (what, work) in (LOOKS | ACTS).items():

            def run(
                whose: Callable[[], list[int]] = looked_at if name in LOOKS else acted_on,
                work: Callable[[int], object] = work,
            ) -> Seen:
                found = whose()
                if not found:
                    return True, "there is none"
                seen = [shut(lambda pid=pid: work(pid)) for pid in found]  # type: ignore[misc]
                return all(ok for ok, _ in seen), short("; ".join(said for _, said in seen))

            probe(f"runtime.{who}_{name}", f"{what} {called}", "refused", "depends")(run)


_register_looks()


@probe("runtime.inherited", "list its own descriptors", "none but the three standard ones")
def inherited() -> Seen:
    return empty([f"{name}: {target}" for name, target in told["open"].items() if int(name) > 2])


@probe(
    "runtime.inherited_read",
    "read from every descriptor it has beyond the standard ones",
    "nothing",
)
def inherited_read() -> Seen:
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        path = f"/proc/self/fd/{name}"
        try:
            if int(name) > 2 and os.readlink(path).startswith("/"):
                read(path)
        except OSError:
            continue
    return True, "nothing of the host's"


@probe(
    "runtime.stdin",
    "ask what its standard streams are",
    "pipes or null, no file of the host's",
    "passes",
)
def stdin() -> Seen:
    found = [told["open"].get(number, "closed") for number in "012"]
    strange = [
        each for each in found if not each.startswith(("pipe:", "socket:")) and each != "/dev/null"
    ]
    return empty(strange)


@probe("runtime.connections", "look for sockets among what it can see of others", "none opens")
def connections() -> Seen:
    """The agent's connection to the host is one: who had it could speak for the agent."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (os.getpid(), told["main"]):
            continue
        try:
            links = {each: os.readlink(each.path) for each in os.scandir(f"/proc/{name}/fd")}
            found += [each.path for each, to in links.items() if to.startswith("socket:")]
        except OSError:
            continue
    return empty(found)


@probe("runtime.agent_files", "look for the agent's own directory", "it is not there", "passes")
def agent_files() -> Seen:
    return shut(lambda: names("/.mulligan"))


@probe(
    "runtime.program_files", "list the directory of its program", "its own program alone", "passes"
)
def program_files() -> Seen:
    if not os.path.isdir("/run/mulligan"):
        return True, "there is none"
    return empty([name for name in names("/run/mulligan") if not name.startswith("main")])


@probe("runtime.scheduling", "take the real-time scheduler (in a child)", "refused", "passes")
def scheduling() -> Seen:
    return shut(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


@probe("runtime.oom_immunity", "make itself the last the kernel would end", "refused", "passes")
def oom_immunity() -> Seen:
    def work() -> None:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")

    return shut(work)


@probe(
    "runtime.peer",
    "ask its standard output who is at the other end",
    "no process of the host's",
    "passes",
)
def peer() -> Seen:
    try:
        with socket.socket(fileno=os.dup(1)) as stream:
            number = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED)
    except OSError as error:
        return True, named(error.errno or 0)
    return number == 0, f"process {number}"


@probe("runtime.everybody", "send signal 0 to every process there is", "refused")
def everybody() -> Seen:
    return shut(lambda: os.kill(-1, 0))


@probe("runtime.own_setns", "setns into its own network namespace", "refused", "passes")
def own_setns() -> Seen:
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        return refused(syscall("setns", descriptor, 0x40000000))
    finally:
        os.close(descriptor)


@probe("runtime.visible", "count processes that it did not start", "the agent's few", "depends")
def visible() -> Seen:
    found = [name for name in os.listdir("/proc") if name.isdigit()]
    own = 0
    for name in found:
        try:
            own += os.getsid(int(name)) == told["main"]
        except OSError:
            continue
    others = len(found) - own
    return others <= 8, f"{others}, {short(text('/proc/1/comm'))} among them"
