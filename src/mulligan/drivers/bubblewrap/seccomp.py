"""A filter of system calls for VMs: what namespaces do not confine, refused.

A deny-list for doors that lead past the namespaces or deep into the kernel and that no program of
a code runner needs; it is no allow-list and does not claim to keep kernel bugs out of reach. The
program is classic BPF as seccomp(2) takes it (linux/filter.h, linux/seccomp.h), built here because
it is a table and a handful of instructions. Call numbers are those of the kernel's syscall tables.
"""

from __future__ import annotations

import errno
import os
import struct

from mulligan.errors import ConfigError

# machine: (AUDIT_ARCH, numbers of the refused calls, numbers of socket, keyctl and fallocate)
_NEW = {  # the same everywhere
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
}
ARCHITECTURES: dict[str, tuple[int, dict[str, int], tuple[int, int, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "add_key": 248,
            "request_key": 249,
            "perf_event_open": 298,
            "bpf": 321,
            "userfaultfd": 323,
        }
        | _NEW,
        (41, 250, 285),
    ),
    "aarch64": (
        0xC00000B7,
        {
            "add_key": 217,
            "request_key": 218,
            "perf_event_open": 241,
            "bpf": 280,
            "userfaultfd": 282,
        }
        | _NEW,
        (198, 219, 47),
    ),
}
# Addresses a program may make sockets for: Unix, IPv4, IPv6 and netlink are confined by the network
# namespace; others, such as vsock, are not, or are old code nobody needs.
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL = 0x80000000
# offsets in struct seccomp_data (little-endian)
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_X32 = 0x40000000
_KEYCTL_JOIN_SESSION_KEYRING = 1
# FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE
_FREEING_MODES = (0x03, 0x08, 0x20)


def program(machine: str) -> bytes:
    """The filter for a machine, as ``bwrap --seccomp`` reads it.

    Args:
        machine: as ``os.uname().machine`` has it.

    Raises:
        ConfigError: there is no table for it.
    """
    try:
        arch, refused, (socket, keyctl, fallocate) = ARCHITECTURES[machine]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(
            f"no system call filter for {machine}; there is one for {known}"
        ) from None
    code = [
        _instruction(_LOAD, _ARCH),
        _instruction(_IF_EQUAL, arch, then=1),
        _instruction(_RETURN, _KILL),  # a call by another architecture's numbers
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        code += [_instruction(_IF_AT_LEAST, _X32, otherwise=1), _refuse(errno.ENOSYS)]
    for name, number in refused.items():
        # Libraries do without io_uring where it is not known.
        why = errno.ENOSYS if name.startswith("io_uring") else errno.EPERM
        code += [_instruction(_IF_EQUAL, number, otherwise=1), _refuse(why)]
    code += [
        # The agent leaves the server's keyring for a new one; nothing else is done with any.
        _instruction(_IF_EQUAL, keyctl, otherwise=4),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_IF_EQUAL, _KEYCTL_JOIN_SESSION_KEYRING, otherwise=1),
        _instruction(_RETURN, _ALLOW),
        _refuse(errno.EPERM),
        *_no_preallocation(fallocate),
        _instruction(_IF_EQUAL, socket, then=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_LOAD, _FIRST_ARGUMENT),
    ]
    for family in FAMILIES.values():
        code += [_instruction(_IF_EQUAL, family, otherwise=1), _instruction(_RETURN, _ALLOW)]
    code.append(_refuse(errno.EAFNOSUPPORT))
    return b"".join(code)


def _no_preallocation(fallocate: int) -> list[bytes]:
    """Refuses what takes any amount of disk in no time, before anybody can look (``guest.quota``).

    Answered as by file systems that cannot: the C library's posix_fallocate then writes. What only
    gives back or moves blocks is allowed.
    """
    code = [_instruction(_LOAD, _SECOND_ARGUMENT)]
    for mode in _FREEING_MODES:
        code += [_instruction(_IF_EQUAL, mode, otherwise=1), _instruction(_RETURN, _ALLOW)]
    code.append(_refuse(errno.EOPNOTSUPP))
    return [_instruction(_IF_EQUAL, fallocate, otherwise=len(code)), *code]


def descriptor() -> int:
    """A new descriptor from which this machine's filter can be read; the caller closes it."""
    memory = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(memory, program(os.uname().machine))
    os.lseek(memory, 0, os.SEEK_SET)
    return memory


def _instruction(code: int, operand: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, operand)


def _refuse(number: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | number)
