"""The engine: takes requests, finds the VM, runs the program, and says how it went.

Every face (library, CLI, HTTP) is a thin layer over this class.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from mulligan.drivers.bubblewrap.driver import BubblewrapDriver
from mulligan.drivers.interface import BootSpec, Driver
from mulligan.engine.connection import OutputCallback
from mulligan.engine.execution import Watcher
from mulligan.engine.executions import Executions
from mulligan.engine.gates import Gates
from mulligan.engine.lock import DirectoryLock
from mulligan.engine.maintenance import Maintenance, layers_of
from mulligan.engine.past import Past
from mulligan.engine.quota import bounds_of
from mulligan.engine.recording import Recording
from mulligan.engine.runner import Runner
from mulligan.engine.store import StoredVm, VmRecord, VmStore, new_id
from mulligan.engine.timemachine import TimeMachine
from mulligan.engine.validation import check_vm_request, check_vm_type
from mulligan.engine.vm import Stores, Vm
from mulligan.errors import ConfigError, ExecutionFailed, VmNotAvailable
from mulligan.history import HistoryStore
from mulligan.hooks.approver import Approver
from mulligan.images.host import HostImage, prepare
from mulligan.layers.directories import make_directory
from mulligan.layers.store import LayerStore
from mulligan.log import get_logger
from mulligan.models import (
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
    utc_now,
)
from mulligan.settings import Settings

log = get_logger()

Result = TypeVar("Result")


class Engine:
    """Serves one data directory. Use as an async context manager, or ``open`` and ``close``."""

    def __init__(
        self,
        settings: Settings,
        lock: DirectoryLock | None = None,
        approver: Approver | None = None,
    ) -> None:
        """Takes settings, the lock of their directory if the caller has it, and who is asked."""
        self.settings = settings
        self._lock = lock
        self._parts: tuple[HostImage, Driver, Stores] | None = None
        self._vms: dict[str, Vm] = {}
        self._creating: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._history: HistoryStore | None = None
        self._maintenance: Maintenance | None = None
        self._machine: TimeMachine | None = None
        self._past: Past | None = None
        self._executions: Executions | None = None
        self._gates: Gates | None = None
        self._runner: Runner | None = None
        self._approver = approver
        self._closing = False

    async def __aenter__(self) -> Engine:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Makes ready to execute.

        Raises:
            ConfigError: the data directory is in use or not writable, or the host lacks something.
        """
        directory = self.settings.data_dir
        if self._lock is None:
            self._lock = DirectoryLock(directory)
        try:
            guest = (self.settings.guest_uid, self.settings.guest_gid)
            driver = BubblewrapDriver(guest, directory)
            swept = await asyncio.to_thread(driver.sweep)
            if swept:
                log.warning("leftovers_ended", pids=swept)
            make_directory(directory / "images")
            image = await asyncio.to_thread(prepare, directory / "images", driver.disk_owner())
            stores, found = await self._load(driver)
            history = await self._remember(stores)
            self._parts = (image, driver, stores)
            self._vms.update((vm.record.id, self._vm(vm)) for vm in found)
            self._serve(image, driver, stores, history)
        except BaseException:
            self._release()
            raise

    async def _load(self, driver: Driver) -> tuple[Stores, list[StoredVm]]:
        """The VMs and layers there are; what was half done is finished or undone."""
        directory, durable = self.settings.data_dir, self.settings.durability == "power"
        layers = LayerStore(directory / "layers", driver.disk_owner(), durable=durable)
        for complaint in await asyncio.to_thread(layers.load):
            log.error("layer_damaged", detail=complaint)
        store = VmStore(directory / "vms", driver.disk_owner(), durable=durable)
        found, complaints = await asyncio.to_thread(store.load, layers)
        for complaint in complaints:
            log.error("vm_unreadable", detail=complaint)
        return Stores(store, layers), found

    async def _remember(self, stores: Stores) -> HistoryStore:
        """The history, without what is of VMs that are gone."""
        history = self._history = HistoryStore(
            self.settings.data_dir / "history",
            url=self.settings.database_url,
            durability=self.settings.durability,
            persist=self.settings.history.persist_history,
        )
        lost = await asyncio.to_thread(history.open)
        if lost:
            log.warning("executions_lost", execution_ids=lost)
        await asyncio.to_thread(history.forget_all_but, stores.vms.ids())
        return history

    def _serve(
        self, image: HostImage, driver: Driver, stores: Stores, history: HistoryStore
    ) -> None:
        """Puts together what requests go through."""
        kept = functools.partial(layers_of, history)
        maintenance = Maintenance(driver, image, stores, kept, self._layers_used)
        machine = TimeMachine(history, maintenance)
        gates = Gates(self.settings, history, self._approver)
        record = functools.partial(
            Recording, self.settings.history, history, machine, maintenance, gates.clean
        )
        self._maintenance, self._machine, self._gates = maintenance, machine, gates
        self._runner = Runner(self.settings, image, gates, record, self._vm_for, self._owned)
        self._past = Past(
            history,
            machine,
            maintenance,
            find=self._find,
            owned=self._owned,
            add=self._fork,
            clean=gates.clean,
            enabled=lambda: self.settings.history.enabled,
            vms=self._vms.values,
        )
        self._executions = Executions(self.settings.streams, self.execute, self._find, history.get)

    async def close(self) -> None:
        """Stops every VM, whatever runs in it. Their disks stay for the next time.

        From its beginning nothing new starts; the directory is let go when nothing runs any more,
        even if this is cancelled.
        """
        self._closing = True
        await self._owned(self._close())

    async def _close(self) -> None:
        if self._maintenance is not None:
            await self._maintenance.close()
        await asyncio.gather(*(vm.close() for vm in self._vms.values()))
        if self._executions is not None:
            await self._executions.close()
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        self._vms.clear()
        self._parts = None
        self._release()

    @property
    def past(self) -> Past:
        """History, snapshots, rollback, fork and diff."""
        self._opened()
        assert self._past is not None
        return self._past

    @property
    def gates(self) -> Gates:
        """Hooks, approvals and secrets."""
        self._opened()
        assert self._gates is not None
        return self._gates

    @property
    def executions(self) -> Executions:
        """Executions that nobody has to wait for: start, listen, cancel."""
        self._opened()
        assert self._executions is not None
        return self._executions

    async def settle(self) -> None:
        """Waits until nothing is left to do in the background."""
        if self._maintenance is not None:
            await self._maintenance.settle()

    def _layers_used(self, agent_id: str) -> tuple[set[str], set[str]]:
        """The layers an agent's VMs stand on, and the trees they have mounted."""
        tops: set[str] = set()
        used: set[str] = set()
        for vm in list(self._vms.values()):
            if vm.record.agent_id == agent_id:
                used.update(vm.stack_in_use)
                if vm.state.base is not None:
                    tops.add(vm.state.base)
        return tops, used

    async def _owned(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does something to its end, even if whoever asked for it is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _release(self) -> None:
        if self._gates is not None:
            self._gates.close()
            self._gates = None
        if self._history is not None:
            self._history.close()
            self._history = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def languages(self) -> list[str]:
        """The languages that are allowed and that this host has."""
        toolchains = self._opened()[0].toolchains
        return [name for name in self.settings.allowed_languages if name in toolchains]

    # Executions

    async def execute(
        self,
        request: VmExecuteRequest,
        on_output: OutputCallback | None = None,
        *,
        watcher: Watcher | None = None,
    ) -> VmExecuteResponse:
        """Runs code. Cancelling this ends it.

        Args:
            request: see the model.
            on_output: called with "stdout" or "stderr" and each piece of output as it comes.
            watcher: told how far it is.

        Raises:
            VmExecutionError: the request was refused, or the VM failed. A program that fails, or
                runs into its time limit, is no error: the response says so.
        """
        self._opened()
        assert self._runner is not None
        return await self._runner.execute(request, on_output, watcher)

    # VMs

    async def create_vm(self, request: VmCreateRequest) -> VmInstance:
        """Makes a VM. It boots when it is first needed.

        Raises:
            ValidationFailed: there is no such type, or a name is not acceptable.
            ConfigError: the data directory takes no more.
        """
        agent_id, name = check_vm_request(request)
        return (await self._create(agent_id, name, request.vm_type, request.disk_mb)).instance()

    def get_vm(self, vm_id: str, agent_id: str | None = None) -> VmInstance:
        """A VM by its id; with ``agent_id``, only if it is that agent's.

        Raises:
            VmNotAvailable: there is none.
        """
        return self._find(vm_id, agent_id).instance()

    def list_vms(self, agent_id: str | None = None) -> list[VmInstance]:
        """All VMs, or those of an agent, oldest first."""
        vms = sorted(self._vms.values(), key=lambda vm: vm.record.created_at)
        return [vm.instance() for vm in vms if agent_id in (None, vm.record.agent_id)]

    async def delete_vm(self, vm_id: str, agent_id: str | None = None) -> None:
        """Stops a VM and removes it and everything it wrote.

        Raises:
            VmNotAvailable: there is none.
        """
        vm = self._find(vm_id, agent_id)
        _, _, stores = self._opened()
        del self._vms[vm_id]
        await self._owned(self._delete(vm, stores))
        log.info("vm_deleted", vm_id=vm_id, agent_id=vm.record.agent_id)

    async def _delete(self, vm: Vm, stores: Stores) -> None:
        await vm.close()
        await asyncio.to_thread(stores.vms.delete, vm.record.id)
        if self._history is not None and self._machine is not None:
            await asyncio.to_thread(self._history.forget_vm, vm.record.id)
            self._machine.forget(vm.record.id)
        if self._maintenance is not None:
            self._maintenance.look_at(vm.record.agent_id)

    async def _vm_for(self, agent_id: str, vm_id: str | None) -> Vm:
        """The VM an execution goes to: the one named, else the agent's, else a new one."""
        if vm_id is not None:
            return self._find(vm_id, agent_id)
        lock = self._creating.setdefault(agent_id, asyncio.Lock())
        async with lock:
            own = [vm for vm in self._vms.values() if vm.record.agent_id == agent_id]
            if own:
                return min(own, key=lambda vm: vm.record.created_at)
            if not self.settings.auto_provision:
                raise VmNotAvailable(
                    f"agent {agent_id} has none",
                    field="vm_id",
                    remedy="create one with POST /api/vms, or set auto_provision",
                )
            return await self._create(
                agent_id, f"agent-{agent_id}-vm", self.settings.default_vm_type
            )

    async def _create(
        self, agent_id: str, name: str, vm_type: str, disk_mb: int | None = None
    ) -> Vm:
        _, driver, stores = self._opened()
        check_vm_type(vm_type, disk_mb, self.settings)
        record = VmRecord(
            id=new_id("vm"),
            name=name,
            agent_id=agent_id,
            vm_type=vm_type,
            driver=driver.name,
            created_at=self._created_now(),
            disk_mb=disk_mb,
        )
        return await self._owned(self._add(record, stores))

    async def _fork(self, vm: Vm, name: str, base: str | None) -> Vm:
        """A VM of the same agent and type that goes on from a layer."""
        stores = self._opened()[2]
        changes = {"id": new_id("vm"), "name": name, "created_at": self._created_now()}
        return await self._add(vm.record.model_copy(update=changes), stores, base)

    def _created_now(self) -> datetime:
        """The time, but never before that of a VM there is: an agent's oldest one is its own."""
        others = [vm.record.created_at + timedelta(microseconds=1) for vm in self._vms.values()]
        return max([utc_now(), *others])

    async def _add(self, record: VmRecord, stores: Stores, base: str | None = None) -> Vm:
        try:
            state = await asyncio.to_thread(stores.vms.create, record, base)
        except OSError as error:
            raise ConfigError(
                f"cannot make a VM in {self.settings.data_dir}: {error.strerror}", field="data_dir"
            ) from None
        vm = self._vms[record.id] = self._vm(StoredVm(record, state))
        if self._closing:
            await vm.close()  # it was made while the others were closed
        log.info("vm_created", vm_id=record.id, agent_id=record.agent_id, vm_type=record.vm_type)
        return vm

    def _vm(self, stored: StoredVm) -> Vm:
        assert self._parts is not None
        image, driver, stores = self._parts
        record = stored.record
        spec = BootSpec(
            vm_id=record.id,
            image=image,
            layers=stores.layers.family(record.agent_id),
            disk=stores.vms.disk(record.id),
        )
        timeout = self.settings.boot_timeout_seconds
        bounds = bounds_of(self.settings, record.vm_type, record.disk_mb)
        return Vm(record, stored.state, driver, spec, stores, timeout, bounds)

    def _find(self, vm_id: str, agent_id: str | None) -> Vm:
        vm = self._vms.get(vm_id)
        if vm is None or agent_id not in (None, vm.record.agent_id):
            raise VmNotAvailable(vm_id[:100], field="vm_id")
        return vm

    def _opened(self) -> tuple[HostImage, Driver, Stores]:
        if self._closing:
            raise ExecutionFailed("Mulligan is shutting down")
        if self._parts is None:
            raise RuntimeError("the engine is not open")
        return self._parts
