"""The filter of system calls of a VM: an allow-list, for the agent and everything it starts.

What is answered how is data: ``syscalls.toml`` has every call in a group with a reason,
``syscall_numbers.json`` the numbers. This module adds the few calls that are judged by their
arguments, and makes a program of it as seccomp(2) takes it. Programs get a second, smaller filter
on top (``guest.filters``), which the agent's own calls cannot pass.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import tomllib
from collections.abc import Callable
from importlib.resources import files

from mulligan.errors import ConfigError
from mulligan.guest import bpf
from mulligan.guest.bpf import ARGUMENTS, if_any_of, if_equal, load

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
X32 = 0x40000000

# Addresses a program may make sockets for: Unix, IPv4, IPv6 and netlink are confined by the network
# namespace; others, such as vsock, are not, or are old code nobody needs.
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
FAMILIES = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)
# ip, tcp, udp: not SCTP, DCCP, MPTCP and whatever else a kernel would load for it. Nor ICMP, which
# Linux gives to no user of a VM anyway, and gVisor to everybody.
PROTOCOLS = (0, 6, 17)
STREAM, DATAGRAM, RAW = 1, 2, 3
TYPES = (STREAM, DATAGRAM, RAW)
TYPE_MASK = 0xF  # the rest are flags
NETLINK_ROUTE = 0

CLONE_NEWNS, CLONE_NEWCGROUP = 0x00020000, 0x02000000
# CLONE_NEW* of clone(2), and CLONE_PARENT, which would give the zygote children it knows nothing of
CLONE_REFUSED = 0x7E020000 | 0x8000
# PER_LINUX, UNAME26, and the question; not ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC or others' ABIs
PERSONALITIES = (0, 0x20000, 0xFFFFFFFF)
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # typing into a terminal that somebody else reads
KEYCTL_JOIN_SESSION_KEYRING = 1
# FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE
FREEING_MODES = (0x03, 0x08, 0x20)


@functools.cache
def groups() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """The groups of ``syscalls.toml``: name to answer, reason, and calls."""
    table = tomllib.loads(files(__package__).joinpath("syscalls.toml").read_text())
    return {
        name: (group["answer"], " ".join(group["why"].split()), tuple(group["calls"].split()))
        for name, group in table.items()
    }


@functools.cache
def numbers(machine: str) -> dict[str, int]:
    """The numbers of a machine's system calls by name.

    Args:
        machine: as ``os.uname().machine`` has it.

    Raises:
        ConfigError: there is no table for it.
    """
    table = json.loads(files(__package__).joinpath("syscall_numbers.json").read_text())
    if machine not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"no system call filter for {machine}; there is one for {known}")
    found: dict[str, int] = table[machine]
    return found


@functools.cache
def program(machine: str) -> bytes:
    """The filter for a machine, as ``bwrap --seccomp`` reads it.

    Raises:
        ConfigError: there is no table for it.
    """
    by_name = numbers(machine)
    answers = {}
    for answer, _, calls in groups().values():
        for name in calls:
            if name in by_name:
                answers[by_name[name]] = _code(answer, name)
    code = [
        load(bpf.ARCH),
        if_equal(ARCHITECTURES[machine], then=1),
        bpf.give(bpf.KILL),  # a call by another architecture's numbers
        load(bpf.NUMBER),
    ]
    if machine == "x86_64":
        code += [bpf.if_at_least(X32, otherwise=1), bpf.refuse(errno.ENOSYS)]
    return b"".join([*code, *bpf.search(_cases(answers))])


def _cases(answers: dict[int, list[bytes]]) -> list[tuple[int, list[bytes]]]:
    """Runs of numbers with one answer; what has none is unknown."""
    unknown = [bpf.refuse(errno.ENOSYS)]
    cases: list[tuple[int, list[bytes]]] = []
    for number in range(max(answers) + 2):
        code = answers.get(number, unknown)
        if not cases or cases[-1][1] != code:
            cases.append((number, code))
    return cases


def _code(answer: str, name: str) -> list[bytes]:
    if answer == "arguments":
        return _BY_ARGUMENTS[name]()
    return [bpf.give(bpf.ALLOW) if answer == "allow" else bpf.refuse(getattr(errno, answer))]


def _clone() -> list[bytes]:
    refused = if_any_of(CLONE_REFUSED, otherwise=1)
    return [load(ARGUMENTS[0]), refused, bpf.refuse(errno.EPERM), bpf.give(bpf.ALLOW)]


def _fallocate() -> list[bytes]:
    """Refuses what takes any amount of disk in no time, before anybody can look (``guest.quota``).

    Answered as by file systems that cannot: the C library's posix_fallocate then writes. What only
    gives back or moves blocks is allowed.
    """
    return [load(ARGUMENTS[1]), *bpf.only(FREEING_MODES, errno.EOPNOTSUPP)]


def _socket() -> list[bytes]:
    protocol = [load(ARGUMENTS[2]), *bpf.only(PROTOCOLS, errno.EPROTONOSUPPORT)]
    internet = [load(ARGUMENTS[1]), bpf.keep(TYPE_MASK)]
    for number, kind in enumerate(TYPES, 1):
        internet.append(if_equal(kind, then=len(TYPES) - number + 1))
    internet += [bpf.refuse(errno.ESOCKTNOSUPPORT), *protocol]
    netlink = [load(ARGUMENTS[2]), *bpf.only((NETLINK_ROUTE,), errno.EPROTONOSUPPORT)]
    return [
        load(ARGUMENTS[0]),
        if_equal(AF_UNIX, otherwise=1),
        bpf.give(bpf.ALLOW),
        if_equal(AF_NETLINK, otherwise=len(netlink)),
        *netlink,
        if_equal(AF_INET, then=2),
        if_equal(AF_INET6, then=1),
        bpf.refuse(errno.EAFNOSUPPORT),
        *internet,
    ]


# The agent leaves the server's keyring for a new one and moves between mount namespaces; the zygote
# hides the names of its control groups.
_BY_ARGUMENTS: dict[str, Callable[[], list[bytes]]] = {
    "clone": _clone,
    "fallocate": _fallocate,
    "ioctl": lambda: [load(ARGUMENTS[1]), *bpf.but((TIOCSTI, TIOCLINUX), errno.EPERM)],
    "keyctl": lambda: [load(ARGUMENTS[0]), *bpf.only((KEYCTL_JOIN_SESSION_KEYRING,), errno.EPERM)],
    "personality": lambda: [load(ARGUMENTS[0]), *bpf.only(PERSONALITIES, errno.EPERM)],
    "setns": lambda: [load(ARGUMENTS[1]), *bpf.only((CLONE_NEWNS,), errno.EPERM)],
    "socket": _socket,
    "socketpair": lambda: [load(ARGUMENTS[0]), *bpf.only((AF_UNIX,), errno.EAFNOSUPPORT)],
    "unshare": lambda: [load(ARGUMENTS[0]), *bpf.only((CLONE_NEWNS, CLONE_NEWCGROUP), errno.EPERM)],
}


def descriptor() -> int:
    """A new descriptor from which this machine's filter can be read; the caller closes it."""
    memory = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(memory, program(os.uname().machine))
    os.lseek(memory, 0, os.SEEK_SET)
    return memory
