"""The filter of system calls of what shows a microVM its files: no hard links.

Linux 6.1 looks after an overlay whose upper layer is a remote file system, as virtiofs is, by the
name each file was first found under (``ovl_revalidate_real`` in fs/overlayfs/super.c). Once a file
with two names has lost that one the other may answer ESTALE. What cannot be relied on is refused
where it is asked for: programs such as git then do without, as on other file systems. What is in
the guest's own memory, such as /dev/shm with its semaphores, is not asked for here.
"""

from __future__ import annotations

import errno
import os

from mulligan.drivers.bubblewrap import seccomp
from mulligan.guest import bpf

LINKING = ("link", "linkat")


def program() -> bytes:
    """The filter, as ``bwrap --seccomp`` reads it; virtiofsd has one of its own besides."""
    numbers = seccomp.numbers(os.uname().machine)
    found = tuple(numbers[name] for name in LINKING if name in numbers)
    return b"".join([bpf.load(bpf.NUMBER), *bpf.but(found, errno.EPERM)])
