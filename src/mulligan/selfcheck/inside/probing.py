"""What probes are made of, and what they have at hand.

Every probe is harmless where there is no wall at all: that is how the control runs it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

MARK = "planted-"
_SECRET = re.compile(MARK.encode() + rb"[0-9a-f]{32}")
MOST = 1024 * 1024  # read of one file, in bytes
PATIENCE_S = 15.0
REFUSALS = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOSYS,
    errno.EAFNOSUPPORT,
    errno.EPROTONOSUPPORT,
)
Seen = tuple[bool, str]


class Probe(NamedTuple):
    """One thing that is tried.

    Attributes:
        id: group and name.
        tried: what is done.
        must: what has to come of it where the walls stand.
        outside: what comes of the same without a VM: "fails" the check; "depends" on the host's
            kernel, settings or user; "passes", so that it says nothing about a VM; "untried".
        run: does it; whether it is as it must be, and what happened.
    """

    id: str
    tried: str
    must: str
    outside: str
    run: Callable[[], Seen]


PROBES: dict[str, Probe] = {}


def probe(
    name: str, tried: str, must: str, outside: str = "fails"
) -> Callable[[Callable[[], Seen]], Callable[[], Seen]]:
    """Registers a function as a probe."""

    def register(run: Callable[[], Seen]) -> Callable[[], Seen]:
        if name in PROBES:
            raise ValueError(f"two probes are called {name}")
        PROBES[name] = Probe(name, tried, must, outside, run)
        return run

    return register


class _Told:
    """What the host said of itself, by name, for probes to compare with."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.leaked = False

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


told = _Told()


# The planted secret. Probes know its digest only, so that nothing finds it in the probe itself.


def look(data: bytes) -> bytes:
    """Searches what was read for the planted secret; a probe that has met it fails."""
    for found in _SECRET.findall(data):
        if hashlib.sha256(found).hexdigest() == told["digest"]:
            told.leaked = True
    return data


def read(path: str | int, most: int = MOST) -> bytes:
    """The beginning of a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if isinstance(path, str) else path
    pieces = []
    try:
        while most > 0:
            piece = os.read(descriptor, min(most, 65536))
            if not piece:
                break
            pieces.append(piece)
            most -= len(piece)
    finally:
        if isinstance(path, str):
            os.close(descriptor)
    return look(b"".join(pieces))


def text(path: str) -> str:
    """The same as text."""
    return read(path).decode(errors="replace")


def names(path: str) -> list[str]:
    """What is in a directory, sorted."""
    found = sorted(os.listdir(path))
    look("\n".join(found).encode(errors="replace"))
    return found


def link(path: str) -> str:
    """Where a symbolic link leads."""
    target = os.readlink(path)
    look(target.encode(errors="replace"))
    return target


# Outcomes


def named(number: int) -> str:
    """An error number as people know it."""
    return errno.errorcode.get(number, str(number))


def shut(work: Callable[[], object]) -> Seen:
    """Whether something raises OSError: then the door is shut, for whatever reason."""
    try:
        result = work()
    except OSError as error:
        return True, named(error.errno) if error.errno else str(error)
    return False, f"it worked: {short(result)}"


def empty(what: list[str]) -> Seen:
    """Whether there is nothing that must not be there."""
    return not what, f"found {short(' '.join(what))}" if what else "nothing"


def short(value: object) -> str:
    """A value, for a table."""
    said = " ".join(str(value).split())
    said = said.replace("\x00", " ")
    return said if len(said) <= 100 else said[:97] + "..."


# System calls that Python has no function for

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
# linux/asm/unistd.h: (x86-64, aarch64)
NUMBERS = {
    "process_vm_readv": (310, 270),
    "kcmp": (312, 272),
    "ptrace": (101, 117),
    "prlimit64": (302, 261),
    "mount": (165, 40),
    "chroot": (161, 51),
    "sethostname": (170, 161),
    "unshare": (272, 97),
    "clone": (56, 220),
    "clone3": (435, 435),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "syslog": (103, 116),
    "fsopen": (430, 430),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "get_robust_list": (274, 100),
    "ioprio_get": (252, 31),
    "setns": (308, 268),
    "fallocate": (285, 47),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "shmctl": (31, 195),
    "semctl": (66, 191),
    "msgctl": (71, 187),
    "personality": (135, 92),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "open_tree": (428, 428),
    "get_mempolicy": (239, 236),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}


def syscall(name: str, *arguments: Any) -> tuple[int, int]:
    """Makes a system call: its result, and its error number if that is -1."""
    column = ("x86_64", "aarch64").index(os.uname().machine)
    given = [
        ctypes.c_long(each)
        if isinstance(each, int)
        else ctypes.c_char_p(each)
        if isinstance(each, bytes)
        else each
        for each in arguments
    ]
    ctypes.set_errno(0)
    result = _LIBC.syscall(ctypes.c_long(NUMBERS[name][column]), *given)
    return result, ctypes.get_errno() if result == -1 else 0


def refused(outcome: tuple[int, int], also: tuple[int, ...] = ()) -> Seen:
    """Whether a call was turned away before the kernel looked at what it asked for."""
    result, number = outcome
    if result != -1:
        return False, f"it worked: {result}"
    return number in REFUSALS + also, named(number)


def in_child(work: Callable[[], Seen]) -> Seen:
    """Does something in a child of its own, whose changes end with it."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _tell(theirs, work)
    os.close(theirs)
    said = _hear(ours, pid)
    return said if said is not None else (False, "the child ended without a word")


# Running them


def _descriptors() -> dict[str, str]:
    """What this program has open, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one of the listing itself
            continue
    return found


def _tell(pipe: int, work: Callable[[], Seen]) -> None:
    """In a child: does something, says what came of it, and ends."""
    try:
        ok, what = work()
    except BaseException as error:
        ok, what = False, f"{type(error).__name__}: {error}"
    if told.leaked:
        ok, what = False, f"the planted secret was read ({what})"
    try:
        os.write(pipe, json.dumps([ok, what[:400]]).encode())
    finally:
        os._exit(0)


def _hear(pipe: int, pid: int) -> Seen | None:
    """What a child says, before long; afterwards it is gone."""
    said = b""
    end = time.monotonic() + PATIENCE_S
    late = False
    try:
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                late = True
                os.kill(pid, signal.SIGKILL)
                break
            piece = os.read(pipe, 4096)
            said += piece
            if not piece or said.endswith(b"]"):
                break
    finally:
        os.close(pipe)
        _, status = os.waitpid(pid, 0)
    if late:
        return False, f"no answer within {PATIENCE_S:g} s"
    if not said:
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no word"
        return False, f"the probe ended with {ended}"
    ok, what = json.loads(said)
    return bool(ok), str(what)


def main(facts: dict[str, Any], wanted: list[str]) -> None:
    """Runs probes one after the other, each in a child; prints a line of JSON for each."""
    told.facts = facts
    told.facts["main"] = os.getpid()
    told.facts["open"] = _descriptors()
    for name in wanted:
        ok, what = in_child(PROBES[name].run)
        # A line of its own each, so that one that is lost takes no other with it.
        os.write(1, (json.dumps([name, ok, what]) + "\n").encode())
