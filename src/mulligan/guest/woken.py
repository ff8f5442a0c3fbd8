"""Process 1 of a microVM that is kept as a template, outside the walls of the agent.

It starts the VM's walls over a tree of what an agent needs to come up, kept in memory, and waits.
Templates are saved while it does, and every copy goes on from there: it is told of the moment and
gets randomness of its own, the host's files appear as a device, and are mounted where they belong
before the agent is spoken to. Whatever goes wrong ends it, and with process 1 its kernel.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time

from mulligan.guest import kernel, lightjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FILES = "/late"  # where the host's files are mounted
RESCAN = "/sys/bus/pci/rescan"
WAITS, WOKEN = b"waits\n", b"woken\n"
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
    walls, agent = _start(serial, command)
    _await_rest(agent)
    _wipe()
    os.write(host, WAITS)
    body: Any = lightjson.loads(_line(host).decode())
    _renew(body["time_ns"], bytes.fromhex(body["seed"]))
    with open(RESCAN, "w") as file:
        file.write("1")
    kernel.mount(tag, FILES, "virtiofs", kernel.MS_NOSUID | kernel.MS_NODEV)
    _in_child(lambda: _show(agent, body["shown"]))
    os.write(host, WOKEN)
    while os.wait()[0] != walls:
        pass


def _start(serial: str, command: list[str]) -> tuple[int, int]:
    """The numbers of what holds the walls, and of the agent inside."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
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


def _renew(time_ns: int, seed: bytes) -> None:
    """What no two machines may have in common: the randomness of their kernels, and the moment."""
    time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)
    with open("/dev/urandom", "wb", buffering=0) as file:
        # struct rand_pool_info: bits, bytes, and these
        fcntl.ioctl(file, RNDADDENTROPY, struct.pack("=ii", len(seed) * 8, len(seed)) + seed)
        fcntl.ioctl(file, RNDRESEEDCRNG)


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


def _in_child(work: Callable[[], None]) -> None:
    """Does something in a process of its own: process 1 shares its root with the kernel's threads,
    and may change to no other (setns(2))."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # it has to end here, whatever it was
            os.write(2, f"{error}\n".encode())
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise OSError("the host's files could not be shown")
