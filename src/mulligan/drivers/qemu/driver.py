"""Boots microVMs and ends them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mulligan.drivers.bubblewrap import orphans, preflight
from mulligan.drivers.bubblewrap.arguments import VmPlan
from mulligan.drivers.interface import BootSpec, Capabilities
from mulligan.drivers.limits import Limits, check_held
from mulligan.drivers.qemu import (
    accel,
    booting,
    clock,
    copies,
    firstprocess,
    holding,
    image,
    keeping,
    sharing,
    templates,
    tools,
    warm,
)
from mulligan.drivers.qemu.arguments import (
    DESCRIPTOR,
    INFO,
    NONE,
    SECCOMP,
    QemuSpec,
    qemu_command,
)
from mulligan.drivers.qemu.console import Console
from mulligan.drivers.qemu.keeping import Keeper
from mulligan.drivers.qemu.launching import end, pair
from mulligan.drivers.qemu.machine import Part, QemuMachine
from mulligan.drivers.qemu.running import Running
from mulligan.drivers.sentinel import Sentinel
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.log import get_logger
from mulligan.models import VmLimit

log = get_logger()

GUEST_UP_S = {"kvm": 10.0, "tcg": 60.0}
PACES = {"kvm": 1, "tcg": 3}


class QemuDriver:
    """A machine of its own for each VM, emulated or by KVM.

    Args:
        guest: uid and gid QEMU runs as when the server is root; ignored otherwise.
        directory: one of the server's own, for what that user must be able to reach.

    Attributes:
        accel: what runs its VMs' instructions.
        forgets: why memory of its VMs cannot be kept on this host; None: it can.

    Raises:
        ConfigError: something this host lacks, or there is no image of a kernel.
    """

    name = "qemu"
    capabilities = Capabilities(
        own_kernel=True,
        network=("none", "allowlist"),
        boot_cost="seconds",
        memory="all",
        memory_across_fork=True,
        memory_across_restart=True,
    )

    def __init__(self, guest: tuple[int, int], directory: Path) -> None:
        tools.check_qmp()
        self._run_as = guest if os.geteuid() == 0 else None
        if self._run_as is not None:
            preflight.check_mapped(self._run_as)
            preflight.check_reachable(directory, self._run_as)
        self._directory = directory
        self._stage = directory / "stage"
        self._tools = tools.find(preflight.reachable(preflight.find_bwrap(), directory))
        self._image = image.load(directory / "images")
        self.accel = accel.find(self._tools, self._image, self._run_as, directory / "images")
        self._accel = self.accel.name
        self.pace = PACES[self._accel]
        self.forgets = keeping.missing(self._tools)
        if self.forgets is not None:
            self.capabilities = replace(
                self.capabilities,
                memory="kernels",
                memory_across_fork=False,
                memory_across_restart=False,
            )
        self._sentinel: Sentinel | None = None
        self._refused: set[str] = set()  # templates it was said of

    def limits(self, asked: Limits) -> dict[str, VmLimit]:
        """See ``Driver``."""
        return holding.holding(asked)

    def sweep(self) -> list[int]:
        """See ``Driver``."""
        return orphans.end_all(self._tools.bwrap, self._directory)

    def guard(self) -> None:
        """See ``Driver``."""
        told = {orphans.BWRAP: str(self._tools.bwrap), orphans.DIRECTORY: str(self._directory)}
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
        how = f"{self.accel.name}: {self.accel.reason}" if self.accel.reason else self.accel.name
        return f"{self._tools.qemu}, {how}"

    def stamp(self) -> str:
        """See ``Driver``."""
        programs = [path.stat() for path in (self._tools.qemu, self._tools.virtiofsd)]
        sizes = ":".join(f"{stat.st_mtime_ns:x}:{stat.st_size:x}" for stat in programs)
        return f"{sizes}:{self._image.stamp.key}:{self._accel}"

    def disk_owner(self) -> tuple[int, int]:
        """See ``Driver``."""
        return self._run_as or (os.geteuid(), os.getegid())

    async def boot(self, spec: BootSpec) -> QemuMachine:
        """See ``Driver``."""
        holding.check_size(spec.limits)
        if spec.limits_required:
            check_held(self.limits(spec.limits), spec.limits_required)
        console = Console()
        try:
            return await self._boot(spec, console)
        except BaseException:
            console.close()
            raise

    async def make_template(self, spec: BootSpec) -> templates.Template:
        """Makes the template that VMs of this shape are copied from, anew where there is one.

        Raises:
            ConfigError: VMs of this shape have none, or this host has not what it takes.
            ExecutionFailed: its machine did not come up, or there is no room for it.
        """
        holding.check_size(spec.limits)
        if not _copied(spec):
            raise ConfigError("VMs with files of their own have no template")
        plan = self._guest_plan(spec)
        return await copies.make(self._ground(spec), plan, self._shape(spec), self._stamp_of(spec))

    def _template(self, spec: BootSpec) -> templates.Template | None:
        """What a VM can be a copy of; None where it has to boot."""
        if not _copied(spec):
            return None
        shape = self._shape(spec)
        try:
            return templates.find(self._directory / "images", shape, self._stamp_of(spec))
        except ConfigError as error:
            if shape not in self._refused:
                self._refused.add(shape)
                log.warning("template_refused", reason=error.detail, remedy=error.remedy)
            return None

    def _shape(self, spec: BootSpec) -> str:
        """What has to be the same for VMs to be copies of one template."""
        machine, plan = self._machine(spec), self._guest_plan(spec)
        sizes = machine.memory_mb, machine.cpus, plan.shm_mb
        return templates.digest(
            sizes, plan.environment, plan.binds, plan.symlinks, plan.shares, plan.python
        )

    def _stamp_of(self, spec: BootSpec) -> templates.Stamp:
        """What a template of today is made with."""
        machine, plan = self._machine(spec), self._guest_plan(spec)
        qemu, python = self._tools.qemu.stat(), plan.python.stat()
        constant = replace(machine, tsc_khz=None, told=0, memory=0)
        return templates.Stamp(
            format=templates.FORMAT,
            qemu=f"{qemu.st_mtime_ns:x}:{qemu.st_size:x}",
            kernel=self._image.stamp.key,
            image=templates.digest(
                plan.agent, plan.rootfs, python.st_mtime_ns, python.st_size, plan.bwrap
            ),
            processor=templates.processor(),
            machine=templates.digest(qemu_command(self._tools, constant), warm.INIT),
            tsc_khz=machine.tsc_khz,
        )

    def _ground(self, spec: BootSpec) -> copies.Ground:
        images = self._directory / "images"
        return copies.Ground(self._tools, images, self._machine(spec), self._run_as)

    def _machine(self, spec: BootSpec) -> QemuSpec:
        """The machine of a VM, without what is connected to it."""
        return QemuSpec(
            kernel=self._image.kernel,
            initrd=self._image.initrd,
            accel=self._accel,
            memory_mb=holding.memory_mb(spec.limits),
            cpus=holding.cpus(spec.limits),
            monitor=NONE,
            tsc_khz=None if self._accel == "kvm" else clock.tsc_khz(),
        )

    async def _boot(self, spec: BootSpec, console: Console) -> QemuMachine:
        with pair() as (connection, agent):
            plan, guest = self._plan(spec), self._guest_plan(spec)
            share, files = await sharing.serve(
                self._tools, plan, guest, self._directory, self._run_as, spec.known_as
            )
            machine = replace(
                self._machine(spec),
                agent=agent.fileno(),
                share=files.fileno(),
                console=console.descriptor,
                layers=spec.layers,
            )
            try:
                running, keeper = await self._start(spec, machine, guest, share)
            except BaseException as error:
                await end(share)
                said = console.complaint() or "".join(share.said().splitlines()[-1:])
                share.process.close()
                if isinstance(error, ExecutionFailed) and said:
                    raise ExecutionFailed(f"{error.detail}; it said: {said}") from None
                raise
            finally:
                files.close()
            ours = connection.dup()
        ours.setblocking(False)
        binds = [str(path) for path in spec.image.binds]
        binds += [*(place for _, place in spec.shares), *spec.files]
        frame: dict[str, object] = {
            "binds": binds,
            "limits": holding.by_agent(spec.limits),
            "pace": self.pace,
            "links": spec.network,
            "variables": dict(spec.environment),  # not the agent's: a template has none of it
            "identity": _identity(spec),
        }
        return QemuMachine(running, share, ours, console, frame, keeper)

    async def _start(
        self, spec: BootSpec, machine: QemuSpec, plan: VmPlan, share: Part
    ) -> tuple[Running, Keeper | None]:
        """Starts QEMU, and returns when the agent can be spoken to."""
        keeps = spec.memory is not None
        template = self._template(spec) if spec.resumes is None else None
        if template is None and not keeps:
            limit = GUEST_UP_S[self._accel]
            return await booting.boot(self._tools, machine, self._run_as, limit), None
        ground, own = self._ground(spec), _identity(spec)
        with pair() as (told, told_end), templates.memory_of(machine.memory_mb) as memory:
            machine = replace(machine, told=told_end.fileno(), memory=memory)
            if spec.memory is not None and spec.resumes is not None:
                saved = templates.Saved(spec.memory / spec.resumes)
                running = await copies.resume(ground, saved, machine, told, own)
            elif template is not None:
                running = await copies.go_on(ground, template, machine, told, plan, own)
            else:
                running = await copies.begin(ground, machine, told, plan, own)
            if spec.memory is None or spec.disk is None:
                return running, None
            try:
                kept = spec.memory, spec.disk, self._accel, spec.resumes
                return running, Keeper(running, share, told, memory, *kept)
            except BaseException:
                await running.end()
                raise

    def _plan(self, spec: BootSpec) -> VmPlan:
        """What the guest is shown, as on this host."""
        staged: tuple[Path, ...] = ()
        if self._run_as is not None:
            run_as = self._run_as
            staged = tuple(p for p in spec.image.binds if preflight.barrier(p, run_as) is not None)
        if staged:
            self._stage.mkdir(parents=True, exist_ok=True)
        plan = self._guest_plan(spec)
        return VmPlan(
            **vars(plan)
            | {
                "run_as": self._run_as,
                "staged": staged,
                "stage": self._stage if staged else None,
                "setpriv": self._tools.setpriv,
            }
        )

    def _guest_plan(self, spec: BootSpec) -> VmPlan:
        """The VM as bubblewrap makes it in the guest."""
        return VmPlan(
            bwrap=self._tools.bwrap,
            python=spec.image.python,
            binds=spec.image.binds,
            symlinks=spec.image.symlinks,
            environment=spec.image.environment(),
            rootfs=spec.image.rootfs,
            agent=spec.image.agent,
            etc=spec.image.etc,
            layers=spec.layers,
            disk=spec.disk,
            descriptor=DESCRIPTOR,
            info=INFO,
            seccomp=SECCOMP,
            files=tuple((path, inside) for inside, path in spec.files.items()),
            shm_mb=spec.limits.shm_mb,
            shares=spec.shares,
        )


def _identity(spec: BootSpec) -> dict[str, str] | None:
    """What a VM is called by where another one may go on from its memory; None: as all are."""
    return firstprocess.identity(spec.vm_id) if spec.memory is not None else None


def _copied(spec: BootSpec) -> bool:
    """Whether VMs like it are copies, where there is a template."""
    return spec.disk is not None and not spec.files
