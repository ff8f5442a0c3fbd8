"""What is written into a VM's groups. Pure functions of the limits.

A VM has a group with two groups in it: ``programs`` is held to what the VM's type says, ``agent``
has what the group around both has beyond that. So programs that burn everything leave the agent
memory, processes and CPU to end them with.

Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids}.rst,
Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from dataclasses import dataclass

from mulligan.drivers.limits import Limits

VM, PROGRAMS, AGENT = "", "programs", "agent"
MIB = 1024 * 1024
RESERVE_MB = 64  # of memory, for the agent and what it does on files
RESERVE_PROCESSES = 32
OWN_PROCESSES = 1  # among programs: the zygote
PERIOD_US = 100_000
LEAST_QUOTA_US = 1000
AGENT_WEIGHT = 10  # times what its programs have
USUAL_WEIGHT = 100
USUAL_SHARES = 1024  # what a weight of 100 is in version 1


@dataclass(frozen=True)
class Value:
    """One value of one group.

    Attributes:
        controller: whose it is.
        group: ``VM``, ``PROGRAMS`` or ``AGENT``.
        file: its file.
        text: what is written.
        optional: whether kernels may lack the file, and are held to the rest then.
    """

    controller: str
    group: str
    file: str
    text: str
    optional: bool = False


def values(limits: Limits, version: int) -> list[Value]:
    """What holds programs to limits, in the order it is written: outer groups first."""
    found = []
    if limits.memory_mb:
        found += _memory(limits.memory_mb, version)
    if limits.max_processes:
        most = limits.max_processes + OWN_PROCESSES
        found.append(Value("pids", VM, "pids.max", str(most + RESERVE_PROCESSES)))
        found.append(Value("pids", PROGRAMS, "pids.max", str(most)))
    return found + _cpu(limits, version)


def _memory(memory_mb: int, version: int) -> list[Value]:
    whole, programs = (memory_mb + RESERVE_MB) * MIB, memory_mb * MIB
    found = []
    for group, size in ((VM, whole), (PROGRAMS, programs)):
        if version == 1:
            found.append(Value("memory", group, "memory.limit_in_bytes", str(size)))
            # Memory and swap together: no more by swapping. Absent where there is no such account.
            found.append(Value("memory", group, "memory.memsw.limit_in_bytes", str(size), True))
        else:
            found.append(Value("memory", group, "memory.max", str(size)))
            found.append(Value("memory", group, "memory.swap.max", "0", True))
    return found


def _cpu(limits: Limits, version: int) -> list[Value]:
    found = []
    weight = limits.cpu_weight
    if version == 1:
        if weight:
            found.append(Value("cpu", VM, "cpu.shares", str(_shares(weight))))
        found.append(Value("cpu", AGENT, "cpu.shares", str(USUAL_SHARES * AGENT_WEIGHT)))
        if limits.vcpus:
            found.append(Value("cpu", PROGRAMS, "cpu.cfs_period_us", str(PERIOD_US)))
            found.append(Value("cpu", PROGRAMS, "cpu.cfs_quota_us", str(_quota(limits.vcpus))))
        return found
    if weight:
        found.append(Value("cpu", VM, "cpu.weight", str(weight)))
    found.append(Value("cpu", AGENT, "cpu.weight", str(USUAL_WEIGHT * AGENT_WEIGHT)))
    if limits.vcpus:
        found.append(Value("cpu", PROGRAMS, "cpu.max", f"{_quota(limits.vcpus)} {PERIOD_US}"))
    return found


def _shares(weight: int) -> int:
    """A weight as version 1 has it; the kernel takes from 2 to 262144."""
    return max(2, min(262_144, weight * USUAL_SHARES // USUAL_WEIGHT))


def _quota(vcpus: float) -> int:
    """Microseconds of CPU time in each period."""
    return max(LEAST_QUOTA_US, int(vcpus * PERIOD_US))


def counted(text: str, name: str) -> int:
    """A number of a file of lines ``name number``; 0 where it is not there."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return 0
