"""What holds the limits of gVisor VMs: control groups around a whole VM, or gVisor's own kernel."""

from __future__ import annotations

from dataclasses import replace

from mulligan.drivers.bubblewrap import holding as outer
from mulligan.drivers.cgroups import Cgroups
from mulligan.drivers.limits import Limits, unasked
from mulligan.models import VmLimit

OWN_MB = 256  # gVisor's kernel and what it keeps of files, beyond what programs may have
OURS = 2  # counted with programs: the agent and the zygote


def of_groups(asked: Limits) -> Limits:
    """What the host holds a whole VM to; gVisor's threads are no processes of programs."""
    memory = asked.memory_mb + OWN_MB if asked.memory_mb else 0
    return replace(asked, memory_mb=memory, max_processes=0)


def holding(asked: Limits, groups: Cgroups) -> dict[str, VmLimit]:
    """What holds each limit, by the names of the fields of ``Limits``."""
    found = outer.holding(asked, groups)
    held = found["memory_mb"]
    if held.held_by not in ("none", "watched"):
        why = (
            f"of the whole VM, with {OWN_MB} MiB more for its own kernel; before that its agent, "
            "which looks again and again, ends the largest program"
        )
        found["memory_mb"] = held.model_copy(update={"reason": why})
    processes = unasked(asked.max_processes)
    if processes is None:
        why = "counted by the VM's own kernel"
        processes = VmLimit(value=asked.max_processes, held_by="rlimit", reason=why)
    found["max_processes"] = processes
    return found


def by_agent(asked: Limits) -> dict[str, object]:
    """What the agent is to see to: the part of the BOOT frame called ``limits``."""
    return {
        "open_files": asked.max_open_files,
        "cpu_seconds": asked.cpu_seconds,
        "processes": asked.max_processes + OURS if asked.max_processes else 0,
        "memory": asked.memory_mb * outer.MIB,
        "memory_told": True,
    }
