"""What holds the limits of a microVM."""

from __future__ import annotations

import math
import os
from pathlib import Path

from mulligan.drivers.bubblewrap.holding import OURS
from mulligan.drivers.limits import Limits, unasked
from mulligan.errors import ConfigError
from mulligan.models import VmLimit

# For the guest's kernel, its agent and the zygote; what they took in a VM of 256 MiB, and some.
SYSTEM_MB = 160
DEFAULT_MB = 1024
WHOLE = "in whole CPUs of the VM's machine"
NO_GROUP = "QEMU is in no control group of its own"
EACH = "of each process, not of the VM"


def memory_mb(asked: Limits) -> int:
    """Memory of the machine, in MiB."""
    return (asked.memory_mb or DEFAULT_MB) + SYSTEM_MB


def cpus(asked: Limits) -> int:
    """Processors of the machine."""
    here = len(os.sched_getaffinity(0))
    return min(here, math.ceil(asked.vcpus)) if asked.vcpus else here


def check_size(asked: Limits) -> None:
    """Refuses a machine that this host cannot hold.

    Raises:
        ConfigError: naming how much there is.
    """
    most = _host_mb()
    if memory_mb(asked) > most:
        raise ConfigError(
            f"a VM of {memory_mb(asked)} MiB does not fit into this host's {most} MiB",
            field="memory_mb",
            remedy="lower memory_mb of the VM type; a microVM's memory is real",
        )


def _host_mb() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise ConfigError("this host does not say how much memory it has")


def holding(asked: Limits) -> dict[str, VmLimit]:
    """What holds each limit, by the names of the fields of ``Limits``."""
    number = cpus(asked)
    return {
        "memory_mb": VmLimit(value=asked.memory_mb or DEFAULT_MB, held_by="machine"),
        "vcpus": VmLimit(value=number, held_by="machine", reason=WHOLE),
        "cpu_weight": VmLimit(value=asked.cpu_weight, held_by="none", reason=NO_GROUP),
        "max_processes": unasked(asked.max_processes)
        or VmLimit(value=asked.max_processes, held_by="rlimit"),
        "max_open_files": unasked(asked.max_open_files)
        or VmLimit(value=asked.max_open_files, held_by="rlimit", reason=EACH),
        "cpu_seconds": unasked(asked.cpu_seconds)
        or VmLimit(value=asked.cpu_seconds, held_by="rlimit", reason=EACH),
        "shm_mb": VmLimit(value=asked.shm_mb, held_by="mount"),
    }


def by_agent(asked: Limits) -> dict[str, object]:
    """What the agent is to see to: the part of the BOOT frame called ``limits``."""
    return {
        "open_files": asked.max_open_files,
        "cpu_seconds": asked.cpu_seconds,
        "processes": asked.max_processes + OURS if asked.max_processes else 0,
        "memory_counted": True,
    }
