"""Process 1 of a microVM that is kept as a template, outside the walls of the agent.

It starts the VM's walls over a tree of what an agent needs to come up, kept in memory, and waits.
Templates are saved while it does, and every copy goes on from there: it is told of the moment and
gets randomness of its own, the host's files appear as a device, and are mounted where they belong
before the agent is spoken to. Whatever goes wrong ends it, and with process 1 its kernel.

A VM whose memory is kept is saved again and again. All that is inside its walls is frozen for that
(control groups, version 2) and goes on when it was told of the moment, be it in the same machine or
in another one.
"""

from __future__ import annotations

import _socket
import fcntl
import mmap
import os
import select
import struct
import time

from mulligan.guest import identity, kernel, lightjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FILES = "/late"  # where the host's files are mounted
RESCAN = "/sys/bus/pci/rescan"
WAITS, WOKEN, RESTS, MOVES = b"waits\n", b"woken\n", b"rests\n", b"moves\n"
GROUPS = "/sys/fs/cgroup"
WALLS = f"{GROUPS}/walls"
FORGET = "/proc/sys/vm/drop_caches"
REST_S = 5.0
REST_TICK_S = 0.002
MOST_TOLD = 1 << 20
TICK_S = 0.02
WIPED_PERCENT = 90  # what is left over is for the kernel
EPOLL_WAIT, POLL = 232, 7  # of x86-64, which microVMs are made on
RNDADDENTROPY = 0x40085203  # random(4)
RNDRESEEDCRNG = 0x5207


def main(serial: str, told: str, tag: str, command: list[str]) -> None:
    """Runs until the agent's walls are gone; its end ends the VM.

    Args:
        serial: device of the agent's connection.
        told: device of this process's own.
        tag: of the host's files.
        command: what becomes the agent, with its connection as descriptor 3, the filter of system
            calls as 4, and 5 for what bubblewrap says.
    """
    host = os.open(told, os.O_RDWR | os.O_CLOEXEC)
    kernel.mount("groups", GROUPS, "cgroup2", kernel.MS_NOSUID | kernel.MS_NODEV)
    os.mkdir(WALLS)
    walls, agent = _start(serial, command)
    _await_rest(agent)
    _wipe()
    os.write(host, WAITS)
    body: Any = lightjson.loads(_line(host).decode())
    _renew(body)
    own = body.get("identity")
    if own:
        _in_child(_name, agent, own)
    _write(RESCAN, "1")
    kernel.mount(tag, FILES, "virtiofs", kernel.MS_NOSUID | kernel.MS_NODEV)
    _in_child(_show, agent, body["shown"])
    os.write(host, WOKEN)
    _serve(host, walls, agent, own)


def _serve(host: int, walls: int, agent: int, own: dict[str, str] | None) -> None:
    """Does what the host says, until the walls are gone."""
    gone = os.pidfd_open(walls)
    poll = select.poll()
    poll.register(gone, select.POLLIN)
    poll.register(host, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if gone in ready:
            return
        if ready[host] & select.POLLHUP:  # it has nothing more to say
            poll.unregister(host)
            continue
        body: Any = lightjson.loads(_line(host).decode())
        if "rest" in body:
            os.write(host, RESTS if _rest(forget=body["forget"]) else MOVES)
        else:
            _renew(body)
            other = body.get("identity") or own
            if other != own:  # it goes on as another VM
                own = other
                _in_child(_name, agent, own)
            _write(f"{WALLS}/cgroup.freeze", "0")
            os.write(host, WOKEN)


def _rest(*, forget: bool) -> bool:
    """Freezes what is inside the walls; whether that came about.

    Args:
        forget: whether names that nobody uses are to be forgotten, see drop_caches in proc(5).
    """
    _write(f"{WALLS}/cgroup.freeze", "1")
    until = time.monotonic() + REST_S
    while not _frozen():
        if time.monotonic() > until:
            _write(f"{WALLS}/cgroup.freeze", "0")
            return False
        time.sleep(REST_TICK_S)
    if forget:
        _write(FORGET, "2")
    return True


def _frozen() -> bool:
    with open(f"{WALLS}/cgroup.events") as file:
        return "frozen 1" in file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _start(serial: str, command: list[str]) -> tuple[int, int]:
    """The numbers of what holds the walls, and of the agent inside."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _write(f"{WALLS}/cgroup.procs", "0")
            connection = os.open(serial, os.O_RDWR)
            seccomp = os.open("/.microvm/seccomp", os.O_RDONLY)
            kept = [os.dup(each) for each in (connection, seccomp, write_end)]
            for number, descriptor in enumerate(kept, 3):
                os.dup2(descriptor, number)
            os.closerange(6, 64)
            os.execv(command[0], command)
        finally:
            os._exit(1)
    os.close(write_end)
    said = b""
    while not said.rstrip().endswith(b"}"):
        more = os.read(read_end, 4096)
        if not more:
            raise OSError("the walls did not come up")
        said += more
    os.close(read_end)
    told: Any = lightjson.loads(said.decode())
    return pid, int(told["child-pid"])


def _await_rest(agent: int) -> None:
    """Waits until agent and zygote wait for something to do: as they are kept, they go on."""
    while True:
        with open(f"/proc/{agent}/task/{agent}/children") as file:
            children = file.read().split()
        if len(children) == 1 and _waits(agent, EPOLL_WAIT) and _waits(int(children[0]), POLL):
            return
        time.sleep(TICK_S)


def _wipe() -> None:
    """Fills what is free with zeros, which templates have no need to keep."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemFree:"))
    size = free * 1024 * WIPED_PERCENT // 100
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def _waits(pid: int, number: int) -> bool:
    with open(f"/proc/{pid}/syscall") as file:
        return file.read().split()[0] == str(number)


def _line(descriptor: int) -> bytes:
    """One line of the host's."""
    said = b""
    while not said.endswith(b"\n"):
        more = os.read(descriptor, 65536)
        if not more or len(said) > MOST_TOLD:
            raise OSError("the host has hung up")
        said += more
    return said


def _renew(told: dict[str, Any]) -> None:
    """What no two machines may have in common: the moment, and the randomness of their kernels."""
    seed = bytes.fromhex(told["seed"])
    time.clock_settime_ns(time.CLOCK_REALTIME, told["time_ns"])
    with open("/dev/urandom", "wb", buffering=0) as file:
        # struct rand_pool_info: bits, bytes, and these
        fcntl.ioctl(file, RNDADDENTROPY, struct.pack("=ii", len(seed) * 8, len(seed)) + seed)
        fcntl.ioctl(file, RNDRESEEDCRNG)


def _name(agent: int, own: dict[str, str]) -> None:
    """Says inside the walls who the VM is; what its agent has laid in files, too."""
    opened = {
        kind: os.open(f"/proc/{agent}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        for kind, name in ((kernel.CLONE_NEWUTS, "uts"), (kernel.CLONE_NEWNS, "mnt"))
    }
    for kind, descriptor in opened.items():
        kernel.setns(descriptor, kind)
    _socket.sethostname(own["hostname"])
    if identity.laid():
        identity.lay(own)


def _show(agent: int, shown: list[list[Any]]) -> None:
    """Mounts what of the host's files is the VM's, in the namespace of its agent.

    Args:
        agent: its number.
        shown: path among the host's files, path in the namespace, whether it may be written to.
    """
    trees = [
        (kernel.open_tree(FILES + source), target, writable) for source, target, writable in shown
    ]
    theirs = os.open(f"/proc/{agent}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(theirs, kernel.CLONE_NEWNS)
    for tree, target, writable in trees:
        kernel.move_mount(tree, target)
        if not writable:
            flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
            kernel.mount(None, target, None, flags | kernel.MS_NOSUID | kernel.MS_NODEV)


def _in_child(work: Callable[..., None], *arguments: object) -> None:
    """Does something in a process of its own: process 1 shares its root with the kernel's threads,
    and may change to no other (setns(2))."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
            os._exit(0)
        except BaseException as error:  # it has to end here, whatever it was
            os.write(2, f"{error}\n".encode())
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise OSError("what is to be done inside the walls could not be")
