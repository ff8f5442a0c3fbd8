"""Boots bubblewrap VMs and ends them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from pathlib import Path

from mulligan.drivers.bubblewrap import orphans, preflight, seccomp
from mulligan.drivers.bubblewrap.arguments import VmPlan, command
from mulligan.drivers.bubblewrap.child import Init, child
from mulligan.drivers.bubblewrap.holding import by_agent, holding
from mulligan.drivers.cgroups import Cgroups, VmGroups
from mulligan.drivers.interface import BootSpec, Capabilities
from mulligan.drivers.limits import Limits, Strain, check_held
from mulligan.drivers.process import OwnedProcess
from mulligan.drivers.sentinel import Sentinel
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.log import get_logger
from mulligan.models import VmLimit

log = get_logger()

STOP_TIMEOUT_S = 10.0
SOCKET_BUFFER = 512 * 1024
NONE = -1  # no descriptor


class BubblewrapMachine:
    """A VM made by bubblewrap: its process, and the stream to the agent."""

    def __init__(
        self,
        process: OwnedProcess,
        init: Init,
        connection: socket.socket,
        boot_frame: dict[str, object],
        groups: VmGroups | None,
        network: socket.socket | None,
    ) -> None:
        self._process = process
        self._init = init
        # Killed from outside, bubblewrap takes nothing along where it shows what the VM's user
        # cannot reach: it may signal nobody of that user then.
        process.on_end(init.kill)
        self._connection = connection
        self._boot_frame = boot_frame
        self._groups = groups
        self._network = network
        self._said: str | None = None

    @property
    def connection(self) -> socket.socket:
        """See ``Machine``."""
        return self._connection

    @property
    def network(self) -> socket.socket | None:
        """See ``Machine``."""
        return self._network

    @property
    def boot_frame(self) -> dict[str, object]:
        """See ``Machine``."""
        return self._boot_frame

    @property
    def pid(self) -> int:
        """See ``Machine``."""
        return self._process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """See ``Machine``."""
        return (self.pid,)

    async def wait(self) -> int:
        """See ``Machine``."""
        status = await self._process.wait()
        await self._init.wait()
        return status

    async def keep_memory(self, name: str) -> None:  # noqa: ARG002
        """See ``Machine``."""
        raise ExecutionFailed("the memory of VMs of this driver cannot be kept")

    def cause(self) -> str | None:
        """See ``Machine``. The host's kernel ends programs, not the VM."""
        return None

    def diagnostics(self) -> str:
        """See ``Machine``."""
        return self._said if self._said is not None else self._process.stderr()

    async def stop(self) -> None:
        """See ``Machine``.

        Process 1 of the VM is killed. The kernel lets it go only when every other process of its
        namespace is gone, and bubblewrap ends after it, unless it was killed by somebody else.
        """
        self._connection.close()
        if self._network is not None:
            self._network.close()
        self._init.kill()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            why = f"the VM's processes did not end within {STOP_TIMEOUT_S:g} s of being killed"
            raise ExecutionFailed(why) from None
        if self._said is None:
            self._said = self._process.stderr()
            self._process.close()
            if self._groups is not None:
                await _give_back(self._groups)

    def check_limits(self) -> None:
        """See ``Machine``."""
        if self._groups is not None and not self._groups.holds(self._init.pid):
            raise ExecutionFailed("the VM's limits are not in force")

    def strain(self) -> Strain:
        """See ``Machine``."""
        return self._groups.strain() if self._groups is not None else Strain()


class BubblewrapDriver:
    """The embedded default driver.

    Args:
        guest: uid and gid VMs run as when the server is root; ignored otherwise.
        directory: one of the server's own, for what VMs' users must be able to reach.

    Raises:
        ConfigError: bubblewrap is missing, or VMs could not reach ``directory``.
    """

    name = "bubblewrap"
    pace = 1
    capabilities = Capabilities(
        own_kernel=False, network=("none", "allowlist"), boot_cost="milliseconds", images=True
    )
    machine = BubblewrapMachine
    _also_shown: tuple[Path, ...] = ()
    _mounts_apart = False  # whether making a file system read-only does it to one mount alone
    _links = False  # whether connections of programs to the proxy come as frames
    _shows_agent = False  # whether programs could see the agent's descriptors in /proc

    def __init__(self, guest: tuple[int, int], directory: Path) -> None:
        self._run_as = guest if os.geteuid() == 0 else None
        if self._run_as is not None:
            preflight.check_mapped(self._run_as)
            preflight.check_reachable(directory, self._run_as)
        self._directory = directory
        self._stage = directory / "stage"
        self._bwrap = preflight.reachable(preflight.find_bwrap(), directory)
        self._reachable: dict[Path, bool] = {}
        self._groups = Cgroups(directory)
        self._sentinel: Sentinel | None = None

    def limits(self, asked: Limits) -> dict[str, VmLimit]:
        """See ``Driver``."""
        return holding(asked, self._groups)

    def sweep(self) -> list[int]:
        """See ``Driver``."""
        return [*orphans.end_all(self._bwrap, self._directory), *self._groups.sweep()]

    def guard(self) -> None:
        """See ``Driver``."""
        told = {orphans.BWRAP: str(self._bwrap), orphans.DIRECTORY: str(self._directory)}
        try:
            self._sentinel = Sentinel(orphans.__name__, told)
        except OSError as error:
            raise ConfigError(
                f"cannot start what ends VMs when the server is killed: {error.strerror}",
                remedy="make sure that there is a /bin/sh, and room for another process",
            ) from None

    def close(self) -> None:
        """See ``Driver``."""
        sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            sentinel.dismiss()

    def about(self) -> str:
        """See ``Driver``."""
        return str(self._bwrap)

    def stamp(self) -> str:
        """See ``Driver``."""
        stat = self._bwrap.stat()
        return f"{self._bwrap}:{stat.st_mtime_ns:x}:{stat.st_size:x}"

    def disk_owner(self) -> tuple[int, int]:
        """See ``Driver``."""
        return self._run_as or (os.geteuid(), os.getegid())

    async def boot(self, spec: BootSpec) -> BubblewrapMachine:
        """See ``Driver``."""
        if spec.limits_required:
            check_held(self.limits(spec.limits), spec.limits_required)
        groups = self._create_groups(spec)
        try:
            return await self._boot(spec, groups)
        except BaseException:
            if groups is not None:
                await _give_back(groups)
            raise

    def _create_groups(self, spec: BootSpec) -> VmGroups | None:
        return self._groups.create(spec.vm_id, spec.limits)

    async def _boot(self, spec: BootSpec, groups: VmGroups | None) -> BubblewrapMachine:
        ours, theirs = socket.socketpair()
        info, info_theirs = socket.socketpair()
        handed_over = spec.network and not self._links
        network, network_theirs = socket.socketpair() if handed_over else (None, None)
        walls, gate = seccomp.descriptor(), NONE
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
            ours.setblocking(False)
            info.setblocking(False)
            way_out = network_theirs.fileno() if network_theirs is not None else None
            numbers = theirs.fileno(), info_theirs.fileno(), walls, way_out
            process, gate = self._start(self._plan(spec, numbers, groups))
            _close(theirs, info_theirs, network_theirs)
            init: Init | None = None
            try:
                init = await child(info, process)
                self._admit(init, groups, gate)
            except BaseException:
                process.kill()
                await asyncio.shield(asyncio.create_task(_reap(process, init)))
                raise
        except BaseException:
            _close(ours, network)
            raise
        finally:
            _close(theirs, info_theirs, network_theirs, info)
            os.close(walls)
            if gate != NONE:
                os.close(gate)
        binds = [str(path) for path in spec.image.shown]
        binds += [*(place for _, place in spec.shares), *spec.files]
        boot_frame: dict[str, object] = {
            "binds": binds,
            "limits": self._limits_of_agent(spec.limits),
            "variables": spec.image.variables,
            "foreign": spec.image.digest is not None,
            "links": spec.network and self._links,
            "mounts_apart": self._mounts_apart,
            "shows_agent": self._shows_agent,
        }
        return self.machine(process, init, ours, boot_frame, groups, network)

    def _limits_of_agent(self, asked: Limits) -> dict[str, object]:
        return by_agent(asked, self._groups)

    def _start(self, plan: VmPlan) -> tuple[OwnedProcess, int]:
        """Starts what becomes the VM, and a descriptor by which it is let go on, if it waits."""
        handed = [plan.descriptor, plan.seccomp, *plan.own_groups, *plan.program_groups]
        return self._spawn(plan, command(plan), handed), NONE

    def _admit(self, init: Init, groups: VmGroups | None, gate: int) -> None:
        """Process 1 is there. The agent enters the groups by itself, by what it inherited."""
        del init, gate
        if groups is not None:
            groups.entered()

    def _spawn(
        self, plan: VmPlan, arguments: list[str], handed: list[int], **more: int
    ) -> OwnedProcess:
        network = [] if plan.network is None else [plan.network]
        return OwnedProcess(
            arguments,
            pass_fds=[plan.info, *handed, *network],
            run_as=None if plan.staged else self._run_as,
            env={},
            cwd="/",
            **more,
        )

    def _plan(
        self,
        spec: BootSpec,
        inherited: tuple[int, int, int, int | None],
        groups: VmGroups | None,
    ) -> VmPlan:
        descriptor, info, walls, network = inherited
        image = spec.image
        shown = (*image.binds, *self._also_shown)
        staged = tuple(path for path in shown if not self._can_reach(path))
        setpriv = None
        if staged:
            found = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
            if found is None:
                raise ConfigError(
                    f"{staged[0]} cannot be reached by uid {self.disk_owner()[0]}, and showing it "
                    "to VMs needs setpriv",
                    remedy="install util-linux, or install the toolchain under /usr",
                )
            setpriv = Path(found)
            self._stage.mkdir(parents=True, exist_ok=True)
        return VmPlan(
            bwrap=self._bwrap,
            python=image.python,
            binds=image.binds,
            symlinks=image.symlinks,
            environment=image.environment() | dict(spec.environment),
            rootfs=image.rootfs,
            etc=image.etc,
            agent=image.agent,
            layers=spec.layers,
            disk=spec.disk,
            descriptor=descriptor,
            info=info,
            seccomp=walls,
            network=network,
            files=tuple((path, inside) for inside, path in spec.files.items()),
            own_groups=tuple(groups.agent) if groups is not None else (),
            program_groups=tuple(groups.programs) if groups is not None else (),
            shm_mb=spec.limits.shm_mb,
            run_as=self._run_as,
            staged=staged,
            stage=self._stage if staged else None,
            setpriv=setpriv,
            shares=spec.shares,
            memory=spec.memory,
            resumes=spec.resumes,
        )

    def _can_reach(self, path: Path) -> bool:
        """Whether the user VMs run as can get to a path through every directory above it."""
        if self._run_as is None:
            return True
        if path not in self._reachable:
            self._reachable[path] = preflight.barrier(path, self._run_as) is None
        return self._reachable[path]


def _close(*ends: socket.socket | None) -> None:
    for end in ends:
        if end is not None:
            end.close()


async def _reap(process: OwnedProcess, init: Init | None) -> None:
    if init is not None:
        init.kill()
        await init.wait()
    await process.wait()
    process.close()


async def _give_back(groups: VmGroups) -> None:
    """Removes the groups of a VM that has ended, or never came to be."""
    groups.close()
    if not await asyncio.to_thread(groups.remove):
        log.warning("cgroups_not_removed", remedy="the next start of the server does it")
