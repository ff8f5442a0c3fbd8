"""The zygote's loop: one datagram is one job, one fork is one program.

Forking takes as long as starting a short program, so the agent may have a spare forked ahead of
time: a child that waits on a connection of its own for the one job it will do.

Only built-in and extension modules are imported here: whatever the zygote has imported, every
program starts with.
"""

from __future__ import annotations

import fcntl  # noqa: F401  (``launch.become`` needs it, and a child would have to load it)
import marshal
import os
import resource
import select
import struct
from _signal import SIG_DFL, SIGCHLD, set_wakeup_fd
from _signal import signal as set_handler
from _socket import AF_UNIX, CMSG_LEN, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket

from mulligan.guest import kernel, launch

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

REQUEST = struct.Struct("=I")
DESCRIPTORS = 16  # at most: job, streams, report, root
REPLY = struct.Struct("=cIiQQQ")  # kind, channel, pid or status, user µs, system µs, max RSS KiB
FORKED = b"F"
ENDED = b"E"
FAILED = b"X"
SERVES = b"S"
SPARE = 3 << 30  # a channel from here on asks for a spare, and comes with its connection alone
LIMITS = range(16)  # RLIM_NLIMITS of asm-generic/resource.h


def serve(descriptor: int, groups: list[int]) -> dict[str, Any]:
    """Serves jobs until the agent is gone; returns only in a child, with its job.

    Args:
        descriptor: of the connection to the agent.
        groups: entries of the control groups programs are born in, by being born here.
    """
    _settle(groups)
    control = socket(AF_UNIX, SOCK_SEQPACKET, 0, descriptor)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    set_handler(SIGCHLD, lambda *_: None)
    set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    control.send(REPLY.pack(SERVES, 0, 0, 0, 0, 0))
    running: dict[int, int] = {}
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(control, running)
        if descriptor not in ready:
            continue
        channel, descriptors = _receive(control)
        try:
            pid = os.fork()
        except OSError as error:
            if channel < SPARE:
                os.write(descriptors[-2], f"error fork: {error.strerror}".encode())
            control.send(REPLY.pack(FAILED, channel, 0, 0, 0, 0))
            pid = -1
        if pid == 0:
            set_wakeup_fd(-1)
            set_handler(SIGCHLD, SIG_DFL)
            for unused in (control.detach(), wake_read, wake_write):
                os.close(unused)
            return _become(descriptors if channel < SPARE else _wait(*descriptors))
        for received in descriptors:
            os.close(received)
        if pid > 0:
            running[pid] = channel
            control.send(REPLY.pack(FORKED, channel, pid, 0, 0, 0))


def _settle(groups: list[int]) -> None:
    """Takes this process to where programs are to be."""
    launch.join(groups)
    for entry in groups:
        os.close(entry)
    if groups:
        kernel.unshare(kernel.CLONE_NEWCGROUP)  # whose names are nobody's business
    kernel.set_dumpable(False)


def _receive(control: socket) -> tuple[int, list[int]]:
    """The next job's channel and descriptors; ends the zygote when there is no agent any more."""
    data, ancillary, _, _ = control.recvmsg(REQUEST.size, CMSG_LEN(DESCRIPTORS * 4))
    if not data:
        os._exit(0)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            descriptors += memoryview(content).cast("i").tolist()
    (channel,) = REQUEST.unpack(data)
    return channel, descriptors


def _wait(descriptor: int) -> list[int]:
    """In a spare: the descriptors of its job, when it has come; ends where none will."""
    connection = socket(AF_UNIX, SOCK_SEQPACKET, 0, descriptor)
    before = _held_to()
    _, descriptors = _receive(connection)
    connection.close()
    if _held_to() != before:
        why = OSError("a program changed what this one was to be held to; it can be run again")
        launch.refuse(descriptors[-2], why)
    return descriptors


def _held_to() -> tuple[object, ...]:
    """What a program of the same user can change of a process that waits, and nobody undo.

    Signals end it or are undone; of scheduling Linux keeps away who has fewer rights, and gVisor
    nobody.
    """
    limits = [resource.getrlimit(each) for each in LIMITS]
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    return limits, priority, os.sched_getscheduler(0), os.sched_getaffinity(0)


def _reap(control: socket, running: dict[int, int]) -> None:
    """Tells the agent of every child that has ended."""
    while running:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid == 0:
            return
        channel = running.pop(pid)
        user, system = int(usage.ru_utime * 1e6), int(usage.ru_stime * 1e6)
        control.send(REPLY.pack(ENDED, channel, status, user, system, usage.ru_maxrss))


def _become(descriptors: list[int]) -> dict[str, Any]:
    """In the child: reads the job, enters its root, and takes its streams.

    Returns its job where it goes on in this interpreter; else it becomes another program.
    """
    memory, *others = descriptors
    *streams, report, root = others
    try:
        job: dict[str, Any] = marshal.loads(os.pread(memory, os.fstat(memory).st_size, 0))
        if not job["zygote"]:
            launch.become(job, others, [])
        launch.enter(job, root, report)
        for target, descriptor in zip(job["places"], streams, strict=True):
            os.dup2(descriptor, target, inheritable=True)
        for descriptor in (memory, *streams, root):
            os.close(descriptor)
        launch.ordinary()
        os.close(report)
        return job
    except BaseException as error:
        launch.refuse(report, error)
        raise
