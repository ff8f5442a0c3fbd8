"""Doors into the kernel that namespaces leave open."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import socket
import termios
from typing import Any

from mulligan.selfcheck.inside.probing import (
    Seen,
    empty,
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
from mulligan.selfcheck.inside.processes import vm_read

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
    (
        "name_to_handle_at",
        (-100, b".", 0, 0, 0),
        "ask for its directory's handle",
        "fails",
    ),
    ("open_tree", (-100, b".", 0), "open its own directory as a tree", "fails"),
    ("get_mempolicy", (0, 0, 0, 0, 0), "ask for its NUMA policy", "depends"),
    ("fanotify_init", (0x80000000, 0), "watch files, with a flag there is not", "depends"),
    ("kcmp", (0, 0, 1, 0, 0), "compare itself with itself", "depends"),
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


def _said(paths: tuple[str, ...]) -> Seen:
    """Those of some files that open and have something in them."""
    found = []
    for path in paths:
        try:
            if read(path, 512):
                found.append(path)
        except OSError:
            continue
    return empty(found)


@probe("kernel.kernel_log", "read of /dev/kmsg and /proc/kmsg", "nothing in them", "depends")
def kernel_log() -> Seen:
    return _said(("/dev/kmsg", "/proc/kmsg"))


@probe(
    "kernel.memory_images",
    "read of /proc/kcore, /dev/mem and /proc/kpagecount",
    "nothing in them",
    "passes",
)
def memory_images() -> Seen:
    return _said(("/proc/kcore", "/dev/mem", "/proc/kpagecount"))


@probe(
    "kernel.hardware",
    "read of /proc/interrupts, /proc/modules, /proc/iomem, /proc/ioports and /proc/mtrr",
    "nothing in them",
)
def hardware() -> Seen:
    return _said(
        ("/proc/interrupts", "/proc/modules", "/proc/iomem", "/proc/ioports", "/proc/mtrr")
    )


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


@probe("kernel.personality", "make its memory executable when read (in a child)", "refused")
def personality() -> Seen:
    return refused(syscall("personality", 0x0400000))  # READ_IMPLIES_EXEC


@probe("kernel.own_memory", "process_vm_readv of its own memory", "refused")
def own_memory() -> Seen:
    return refused(vm_read(os.getpid()))


@probe("kernel.own_child", "attach (ptrace) to a child of its own", "refused", "depends")
def own_child() -> Seen:
    hold, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(let_go)
        os.read(hold, 1)
        os._exit(0)
    try:
        return refused(syscall("ptrace", 0x4206, pid, 0, 0))  # PTRACE_SEIZE
    finally:
        os.close(let_go)
        os.waitpid(pid, 0)


@probe(
    "kernel.typed_ahead",
    "put a character into the input of a terminal of its own (TIOCSTI), in a child",
    "refused",
    "depends",
)
def typed_ahead() -> Seen:
    return in_child(_typed)


def _typed() -> Seen:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which the end of the terminal sends
    ours, theirs = os.openpty()
    try:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        return shut(lambda: fcntl.ioctl(theirs, termios.TIOCSTI, b"x"))
    finally:
        os.close(theirs)
        os.close(ours)
