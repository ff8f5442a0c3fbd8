"""Boots gVisor VMs and ends them."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

from mulligan.drivers.bubblewrap.arguments import VmPlan, reached
from mulligan.drivers.bubblewrap.child import Init
from mulligan.drivers.bubblewrap.driver import BubblewrapDriver, BubblewrapMachine
from mulligan.drivers.cgroups import VmGroups
from mulligan.drivers.cgroups.values import PROGRAMS
from mulligan.drivers.gvisor import holding
from mulligan.drivers.gvisor.arguments import RunscPlan, command
from mulligan.drivers.gvisor.bundle import config
from mulligan.drivers.gvisor.checkpoints import Checkpoints
from mulligan.drivers.gvisor.runsc import Runsc
from mulligan.drivers.interface import BootSpec, Capabilities
from mulligan.drivers.limits import Limits
from mulligan.drivers.process import OwnedProcess
from mulligan.errors import ExecutionFailed
from mulligan.models import VmLimit


class GvisorMachine(BubblewrapMachine):
    """A VM made by runsc in bubblewrap's namespaces."""

    checkpoints: Checkpoints | None = None

    async def keep_memory(self, name: str) -> None:
        """See ``Machine``."""
        if self.checkpoints is None:
            raise ExecutionFailed("the memory of this VM is not to be kept")
        await self.checkpoints.keep(name)

    @property
    def init(self) -> int:
        """The number of the VM's process 1 on the host."""
        return self._init.pid

    def cause(self) -> str | None:
        """See ``Machine``. The limit is around gVisor's own kernel, too, which has no victims."""
        if self.strain().memory:
            return "its memory was used up, and the host's kernel ended it"
        return None

    def check_limits(self) -> None:
        """See ``Machine``. All of the VM is held to them, gVisor's kernel too."""
        if self._groups is not None and not self._groups.holds(self._init.pid, PROGRAMS):
            raise ExecutionFailed("the VM's limits are not in force")


class GvisorDriver(BubblewrapDriver):
    """VMs with a kernel of their own that is an ordinary program here.

    Args:
        guest, directory: as for ``BubblewrapDriver``.
        runsc: what to run, as ``gvisor.runsc.find`` found it.

    Raises:
        ConfigError: as for ``BubblewrapDriver``.
    """

    name = "gvisor"
    capabilities = Capabilities(
        own_kernel=True,
        network=("none", "allowlist"),
        boot_cost="milliseconds",
        images=True,
        memory_across_restart=True,
    )
    machine = GvisorMachine
    _links = True
    _mounts_apart = True
    _shows_agent = True

    def __init__(self, guest: tuple[int, int], directory: Path, runsc: Runsc) -> None:
        super().__init__(guest, directory)
        self._runsc = runsc
        self._also_shown = (runsc.path,)

    def limits(self, asked: Limits) -> dict[str, VmLimit]:
        """See ``Driver``."""
        return holding.holding(asked, self._groups)

    def about(self) -> str:
        """See ``Driver``."""
        return f"{self._runsc.path} ({self._runsc.version}), platform {self._runsc.platform}"

    def stamp(self) -> str:
        """See ``Driver``."""
        return f"{super().stamp()} {self._runsc.stamp()}"

    async def boot(self, spec: BootSpec) -> BubblewrapMachine:
        """See ``Driver``."""
        machine = await super().boot(spec)
        assert isinstance(machine, GvisorMachine)
        if spec.memory is not None:
            known = self._runsc
            inner = RunscPlan(known.path, known.platform, known.flags, -1, -1, spec.memory)
            machine.checkpoints = Checkpoints(inner, machine.init, self._run_as)
        return machine

    def _create_groups(self, spec: BootSpec) -> VmGroups | None:
        return self._groups.create(spec.vm_id, holding.of_groups(spec.limits))

    def _limits_of_agent(self, asked: Limits) -> dict[str, object]:
        return holding.by_agent(asked)

    def _start(self, plan: VmPlan) -> tuple[OwnedProcess, int]:
        described = config(plan, resource.getrlimit(resource.RLIMIT_NOFILE))
        written = os.memfd_create("config.json", os.MFD_CLOEXEC)
        gate, opener = os.pipe2(os.O_CLOEXEC)
        try:
            os.write(written, json.dumps(described).encode())
            os.lseek(written, 0, os.SEEK_SET)
            inner = RunscPlan(
                reached(plan, self._runsc.path),
                self._runsc.platform,
                self._runsc.flags,
                written,
                gate,
                plan.memory,
                plan.resumes,
            )
            handed = [written, gate, plan.seccomp]
            connection = plan.descriptor
            return self._spawn(plan, command(plan, inner), handed, stdin=connection), opener
        except BaseException:
            os.close(opener)
            raise
        finally:
            os.close(written)
            os.close(gate)

    def _admit(self, init: Init, groups: VmGroups | None, gate: int) -> None:
        """Puts process 1 among what is held to the limits, and with it all it will start."""
        if groups is not None:
            try:
                groups.admit(init.pid)
            except OSError as error:
                why = f"the VM's limits cannot be put in force: {error.strerror}"
                raise ExecutionFailed(why) from None
            groups.entered()
        os.write(gate, b".")
