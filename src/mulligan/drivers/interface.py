"""What a driver is: it boots VMs with the guest agent in them, and ends them.

A driver knows nothing of executions, agents' names or history. It is given directories and hands
back a machine: a byte stream to the agent, and a way to end it. ``tests/conformance`` holds every
driver to the same behaviour.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from mulligan.drivers.limits import NO_LIMITS, Limits, Required, Strain
from mulligan.images.host import HostImage
from mulligan.models import VmCapabilities, VmLimit


@dataclass(frozen=True)
class Capabilities:
    """What a driver can and cannot do, as users are told.

    Attributes:
        own_kernel: VMs have a kernel of their own, not the host's.
        network: the network modes it offers.
        boot_cost: rough class of the time to boot: "milliseconds" or "seconds".
        images: whether VMs may be of images beside the host's own.
        memory: whose memory snapshots keep: "none", "kernels" or "all" processes.
        memory_across_fork, memory_across_restart: whether forks have it, and whether it outlives
            the server.
        snapshot_cost: rough class of the time a snapshot takes.
    """

    own_kernel: bool
    network: tuple[str, ...]
    boot_cost: str
    images: bool = False
    memory: str = "kernels"
    memory_across_fork: bool = False
    memory_across_restart: bool = False
    snapshot_cost: str = "milliseconds"

    def shown(self) -> VmCapabilities:
        """The same, as users are told."""
        return VmCapabilities(**asdict(self) | {"network": list(self.network)})


@dataclass(frozen=True)
class BootSpec:
    """A VM to be.

    Attributes:
        vm_id: for logs and error texts, and what it is called by inside, see ``guest.identity``.
        image: what its disk starts from.
        layers: directory with the layers its disk is stacked on.
        disk: directory of the VM's own, with a directory for each generation of its disk in it;
            None for a VM that runs no programs and may write to ``layers`` instead.
        limits: what its programs may take.
        limits_required: whether it does not boot where one of them is not held.
        shares: host directories shown read-only, each with its place in the VM, which the image
            has as an empty directory.
        network: whether its programs get a socket to a proxy on the host; they have no other way
            out, in either case.
        environment: for all programs, beyond the image's.
        memory: directory of the VM's own for ``Machine.keep_memory``; None: it cannot.
        resumes: what in there the VM goes on from, with its agent and all processes as they were,
            on the disk it had then; None: it boots.
        known_as: where ``layers`` and ``disk`` were when what it goes on from had booted.
        files: by their absolute path in the VM, where the image has a file: files of the host that
            are shown there instead, read-only.
    """

    vm_id: str
    image: HostImage
    layers: Path
    disk: Path | None
    limits: Limits = NO_LIMITS
    limits_required: Required = False
    shares: tuple[tuple[Path, str], ...] = ()
    network: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    memory: Path | None = None
    resumes: str | None = None
    known_as: tuple[Path, Path] | None = None


class Machine(Protocol):
    """A booted VM."""

    @property
    def connection(self) -> socket.socket:
        """The stream to the agent, non-blocking; the caller closes it."""

    @property
    def network(self) -> socket.socket | None:
        """Where the agent sends, as it starts, the socket its programs connect to the proxy by.

        The caller closes it. None where the VM has no network, or its connections come as frames.
        """

    @property
    def boot_frame(self) -> dict[str, object]:
        """The driver's part of the BOOT frame.

        ``links``, whether connections of programs to the proxy come as frames (``guest.links``);
        ``binds``, as ``guest.root.Roots`` takes them; ``limits``, as ``guest.starts.Starter`` takes
        what it is to hold processes to, and in them ``memory``, the bytes of all programs that the
        agent is to watch, where nothing else holds them, or ``memory_counted``, where the VM's own
        kernel does and its agent is to tell of it; ``variables``, which programs have in
        their environment and the agent has not; ``foreign``, whether programs see other
        interpreters than the agent; ``identity``, what ``guest.identity.lay`` takes, where the VM
        is called by a name of its own; and ``pace``, that of the driver.
        """

    @property
    def pid(self) -> int:
        """The host's process that holds the VM; the VM does not outlive it."""

    @property
    def pids(self) -> tuple[int, ...]:
        """All of the host's processes that the VM's others are below of; ``pid`` is the first."""

    def check_limits(self) -> None:
        """Makes sure that a VM that says it is ready has its limits.

        Raises:
            ExecutionFailed: it has not.
        """

    def strain(self) -> Strain:
        """How often its programs met a limit since it booted."""

    async def wait(self) -> int:
        """Waits for the end of the VM and returns its exit status."""

    async def keep_memory(self, name: str) -> None:
        """Keeps what all its processes are; they go on.

        Nothing is to be on its way between the agent and the host meanwhile.

        Args:
            name: of a directory in ``BootSpec.memory`` to be, for ``BootSpec.resumes``. Where it
                fails there may be something of it.

        Raises:
            ExecutionFailed: it could not be kept.
        """

    def cause(self) -> str | None:
        """Why the VM ended by itself, where the host knows."""

    def diagnostics(self) -> str:
        """The last of what the VM's own processes said when something was wrong."""

    async def stop(self) -> None:
        """Ends the VM and everything in it; returns when nothing of it is left. May be repeated.

        Raises:
            ExecutionFailed: something of it would not end.
        """


class Driver(Protocol):
    """A way to make VMs.

    Attributes:
        pace: how many times longer than elsewhere what takes a moment may take in its VMs.
    """

    name: str
    capabilities: Capabilities
    pace: int

    async def boot(self, spec: BootSpec) -> Machine:
        """Boots a VM.

        Raises:
            ConfigError: this host cannot run the driver, or nothing holds a limit that is required;
                the text says why and what to change.
            ExecutionFailed: it could not be booted this time.
            OSError: the server has run out of something.
        """

    def limits(self, asked: Limits) -> dict[str, VmLimit]:
        """What holds each of some limits on this host, by the names of their fields."""

    def sweep(self) -> list[int]:
        """Ends what a server that was killed left of VMs of this data directory.

        Called while nobody else serves the directory. Returns the numbers of ended processes.
        """

    def guard(self) -> None:
        """Sees to it that nothing of a VM outlives this process, however it ends.

        Called once, after ``sweep``; ``close`` has to follow.

        Raises:
            ConfigError: it cannot; the text says why.
        """

    def close(self) -> None:
        """Lets go of everything; no VM is left. May be repeated."""

    def about(self) -> str:
        """What it runs, for people: a path and what else tells it from others."""

    def stamp(self) -> str:
        """What changes when what it runs does: a trial of it holds for as long as this."""

    def disk_owner(self) -> tuple[int, int]:
        """uid and gid, on the host, of what VMs write."""
