"""The VMs there are: found, made, forked and removed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from mulligan.drivers.interface import BootSpec
from mulligan.drivers.limits import check_held
from mulligan.engine.drivers import Drivers
from mulligan.engine.images.images import Images
from mulligan.engine.pool.keeper import Keeper
from mulligan.engine.pool.rest import hibernate, idle_s, stop_idle
from mulligan.engine.pool.slots import Slots
from mulligan.engine.pool.spares import Spare, Spares, cores
from mulligan.engine.requests.allowance import Allowance
from mulligan.engine.requests.validation import check_network, check_vm_type
from mulligan.engine.vms.kept import KeptMemory
from mulligan.engine.vms.limits import at_most, check_asked, limits_of, with_others
from mulligan.engine.vms.networks import Networks
from mulligan.engine.vms.quota import bounds_of
from mulligan.engine.vms.state import VmState
from mulligan.engine.vms.store import StoredVm, Stores, VmRecord, new_id
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ConfigError, VmBusy, VmExecutionError, VmNotAvailable
from mulligan.images.host import PACKAGES, HostImage
from mulligan.log import get_logger
from mulligan.models import (
    VmCreateRequest,
    utc_now,
)
from mulligan.packages.store import pool_of_sets
from mulligan.settings import Settings

log = get_logger()
OWN = (
    "disk_mb",
    "memory_mb",
    "vcpus",
    "max_processes",
    "network",
    "allow",
)  # what spare VMs have as their type has it
Result = TypeVar("Result")


class Owner(Protocol):
    """Does something to its end, even if whoever asked for it is cancelled meanwhile."""

    async def __call__(self, work: Coroutine[Any, Any, Result]) -> Result: ...


class Fleet:
    """All VMs of an engine, by their ids in ``vms``."""

    def __init__(
        self,
        settings: Settings,
        images: Images,
        drivers: Drivers,
        stores: Stores,
        owned: Owner,
        allowance: Allowance,
    ) -> None:
        self.vms: dict[str, Vm] = {}
        self.images = images
        self.stores = stores
        self._settings = settings
        self._drivers = drivers
        self._owned = owned
        self._allowance = allowance
        self._creating: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._boots: set[asyncio.Task[None]] = set()
        self._closing = False
        self.networks: Networks | None = None
        self.slots = Slots(settings.pool, self._make_room)
        self.spares = Spares(
            settings,
            lambda vm_type: drivers.of_type(vm_type).name,
            stores,
            self._spare,
            self._owned_by,
            self._busy,
            self._full,
            images,
        )
        self._keeper: Keeper | None = None

    def load(self, found: list[StoredVm]) -> None:
        """Takes in the VMs that are on disk; one whose image is gone is left alone there."""
        for stored in found:
            try:
                self.vms[stored.record.id] = self._vm(stored)
            except ConfigError as error:
                log.error("vm_unreadable", detail=f"{stored.record.id}: {error}")  # noqa: TRY400

    def keep(self, delete: Callable[[str], Awaitable[None]]) -> None:
        """Begins to look after VMs, by themselves; ``delete`` removes one that has expired."""
        self._keeper = Keeper(self._settings.pool, self.vms.values, self.spares, delete)

    async def close(self) -> None:
        """Stops all of them, for good."""
        self._closing = True
        if self._keeper is not None:
            await self._keeper.close()
        await self.spares.close()
        await asyncio.gather(*(vm.close() for vm in self.vms.values()))
        if self._boots:
            await asyncio.wait(self._boots)
        if self.networks is not None:
            await self.networks.close()

    def find(self, vm_id: str, agent_id: str | None = None) -> Vm:
        """A VM by its id; with ``agent_id``, only if it is that agent's.

        Raises:
            VmNotAvailable: there is none.
        """
        vm = self.vms.get(vm_id)
        if vm is None or agent_id not in (None, vm.record.agent_id):
            raise VmNotAvailable(vm_id[:100], field="vm_id")
        return vm

    def of(self, agent_id: str | None = None) -> list[Vm]:
        """All VMs, or those of an agent, oldest first."""
        vms = sorted(self.vms.values(), key=lambda vm: vm.record.created_at)
        return [vm for vm in vms if agent_id in (None, vm.record.agent_id)]

    async def wait(self, vm_id: str, agent_id: str | None, seconds: float) -> None:
        """Waits until a VM does not boot, or is removed; for so many seconds at the most.

        Raises:
            VmNotAvailable: there is none.
        """
        await self.find(vm_id, agent_id).life.settle(seconds)

    async def vm_for(self, agent_id: str, vm_id: str | None) -> Vm:
        """The VM an execution goes to: the one named, else the agent's first, else a new one.

        Raises:
            VmNotAvailable: there is none, and none is made unasked.
        """
        if vm_id is not None:
            return self.find(vm_id, agent_id)
        lock = self._creating.setdefault(agent_id, asyncio.Lock())
        async with lock:
            own = self.of(agent_id)
            if own:
                return own[0]
            if not self._settings.auto_provision:
                raise VmNotAvailable(
                    f"agent {agent_id} has none",
                    field="vm_id",
                    remedy="create one with POST /api/vms, or set auto_provision",
                )
            request = VmCreateRequest(vm_type=self._settings.default_vm_type)
            return await self.create(agent_id, f"agent-{agent_id}-vm", request)

    def image_for(self, agent_id: str, vm_id: str | None) -> HostImage:
        """What the VM is, or would be, that an execution goes to; see ``vm_for``."""
        if vm_id is not None:
            return self.find(vm_id, agent_id).spec.image
        own = self.of(agent_id)
        if own:
            return own[0].spec.image
        return self.images.of_type(self._settings.default_vm_type)

    def fitting(
        self, vm_type: str, wanted: dict[str, int | None]
    ) -> tuple[VmCreateRequest, list[str]]:
        """A request for a VM of a type with what of it is wanted, and a note where that is less."""
        fields, notes = at_most(self._settings.vm_types.get(vm_type), wanted)
        return VmCreateRequest(vm_type=vm_type, **fields), notes

    async def create(
        self, agent_id: str, name: str, request: VmCreateRequest, *, session: bool = False
    ) -> Vm:
        """Makes a VM of the type and with the bounds of a request.

        Raises:
            ValidationFailed: there is no such type, or it does not have so much.
            TooManyRequests: the agent has as many as it may.
            ConfigError: the data directory takes no more, nothing holds a limit of it, or there is
                no image of the name its type has.
        """
        check_vm_type(request.vm_type, request.disk_mb, self._settings)
        check_asked(request, self._settings)
        allow = check_network(request, self._settings)
        driver = self._drivers.of_type(request.vm_type)
        record = VmRecord(
            id=new_id("vm"),
            name=name,
            agent_id=agent_id,
            vm_type=request.vm_type,
            driver=driver.name,
            created_at=self._created_now(),
            disk_mb=request.disk_mb,
            session=session,
            memory_mb=request.memory_mb,
            vcpus=request.vcpus,
            max_processes=request.max_processes,
            network=request.network,
            allow=allow,
            image=self.images.of_type(request.vm_type).digest,
        )
        if self._settings.limits_required:
            limits = driver.limits(limits_of(self._settings, record))
            check_held(limits, self._settings.limits_required)
        self.images.pin(record.image)
        return await self._owned(self._add_allowed(record))

    async def fork(self, vm: Vm, name: str, base: str | None) -> Vm:
        """A VM of the same agent and type that goes on from a layer."""
        changes = {
            "id": new_id("vm"),
            "name": name,
            "created_at": self._created_now(),
            "session": False,
        }
        return await self._add(vm.record.model_copy(update=changes), base)

    def _created_now(self) -> datetime:
        """The time, but never before that of a VM there is: an agent's oldest one is its own."""
        others = [vm.record.created_at + timedelta(microseconds=1) for vm in self.vms.values()]
        return max([utc_now(), *others])

    async def _add_allowed(self, record: VmRecord) -> Vm:
        agent_id = record.agent_id
        try:
            with self._allowance.vms(agent_id, len(self.of(agent_id)), 1):
                if all(getattr(record, name) is None for name in OWN):
                    leased = await self.spares.lease(
                        record, self._give, first=lambda: not self._owned_by()[agent_id]
                    )
                    if leased is not None:
                        await self._added(leased)
                        return leased
                return await self._add(record)
        finally:
            self.images.unpin(record.image)

    def _give(self, spare: Spare, record: VmRecord) -> None:
        spare.vm.lease(record, self._spec(record, self.stores.layers.family(record.agent_id)))
        self.vms[record.id] = spare.vm

    async def _add(self, record: VmRecord, base: str | None = None) -> Vm:
        try:
            state = await asyncio.to_thread(self.stores.vms.create, record, base)
        except OSError as error:
            where = self._settings.data_dir
            raise ConfigError(
                f"cannot make a VM in {where}: {error.strerror}", field="data_dir"
            ) from None
        vm = self.vms[record.id] = self._vm(StoredVm(record, state))
        await self._added(vm)
        self.spares.tend()
        return vm

    async def _added(self, vm: Vm) -> None:
        if self._closing:
            await vm.close()  # it was made while the others were closed
        record = vm.record
        log.info("vm_created", vm_id=record.id, agent_id=record.agent_id, vm_type=record.vm_type)

    def _vm(self, stored: StoredVm) -> Vm:
        record = stored.record
        spec = self._spec(record, self.stores.layers.family(record.agent_id))
        return self._made(record, stored.state, spec)

    def _spare(self, record: VmRecord, layers: Path, vm_id: str) -> Vm:
        """A VM that is nobody's; what its processes are called by is the id it will have."""
        spec = replace(self._spec(record, layers), vm_id=vm_id)
        return self._made(record, VmState(), spec, spare=True)

    def _spec(self, record: VmRecord, layers: Path) -> BootSpec:
        return BootSpec(
            vm_id=record.id,
            image=self.images.of(record.image),
            layers=layers,
            disk=self.stores.vms.disk(record.id),
            limits=limits_of(self._settings, record),
            limits_required=self._settings.limits_required,
            shares=((pool_of_sets(self._settings), PACKAGES),),
        )

    def _made(self, record: VmRecord, state: VmState, spec: BootSpec, *, spare: bool = False) -> Vm:
        timeout = self._settings.boot_timeout_seconds
        bounds = bounds_of(self._settings, record.vm_type, record.disk_mb)
        driver = self._drivers.of(record.driver)
        held = with_others(driver.limits(spec.limits), bounds, self._settings)
        network = None
        if self.networks is not None:
            network = self.networks.of(record, self.stores.vms.trust(record.id))
        vm = Vm(
            record,
            state,
            driver,
            spec,
            self.stores,
            timeout,
            bounds,
            held,
            self.slots,
            network,
            spare=spare,
        )
        known = self._settings.vm_types.get(record.vm_type)
        if known is not None:
            if known.keep_memory and driver.capabilities.memory_across_restart:
                vm.kept = KeptMemory(vm)
            vm.life.wear = (known.recycle_after_executions, known.recycle_after_hours)
        return vm

    # How many there are

    def _owned_by(self) -> Counter[str]:
        return Counter(vm.record.agent_id for vm in self.vms.values())

    def _busy(self) -> bool:
        return sum(vm.busy or vm.life.booting for vm in self.vms.values()) >= cores()

    def _full(self) -> bool:
        return self.slots.full

    async def _make_room(self, agent_id: str | None) -> bool:
        """Puts to rest what can be missed most: spare VMs, else the one idle for longest."""
        if agent_id is None and await self.spares.evict():
            return True
        for vm in sorted(self.of(agent_id), key=idle_s, reverse=True):
            if await hibernate(vm):
                return True
        return False

    def boot_soon(self, vm: Vm) -> None:
        """Boots a VM nobody waits for: whoever does can see it in its status."""
        if vm.connection is not None:
            return
        vm.life.boots()
        task = asyncio.create_task(self._boot(vm))
        self._boots.add(task)
        task.add_done_callback(self._boots.discard)

    async def _boot(self, vm: Vm) -> None:
        try:
            await vm.start()
        except VmExecutionError as error:  # the first execution says so, too
            log.warning("vm_not_booted", vm_id=vm.record.id, error=str(error))
        finally:
            vm.life.settles()

    async def stop(self, vm_id: str, agent_id: str | None = None) -> Vm:
        """Ends a VM's processes, kernels among them, until the next request; its disk stays.

        Raises:
            VmNotAvailable: there is none.
            VmBusy: an execution or a terminal is in it.
        """
        vm = self.find(vm_id, agent_id)
        if vm.life.booting:
            await self.wait(vm_id, agent_id, self._settings.boot_timeout_seconds)
        if not await stop_idle(vm):
            raise VmBusy(
                f"{vm_id} runs something",
                field="vm_id",
                remedy="stop it when that has ended, or cancel it first",
            )
        return vm

    async def remove(self, vm: Vm) -> None:
        """Stops a VM and removes everything it wrote."""
        self.vms.pop(vm.record.id, None)
        await vm.close()
        if not self._owned_by()[vm.record.agent_id]:
            self.spares.forget(vm.record.agent_id)
        self.spares.tend()
        await asyncio.to_thread(self.stores.vms.delete, vm.record.id)

    def forgotten(self, agent_id: str) -> None:
        """Removes the directory of an agent's layers, if it has neither VMs nor layers."""
        if not self._owned_by()[agent_id] and not self.spares.giving[agent_id]:
            self.spares.forget(agent_id)
            self.stores.layers.forget(agent_id)

    def layers_used(self, agent_id: str) -> tuple[set[str], set[str]]:
        """The layers an agent's VMs stand on, and the trees they have mounted."""
        tops: set[str] = set()
        used: set[str] = set()
        for vm in list(self.vms.values()):
            if vm.record.agent_id == agent_id:
                used.update(vm.stack_in_use)
                if vm.state.base is not None:
                    tops.add(vm.state.base)
        return tops, used
