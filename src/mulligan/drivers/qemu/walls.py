"""The filter of system calls of microVMs: that of every VM, and no hard links.

Linux 6.1 looks after an overlay whose upper layer is a remote file system, as virtiofs is, by the
name each file was first found under (``ovl_revalidate_real`` in fs/overlayfs/super.c). Once a file
with two names has lost that one the other may answer ESTALE. What cannot be relied on is refused
where it is asked for: programs such as git then do without, as on other file systems.
"""

from __future__ import annotations

import errno
import os

from mulligan.drivers.bubblewrap import seccomp
from mulligan.guest import bpf

LINKING = ("link", "linkat")


def program() -> bytes:
    """The filter, as ``bwrap --seccomp`` reads it."""
    machine = os.uname().machine
    numbers = seccomp.numbers(machine)
    code = [bpf.load(bpf.NUMBER)]
    for name in LINKING:
        if name in numbers:
            code += [bpf.if_equal(numbers[name], otherwise=1), bpf.refuse(errno.EPERM)]
    return b"".join(code) + seccomp.program(machine)
