"""What a VM is asked to be held to, whatever holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mulligan.errors import ConfigError
from mulligan.models import VmLimit

SHM_MB = 256
KERNEL: Literal["kernel"] = "kernel"
WATCHED_BY = "watched"
Required = bool | Literal["kernel"]
"""Whether all limits have to be held: False; True: by whatever; "kernel": not by being watched."""


@dataclass(frozen=True)
class Limits:
    """What one VM may take; 0: as much as there is.

    Attributes:
        memory_mb: of programs, in MiB: what they have written to, files in memory (``/dev/shm``)
            and what the kernel keeps for them; not what can be read again from disk.
        vcpus: CPU time of programs, in CPUs: 1.5 is one and a half.
        cpu_weight: share of the CPUs where VMs compete, from 1 to 10000; 100 is usual.
        max_processes: programs' processes and threads.
        max_open_files: descriptors of each process.
        cpu_seconds: CPU time of each process.
        shm_mb: size of ``/dev/shm``, in MiB.
    """

    memory_mb: int = 0
    vcpus: float = 0
    cpu_weight: int = 0
    max_processes: int = 0
    max_open_files: int = 0
    cpu_seconds: int = 0
    shm_mb: int = SHM_MB


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Strain:
    """How often a VM's programs met a limit since it booted.

    Attributes:
        memory: processes the kernel has ended for want of memory.
        processes: forks it has refused.
    """

    memory: int = 0
    processes: int = 0

    def since(self, before: Strain) -> Strain:
        """What came to it after ``before``."""
        return Strain(self.memory - before.memory, self.processes - before.processes)


def unasked(value: float) -> VmLimit | None:
    """The limit nobody asked for; None where somebody did."""
    return VmLimit(value=0, held_by="none") if not value else None


def unheld(held: dict[str, VmLimit], required: Required) -> list[str]:
    """The limits that are not held as is required, by their names."""
    refused = {False: (), True: ("none",), KERNEL: ("none", WATCHED_BY)}[required]
    return [name for name, limit in held.items() if limit.value and limit.held_by in refused]


def check_held(held: dict[str, VmLimit], required: Required) -> None:
    """Refuses a VM with a limit that is not held as is required.

    Raises:
        ConfigError: naming the limit, and why nothing holds it, or nothing but the VM's agent.
    """
    for name in unheld(held, required):
        limit = held[name]
        watched = limit.held_by == WATCHED_BY
        what = "nothing but its own agent" if watched else "nothing"
        instead = "true, to which that is enough" if watched else "false"
        raise ConfigError(
            f"{what} on this host holds VMs to {name} = {limit.value:.15g}: {limit.reason}",
            field=name,
            remedy=f"set {name} of the VM type to 0, or limits_required to {instead}",
        )
