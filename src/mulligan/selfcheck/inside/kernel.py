"""Doors into the kernel that namespaces leave open."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
from typing import Any

from mulligan.selfcheck.inside.probing import (
    Seen,
    in_child,
    named,
    names,
    probe,
    read,
    refused,
    shut,
    syscall,
    text,
)

BAD = -1
_NOTHING = b"\0" * 128
# name, arguments that a kernel which gets to look at them turns down or that do nothing, words
CALLS: tuple[tuple[str, tuple[Any, ...], str, str], ...] = (
    ("keyctl", (0, -3, 0), "ask for the number of the session keyring", "fails"),
    (
        "add_key",
        (b"user", b"mulligan-selfcheck", b"x", 1, -2),
        "add a key to the process's own keyring",
        "fails",
    ),
    (
        "request_key",
        (b"user", b"mulligan-no-such-key", 0, 0),
        "ask for a key there is not",
        "fails",
    ),
    ("io_uring_setup", (1, 0), "make an io_uring, with no place for its parameters", "depends"),
    ("io_uring_enter", (BAD, 0, 0, 0, 0), "enter an io_uring that is none", "depends"),
    ("io_uring_register", (BAD, 0, 0, 0), "register with an io_uring that is none", "depends"),
    ("bpf", (1, b"\xff\xff\xff\xff" + _NOTHING, 32), "look into a BPF map that is none", "depends"),
    (
        "perf_event_open",
        (0, 0, -1, -1, 0),
        "open a performance event without saying which",
        "fails",
    ),
    ("userfaultfd", (0x40000001,), "make a userfaultfd, with a flag there is not", "fails"),
    ("syslog", (10, 0, 0), "ask how large the kernel's log is", "depends"),
)


def _register_calls() -> None:
    for name, arguments, what, outside in CALLS:

        def run(name: str = name, arguments: tuple[Any, ...] = arguments) -> Seen:
            return refused(syscall(name, *arguments))

        probe(f"kernel.{name}", f"{name}: {what}", "refused before it is looked at", outside)(run)


_register_calls()

# linux/socket.h
FAMILIES = {
    "packet": (17, socket.SOCK_DGRAM, "passes"),
    "alg": (38, socket.SOCK_SEQPACKET, "depends"),
    "vsock": (40, socket.SOCK_STREAM, "depends"),
    "bluetooth": (31, socket.SOCK_RAW, "depends"),
    "can": (29, socket.SOCK_RAW, "depends"),
    "tipc": (30, socket.SOCK_DGRAM, "depends"),
    "rds": (21, socket.SOCK_SEQPACKET, "depends"),
    "smc": (43, socket.SOCK_STREAM, "depends"),
    "qipcrtr": (42, socket.SOCK_DGRAM, "depends"),
    "xdp": (44, socket.SOCK_RAW, "passes"),
    "kcm": (41, socket.SOCK_DGRAM, "depends"),
}


def _register_families() -> None:
    for name, (number, kind, outside) in FAMILIES.items():

        def run(number: int = number, kind: int = kind) -> Seen:
            return shut(lambda: socket.socket(number, kind, 0).close())

        probe(
            f"kernel.socket_{name}",
            f"make a socket of family {name} ({number})",
            "refused: no network namespace confines it, or it is code nobody needs",
            outside,
        )(run)


_register_families()


@probe("kernel.seccomp", "read the mode in /proc/self/status", "a filter is in force", "depends")
def seccomp() -> Seen:
    mode = _status("Seccomp")
    return mode == "2", f"mode {mode}"


@probe("kernel.no_new_privs", "read NoNewPrivs in /proc/self/status", "1", "depends")
def no_new_privs() -> Seen:
    value = _status("NoNewPrivs")
    return value == "1", value


def _status(name: str) -> str:
    for line in text("/proc/self/status").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return "not there"


@probe(
    "kernel.other_numbers",
    "getpid by the numbers of 32-bit x86 (int 0x80), in a child",
    "the child is ended, or there is no such way",
    "depends",
)
def other_numbers() -> Seen:
    if os.uname().machine != "x86_64":
        return True, "this machine has no second table of numbers for its programs"
    # mov eax, 20; int 0x80; ret
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"
    pid = os.fork()
    if pid == 0:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        os._exit(0 if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid() else 1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True, f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    worked = os.WEXITSTATUS(status) == 0
    return not worked, "it answered" if worked else "no answer"


@probe(
    "kernel.x32_numbers",
    "getpid by its x32 number",
    "refused",
    "depends",
)
def x32_numbers() -> Seen:
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(0x40000000 | 39))
    return result == -1, named(ctypes.get_errno()) if result == -1 else "it answered"


SILENT = {
    "cmdline": ("how the host's kernel was started", "depends"),
    "kallsyms": ("names and addresses of the kernel", "depends"),
    "config.gz": ("how the kernel was built", "depends"),
    "keys": ("keys of this user", "depends"),
    "key-users": ("who has keys", "depends"),
}


def _register_silent() -> None:
    for name, (what, outside) in SILENT.items():

        def run(path: str = f"/proc/{name}") -> Seen:
            try:
                size = len(read(path))
            except OSError as error:
                return True, named(error.errno or 0)
            return size == 0, f"{size} bytes"

        label = name.replace(".", "_").replace("-", "_")
        probe(f"kernel.proc_{label}", f"read /proc/{name}: {what}", "nothing in it", outside)(run)


_register_silent()

ABSENT = {
    "/sys/kernel": "fails",
    "/sys/class": "fails",
    "/sys/devices": "fails",
    "/sys/module": "depends",
    "/sys/fs/cgroup": "depends",
    "/sys/firmware": "depends",
    "/sys/block": "depends",
    "/sys/bus": "fails",
}


def _register_absent() -> None:
    for path, outside in ABSENT.items():

        def run(path: str = path) -> Seen:
            return shut(lambda: names(path))

        label = path.strip("/").replace("/", "_")
        probe(f"kernel.{label}", f"list {path}", "it is not there", outside)(run)


_register_absent()


@probe(
    "kernel.kernel_log",
    "open /dev/kmsg and /proc/kmsg for reading",
    "neither opens",
    "depends",
)
def kernel_log() -> Seen:
    opened = []
    for path in ("/dev/kmsg", "/proc/kmsg"):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            continue
        opened.append(path)
    return not opened, f"opened {' '.join(opened)}" if opened else "neither"


@probe(
    "kernel.memory_images",
    "open /proc/kcore, /dev/mem and /proc/kpagecount for reading",
    "none opens",
    "passes",
)
def memory_images() -> Seen:
    opened = []
    for path in ("/proc/kcore", "/dev/mem", "/proc/kpagecount"):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            continue
        opened.append(path)
    return not opened, f"opened {' '.join(opened)}" if opened else "none"


@probe(
    "kernel.preallocation",
    "fallocate 1 MiB for a file of its own, then remove it",
    "refused: it would take any amount of disk before anybody can look",
)
def preallocation() -> Seen:
    name = f"fallocate-{os.getpid()}"
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        result, number = syscall("fallocate", descriptor, 0, 0, 1024 * 1024)
        return result == -1, named(number) if result == -1 else "it worked"
    finally:
        os.close(descriptor)
        os.unlink(name)


@probe(
    "kernel.hostname",
    "set the host name to what it is (in a child)",
    "refused",
    "passes",
)
def set_hostname() -> Seen:
    name = os.uname().nodename.encode()
    return in_child(lambda: refused(syscall("sethostname", name, len(name))))
