"""Landlock, where the kernel has it: a second layer that does not rest on user or rights.

Numbers and layouts are those of linux/landlock.h; what an ABI version brought is in the kernel's
userspace-api/landlock documentation. A program that enters a domain cannot look into processes
outside it, whatever their user: another execution's environment and memory, the zygote, the agent.
It makes no device files, uses no device but those of /dev, and could not mount anything even if it
came by the right to.

What it could do and is not used for, because programs need it: a VM's whole disk is the program's
to write to, and what is not is mounted read-only; servers and their clients meet on the VM's
loopback, which leads nowhere; and a later execution may end what an earlier one left running,
which a scope of signals would not let it.
"""

import os
import struct
from errno import ENOSYS, EOPNOTSUPP, EPERM

from mulligan.guest import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # one number everywhere
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
MAKE_CHAR, MAKE_BLOCK, REFER, IOCTL_DEV = 1 << 6, 1 << 11, 1 << 13, 1 << 15
SCOPE_ABSTRACT_UNIX_SOCKET = 1
# The first versions that can be used: without REFER nothing may be moved between directories.
ABI_FILES, ABI_IOCTL, ABI_SCOPE = 2, 5, 6


def version() -> int:
    """The kernel's version of the Landlock ABI; 0 where it has none, or nobody may use it here.

    Raises:
        OSError: it would not say.
    """
    try:
        return kernel.syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError as error:
        if error.errno in (ENOSYS, EOPNOTSUPP, EPERM):
            return 0
        raise


def restrict(abi: int, *, moves: bool) -> bool:
    """Has this process, and all it starts, enter a domain of its own; false where there is none.

    Args:
        abi: what ``version`` returned.
        moves: whether it may be moved to another root: rules are about files of one root, so such
            a process gets what needs no rule.

    Raises:
        OSError: it could not, on a kernel of that version.
    """
    if abi < (ABI_SCOPE if moves else ABI_FILES):
        return False
    if moves:
        attributes = struct.pack("=QQQ", 0, 0, SCOPE_ABSTRACT_UNIX_SOCKET)
        rules: tuple[tuple[str, int], ...] = ()
    else:
        devices = IOCTL_DEV if abi >= ABI_IOCTL else 0
        attributes = struct.pack("=Q", MAKE_CHAR | MAKE_BLOCK | REFER | devices)
        rules = (("/", REFER), ("/dev", REFER | devices))
    ruleset = kernel.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights)
        kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, path: str, rights: int) -> None:
    directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, directory)
        kernel.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(directory)
