"""What a VM may take of its host, and what holds it to that."""

from __future__ import annotations

from pydantic import StrictStr

from mulligan.models.base import F64, Struct


class VmLimit(Struct):
    """One limit of a VM.

    ``value`` is what its type or its maker asked for, in the unit of the limit's name; 0: no limit
    was asked for, and ``held_by`` is "none" without a ``reason``. ``held_by`` is one of:

    - "cgroup-v2", "cgroup-v1": the kernel, for the VM as a whole;
    - "rlimit": the kernel, for each process (``max_processes``: for the VM);
    - "mount": the size of a file system;
    - "machine": the size of the VM's own machine, where it has one;
    - "agent": the VM's agent, which looks again and again and ends what is over;
    - "watched": the same, for want of a cgroup;
    - "none": nothing.

    ``reason`` says why nothing holds it, or how it is held less well than by a cgroup.
    """

    value: F64
    held_by: StrictStr
    reason: StrictStr | None = None
