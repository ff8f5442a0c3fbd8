"""What holds the limits of bubblewrap VMs on this host: control groups, else what else there is."""

from __future__ import annotations

import os
import platform
import re
import resource

from mulligan.drivers.cgroups import Cgroups
from mulligan.drivers.limits import WATCHED_BY, Limits, unasked
from mulligan.models import VmLimit

# Since then processes are counted for each user namespace: "ucounts: Count rlimits in each user
# namespace", Linux 5.14. Before, all VMs of a server were counted together.
NPROC_BY_NAMESPACE = (5, 14)
OURS = 2  # counted with programs: the agent and the zygote
MIB = 1024 * 1024
WATCHED = "the VM's agent looks again and again; between two looks more can be taken"
EACH = "of each process, not of the VM"
CONTROLLER = {
    "memory_mb": "memory",
    "vcpus": "cpu",
    "cpu_weight": "cpu",
    "max_processes": "pids",
}


def holding(asked: Limits, groups: Cgroups) -> dict[str, VmLimit]:
    """What holds each limit, by the names of the fields of ``Limits``."""
    found = {name: _held(name, getattr(asked, name), groups) for name in CONTROLLER}
    found["max_open_files"] = _rlimit(asked.max_open_files, resource.RLIMIT_NOFILE)
    found["cpu_seconds"] = _rlimit(asked.cpu_seconds, resource.RLIMIT_CPU)
    found["shm_mb"] = VmLimit(value=asked.shm_mb, held_by="mount")
    return found


def by_agent(asked: Limits, groups: Cgroups) -> dict[str, object]:
    """What the agent is to see to: the part of the BOOT frame called ``limits``."""
    most = asked.max_processes + OURS if asked.max_processes else 0
    return {
        "open_files": asked.max_open_files,
        "cpu_seconds": asked.cpu_seconds,
        "processes": most if not groups.version("pids") and _counts() else 0,
        "memory": 0 if groups.version("memory") else asked.memory_mb * MIB,
    }


def _held(name: str, value: float, groups: Cgroups) -> VmLimit:
    controller = CONTROLLER[name]
    version = groups.version(controller)
    if (nothing := unasked(value)) is not None:
        return nothing
    if version is not None:
        return VmLimit(value=value, held_by=f"cgroup-v{version}")
    why = groups.missing[controller]
    if name == "max_processes" and _counts():
        return VmLimit(value=value, held_by="rlimit", reason=f"counted by user namespace: {why}")
    if name == "memory_mb":
        return VmLimit(value=value, held_by=WATCHED_BY, reason=f"{WATCHED}: {why}")
    return VmLimit(value=value, held_by="none", reason=why)


def _rlimit(value: int, kind: int) -> VmLimit:
    if (nothing := unasked(value)) is not None:
        return nothing
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY and most < value:
        value = most  # the server's own is lower, and holds
    return VmLimit(value=value, held_by="rlimit", reason=EACH)


def _counts() -> bool:
    """Whether RLIMIT_NPROC counts the processes of one VM alone."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    return release >= NPROC_BY_NAMESPACE and os.path.exists("/proc/self/ns/user")  # noqa: PTH110
