"""The drivers of an engine's VMs: which one a type gets, and whether it can do what is asked."""

from __future__ import annotations

import asyncio
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from mulligan.drivers.choosing import CAPABILITIES, EMBEDDED, MAKERS, forgetful, reluctance
from mulligan.drivers.interface import BootSpec, Capabilities, Driver, Machine
from mulligan.drivers.limits import Limits
from mulligan.engine.executions.programs import steps_for
from mulligan.engine.vms.program import Program
from mulligan.engine.vms.store import Stores, VmRecord, VmStore, new_id
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ConfigError, VmExecutionError
from mulligan.images.host import WORKSPACE, HostImage
from mulligan.images.store import HOST
from mulligan.layers.directories import make_directory, remove_tree
from mulligan.layers.store import LayerStore
from mulligan.log import get_logger
from mulligan.models import VmLimit, utc_now
from mulligan.settings import Settings, VmType
from mulligan.version import __version__

log = get_logger()

AUTO = "auto"
NOBODY = "trial"
TRIAL_S = 10.0
TRIED = "drivers.json"
WORD = "well"


class Absent:
    """Stands for the driver of VMs there are, where it cannot be had any more: they do not boot."""

    def __init__(self, name: str, why: ConfigError, owner: tuple[int, int]) -> None:
        self.name = name
        self.capabilities = CAPABILITIES.get(name, CAPABILITIES[EMBEDDED])
        self.pace = 1
        self._why = why
        self._owner = owner

    async def boot(self, spec: BootSpec) -> Machine:
        """Refuses, and says why."""
        del spec
        raise self._why

    def limits(self, asked: Limits) -> dict[str, VmLimit]:
        """Nothing runs, and nothing is held to anything."""
        del asked
        return {}

    def sweep(self) -> list[int]:
        """Nothing is left of VMs that do not boot."""
        return []

    def guard(self) -> None:
        """There is nothing to guard."""

    def close(self) -> None:
        """There is nothing to let go of."""

    def disk_owner(self) -> tuple[int, int]:
        """See ``Driver``."""
        return self._owner

    def about(self) -> str:
        """See ``Driver``."""
        return f"no {self.name}"

    def stamp(self) -> str:
        """See ``Driver``."""
        return ""


class Drivers:
    """Makes the drivers that settings ask for.

    Attributes:
        jobs: the one for work of our own, in VMs that run no programs.
        reasons: why "auto" did not take the stronger ones, by name.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = settings.data_dir
        self._made: dict[str, Driver] = {}
        self._of_types: dict[str, str] = {}
        self.reasons: dict[str, ConfigError] = {}
        self._forgetful: dict[str, ConfigError] = {}
        self.jobs = self.make(EMBEDDED)

    async def open(self) -> None:
        """Ends what a server that was killed has left, and sees to it that nothing outlives us.

        Raises:
            ConfigError: it cannot.
        """
        swept = await asyncio.to_thread(self.jobs.sweep)
        if swept:
            log.warning("leftovers_ended", pids=swept)
        self.jobs.guard()

    def close(self) -> None:
        """Lets go of all of them; no VM is left."""
        for driver in self._made.values():
            driver.close()

    async def choose(self, image: HostImage) -> None:
        """Finds the driver of every VM type.

        Args:
            image: what a trial VM starts from.

        Raises:
            ConfigError: this host cannot run one that is named, or it cannot do what its type asks;
                the error names the setting.
        """
        for name, kind in self._settings.vm_types.items():
            check_kept(name, kind)
            wanted: str = kind.driver or self._settings.driver
            if wanted == AUTO:
                wanted = await self._strongest(kind, image)
                self._can_after_all(name, kind, wanted)
                log.info("driver_chosen", vm_type=name, driver=wanted)
            else:
                self._named(name, kind, wanted)
            self._of_types[name] = wanted

    def of_type(self, vm_type: str) -> Driver:
        """The driver new VMs of a type get."""
        return self._made[self._of_types[vm_type]]

    def of(self, name: str) -> Driver:
        """The driver of a VM there is."""
        try:
            return self.make(name)
        except ConfigError as error:
            log.warning("driver_missing", driver=name, error=str(error))
            return Absent(name, error, self.jobs.disk_owner())

    def make(self, name: str) -> Driver:
        """A driver, made if it was not yet.

        Raises:
            ConfigError: there is none of that name, or this host cannot run it.
        """
        if name not in self._made:
            if name not in MAKERS:
                raise ConfigError(f"there is no driver {name!r}", field="driver")
            guest = (self._settings.guest_uid, self._settings.guest_gid)
            self._made[name] = MAKERS[name](guest, self._directory)
        return self._made[name]

    def _named(self, vm_type: str, kind: VmType, driver: str) -> None:
        """Makes sure that a driver can be had and does what a type asks for."""
        field = f"vm_types.{vm_type}.driver" if kind.driver is not None else "driver"
        try:
            made = self.make(driver)
        except ConfigError as error:
            why = f"VMs of type {vm_type} are to be made by {driver}: {error.detail}"
            raise ConfigError(why, field=field, remedy=error.remedy) from None
        lack = lacking(made.capabilities, kind)
        if lack is not None:
            able = [
                f'"{name}"'
                for name in CAPABILITIES
                if name != driver and lacking(CAPABILITIES[name], kind) is None
            ]
            old = forgetful(made) if lack.setting == "keep_memory" else None
            raise ConfigError(
                f"VMs of type {vm_type} are to be made by {driver}, {lack.words}"
                + (f": {old.detail}" if old is not None else ""),
                field=f"vm_types.{vm_type}.{lack.setting}",
                remedy=f"set it to {lack.instead}"
                + (f", or {field} to {' or '.join(able)}" if able else "")
                + (f", or {old.remedy}" if old is not None else ""),
            )

    def _can_after_all(self, vm_type: str, kind: VmType, driver: str) -> None:
        """Makes sure that what is left does what a type asks for."""
        lack = lacking(CAPABILITIES[driver], kind)
        if lack is not None:
            known = self.reasons | self._forgetful
            why = "; ".join(f"{name}: {error.detail}" for name, error in known.items())
            raise ConfigError(
                f"VMs of type {vm_type} can be made by {driver} alone on this host, {lack.words}"
                f"{f' ({why})' if why else ''}",
                field=f"vm_types.{vm_type}.{lack.setting}",
                remedy=f"set it to {lack.instead}, or make the driver work that can: "
                "docs/drivers.md",
            )

    async def _strongest(self, kind: VmType, image: HostImage) -> str:
        for name in MAKERS:
            if lacking(CAPABILITIES[name], kind) is not None or not await self._works(name, image):
                continue
            made = self.make(name)
            if lacking(made.capabilities, kind) is None:
                return name
            if (why := forgetful(made)) is not None:
                self._forgetful[name] = why
        return EMBEDDED

    async def _works(self, name: str, image: HostImage) -> bool:
        """Whether a driver runs programs here, found by having it run one."""
        if name == EMBEDDED:
            return True  # or nothing does
        if name in self.reasons:
            return False
        try:
            made = self.make(name)
            if (reluctant := reluctance(made)) is not None:
                raise reluctant
            await tried(made, image, self._directory)
        except VmExecutionError as error:
            why = error if isinstance(error, ConfigError) else ConfigError(str(error.detail))
            self.reasons[name] = why
            log.info("driver_passed_over", driver=name, why=str(why))
            return False
        return True


def check_kept(vm_type: str, kind: VmType) -> None:
    """Makes sure that a type wants no memory kept that would be worth nothing.

    Raises:
        ConfigError: it does.
    """
    if kind.keep_memory and kind.network != "none":
        raise ConfigError(
            "connections, and the placeholders of secrets, do not outlive the server, and memory "
            "that has them would",
            field=f"vm_types.{vm_type}.keep_memory",
            remedy=f'set it to false, or vm_types.{vm_type}.network to "none"',
        )


@dataclass(frozen=True)
class Lack:
    """What a VM type asks for and a driver cannot do.

    Attributes:
        setting: of the type.
        words: the end of a sentence about the driver.
        instead: what the setting can be.
    """

    setting: str
    words: str
    instead: str


def lacking(capabilities: Capabilities, kind: VmType) -> Lack | None:
    """The first thing a VM type asks for and a driver cannot do; None where it can do all."""
    if kind.image != HOST and not capabilities.images:
        return Lack("image", "which makes VMs of the host's image alone", f'"{HOST}"')
    if kind.keep_memory and not capabilities.memory_across_restart:
        return Lack("keep_memory", "which keeps no memory over a restart of the server", "false")
    if kind.network not in capabilities.network:
        modes = " or ".join(f'"{mode}"' for mode in capabilities.network)
        return Lack("network", f'which has no network "{kind.network}"', modes)
    if kind.allow_builds and capabilities.own_kernel:
        why = "which is not what packages are built in: their code would have the host's kernel"
        return Lack("allow_builds", why, "false")
    return None


async def tried(driver: Driver, image: HostImage, directory: Path) -> None:
    """Has a driver boot a VM and run a program in it, unless that is known to work.

    Args:
        driver: it.
        image: what the VM starts from.
        directory: the data directory, where it is written down that it works.

    Raises:
        ConfigError, ExecutionFailed: it does not.
    """
    notes = directory / TRIED
    stamp = f"{__version__} {platform.release()} {driver.stamp()}"
    try:
        if json.loads(notes.read_text()).get(driver.name) == stamp:
            return
    except (OSError, ValueError, AttributeError):
        pass  # it has not been tried
    place = directory / new_id("trial")
    try:
        await _try(driver, image, place)
    finally:
        await asyncio.to_thread(remove_tree, place)
    staging = notes.with_name(f".{TRIED}.new")
    staging.write_text(json.dumps({driver.name: stamp}))
    staging.replace(notes)


async def _try(driver: Driver, image: HostImage, place: Path) -> None:
    make_directory(place)
    stores = Stores(
        VmStore(place / "vms", driver.disk_owner()),
        LayerStore(place / "layers", driver.disk_owner()),
    )
    record = VmRecord(
        id=new_id("trial"),
        name="trial",
        agent_id=NOBODY,
        vm_type="trial",
        driver=driver.name,
        created_at=utc_now(),
    )
    state = await asyncio.to_thread(stores.vms.create, record)
    layers, disk = stores.layers.family(NOBODY), stores.vms.disk(record.id)
    spec = BootSpec(record.id, image, layers, disk)
    vm = Vm(record, state, driver, spec, stores, TRIAL_S)
    runtime, steps, name = steps_for("python", image)
    code = {name: f"print({WORD!r})"}
    timeout = int(TRIAL_S * 1000)
    try:
        program = Program(runtime, steps, code, {}, WORKSPACE, timeout, 1024, None)
        result = await vm.run(program, None)
    finally:
        await vm.close()
    if result.stdout.decode(errors="replace").strip() != WORD:
        said = result.stderr.decode(errors="replace")[-300:]
        raise ConfigError(f"a VM of {driver.name} booted and ran no program: {said}")
