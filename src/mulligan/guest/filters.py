"""The filter of system calls that a program gets on top of its VM's.

The VM's filter (``drivers``) lets the agent do its work: mount roots, enter them. This one shuts
those doors behind every program, and keeps it from acting upon process 1 and the zygote, whose
user it shares: a limit or a priority set for the zygote would be one for every later program, and
no rollback would take it back. Numbers are those of the kernel's tables; a test compares them with
the driver's.
"""

from __future__ import annotations

from errno import EACCES, EPERM

from mulligan.guest.bpf import (
    ALLOW,
    ARGUMENTS,
    NUMBER,
    but,
    give,
    if_at_least,
    if_equal,
    load,
    refuse,
    search,
)

# name: (number on x86-64, number on aarch64)
CALLS = {
    "ioctl": (16, 29),
    "kill": (62, 129),
    "fcntl": (72, 25),
    "rt_sigqueueinfo": (129, 138),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "tkill": (200, 130),
    "sched_setaffinity": (203, 122),
    "tgkill": (234, 131),
    "keyctl": (250, 219),
    "ioprio_set": (251, 30),
    "unshare": (272, 97),
    "rt_tgsigqueueinfo": (297, 240),
    "prlimit64": (302, 261),
    "setns": (308, 268),
    "sched_setattr": (314, 274),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "pidfd_open": (434, 434),
}
MACHINES = ("x86_64", "aarch64")
# What only the agent may do.
AGENTS = ("pivot_root", "mount", "umount2", "keyctl", "unshare", "setns", "open_tree", "move_mount")
# The first argument is the process that it is done to.
BY_NUMBER = (
    "rt_sigqueueinfo",
    "sched_setparam",
    "sched_setscheduler",
    "sched_setaffinity",
    "sched_setattr",
    "tkill",
    "tgkill",
    "rt_tgsigqueueinfo",
    "prlimit64",
    "pidfd_open",
)
EVERYBODY = -1  # for kill(2)
NEGATIVE = 1 << 31  # and more is a negative int
# Who gets signals of a descriptor: fcntl's F_SETOWN and F_SETOWN_EX, and the ioctls FIOSETOWN and
# SIOCSPGRP. What is behind a pointer no filter can see.
F_SETOWN, F_SETOWN_EX = 8, 15
FIOSETOWN, SIOCSPGRP = 0x8901, 0x8902


def program(machine: str, protected: tuple[int, ...]) -> bytes:
    """The filter for programs, as seccomp(2) takes it; it is entered with the VM's in place.

    Args:
        machine: as ``os.uname().machine`` has it, one of ``MACHINES``.
        protected: numbers of the processes no program may act upon.
    """
    column = MACHINES.index(machine)
    codes = {name: [refuse(EPERM)] for name in AGENTS}
    codes |= {name: [load(ARGUMENTS[0]), *but(protected, EPERM)] for name in BY_NUMBER}
    codes["kill"] = [load(ARGUMENTS[0]), *but((*protected, EVERYBODY), EPERM)]
    codes["setpriority"] = [*_not_above(), *_priority(0, protected)]
    codes["ioprio_set"] = _priority(1, protected)
    codes["ioctl"] = [load(ARGUMENTS[1]), *but((FIOSETOWN, SIOCSPGRP), EPERM)]
    codes["fcntl"] = _owner(protected)
    cases = [(0, [give(ALLOW)])]
    for name, numbers in sorted(CALLS.items(), key=lambda item: item[1][column]):
        number = numbers[column]
        if cases[-1][0] == number:
            cases.pop()
        cases += [(number, codes[name]), (number + 1, [give(ALLOW)])]
    return b"".join([load(NUMBER), *search(cases)])


def _priority(process: int, protected: tuple[int, ...]) -> list[bytes]:
    """Of setpriority(2) and ioprio_set(2): a process by number, or one's own group."""
    one = [load(ARGUMENTS[1]), *but(protected, EPERM)]
    own_group = [load(ARGUMENTS[1]), if_equal(0, otherwise=1), give(ALLOW)]
    return [
        load(ARGUMENTS[0]),
        if_equal(process, otherwise=len(one)),
        *one,
        if_equal(process + 1, otherwise=len(own_group)),
        *own_group,
        refuse(EPERM),
    ]


def _not_above() -> list[bytes]:
    """Of setpriority(2): a priority above the usual, which gVisor would give anybody."""
    return [load(ARGUMENTS[2]), if_at_least(NEGATIVE, otherwise=1), refuse(EACCES)]


def _owner(protected: tuple[int, ...]) -> list[bytes]:
    """Of fcntl(2): who gets a descriptor's signals; a negative number is a group's."""
    both = (*protected, *(-number for number in protected))
    owner = [load(ARGUMENTS[2]), *but(both, EPERM)]
    return [
        load(ARGUMENTS[1]),
        if_equal(F_SETOWN, otherwise=len(owner)),
        *owner,
        if_equal(F_SETOWN_EX, otherwise=1),
        refuse(EPERM),
        give(ALLOW),
    ]
