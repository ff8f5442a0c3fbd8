"""The VMs there are: found, made, forked and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from mulligan.drivers.interface import BootSpec, Driver
from mulligan.drivers.limits import check_held
from mulligan.engine.allowance import Allowance
from mulligan.engine.limits import at_most, check_asked, limits_of, with_others
from mulligan.engine.quota import bounds_of
from mulligan.engine.store import StoredVm, VmRecord, new_id
from mulligan.engine.validation import check_vm_type
from mulligan.engine.vm import Stores, Vm
from mulligan.errors import ConfigError, VmExecutionError, VmNotAvailable
from mulligan.images.host import HostImage
from mulligan.log import get_logger
from mulligan.models import (
    VmCreateRequest,
    VmExecutionConfig,
    VmInstance,
    VmPoolResponse,
    utc_now,
)
from mulligan.settings import Settings

log = get_logger()
Result = TypeVar("Result")


class Owner(Protocol):
    """Does something to its end, even if whoever asked for it is cancelled meanwhile."""

    async def __call__(self, work: Coroutine[Any, Any, Result]) -> Result: ...


class Fleet:
    """All VMs of an engine, by their ids in ``vms``."""

    def __init__(
        self,
        settings: Settings,
        image: HostImage,
        driver: Driver,
        stores: Stores,
        owned: Owner,
        allowance: Allowance,
    ) -> None:
        self.vms: dict[str, Vm] = {}
        self.image = image
        self.stores = stores
        self._settings = settings
        self._driver = driver
        self._owned = owned
        self._allowance = allowance
        self._creating: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._boots: set[asyncio.Task[None]] = set()
        self._closing = False

    def load(self, found: list[StoredVm]) -> None:
        """Takes in the VMs that are on disk."""
        self.vms.update((vm.record.id, self._vm(vm)) for vm in found)

    async def close(self) -> None:
        """Stops all of them, for good."""
        self._closing = True
        await asyncio.gather(*(vm.close() for vm in self.vms.values()))
        if self._boots:
            await asyncio.wait(self._boots)

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
            ConfigError: the data directory takes no more, or nothing holds a limit of it.
        """
        check_vm_type(request.vm_type, request.disk_mb, self._settings)
        check_asked(request, self._settings)
        record = VmRecord(
            id=new_id("vm"),
            name=name,
            agent_id=agent_id,
            vm_type=request.vm_type,
            driver=self._driver.name,
            created_at=self._created_now(),
            disk_mb=request.disk_mb,
            session=session,
            memory_mb=request.memory_mb,
            vcpus=request.vcpus,
            max_processes=request.max_processes,
        )
        if self._settings.limits_required:
            check_held(self._driver.limits(limits_of(self._settings, record)))
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
        with self._allowance.vms(record.agent_id, len(self.of(record.agent_id)), 1):
            return await self._add(record)

    async def _add(self, record: VmRecord, base: str | None = None) -> Vm:
        try:
            state = await asyncio.to_thread(self.stores.vms.create, record, base)
        except OSError as error:
            where = self._settings.data_dir
            raise ConfigError(
                f"cannot make a VM in {where}: {error.strerror}", field="data_dir"
            ) from None
        vm = self.vms[record.id] = self._vm(StoredVm(record, state))
        if self._closing:
            await vm.close()  # it was made while the others were closed
        log.info("vm_created", vm_id=record.id, agent_id=record.agent_id, vm_type=record.vm_type)
        return vm

    def _vm(self, stored: StoredVm) -> Vm:
        record = stored.record
        asked = limits_of(self._settings, record)
        spec = BootSpec(
            vm_id=record.id,
            image=self.image,
            layers=self.stores.layers.family(record.agent_id),
            disk=self.stores.vms.disk(record.id),
            limits=asked,
            limits_required=self._settings.limits_required,
        )
        timeout = self._settings.boot_timeout_seconds
        bounds = bounds_of(self._settings, record.vm_type, record.disk_mb)
        held = with_others(self._driver.limits(asked), bounds, self._settings)
        return Vm(record, stored.state, self._driver, spec, self.stores, timeout, bounds, held)

    def boot_soon(self, vm: Vm) -> None:
        """Boots a VM nobody waits for: whoever does can see it in its status."""
        task = asyncio.create_task(self._boot(vm))
        self._boots.add(task)
        task.add_done_callback(self._boots.discard)

    async def _boot(self, vm: Vm) -> None:
        try:
            await vm.start()
        except VmExecutionError as error:  # the first execution says so, too
            log.warning("vm_not_booted", vm_id=vm.record.id, error=str(error))

    async def remove(self, vm: Vm) -> None:
        """Stops a VM and removes everything it wrote."""
        self.vms.pop(vm.record.id, None)
        await vm.close()
        await asyncio.to_thread(self.stores.vms.delete, vm.record.id)

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


def pool_of(settings: Settings, agent_id: str, vms: list[VmInstance]) -> VmPoolResponse:
    """An agent's VMs, those that run something apart from the others, and what the settings say."""
    busy = [vm for vm in vms if vm.status == "running"]
    given = {
        name: getattr(settings, name)
        for name in VmExecutionConfig.model_fields
        if name in type(settings).model_fields and name != "history"
    }
    return VmPoolResponse(
        agent_id=agent_id,
        available_vms=[vm for vm in vms if vm not in busy],
        in_use_vms=busy,
        pool_config=VmExecutionConfig(enabled=True, **given),
    )
