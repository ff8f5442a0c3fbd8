"""The engine: takes requests, finds the VM, runs the program, and says how it went.

Every face (library, CLI, HTTP) is a thin layer over this class.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine
from typing import Any, TypeVar

from mulligan.drivers.interface import Driver
from mulligan.engine.draining import drained
from mulligan.engine.drivers import Drivers
from mulligan.engine.executions.execution import Watcher
from mulligan.engine.executions.executions import Executions
from mulligan.engine.executions.gates import Gates
from mulligan.engine.executions.recording import Recording
from mulligan.engine.executions.runner import Runner
from mulligan.engine.files.files import Files
from mulligan.engine.files.undo import FileUndo
from mulligan.engine.fleet import Fleet
from mulligan.engine.images.images import Images, open_images
from mulligan.engine.images.jobs import ImageJobs
from mulligan.engine.loading import history_of, load_stores, open_history
from mulligan.engine.lock import DirectoryLock
from mulligan.engine.packages.packages import open_packages
from mulligan.engine.past.maintenance import Maintenance, layers_of
from mulligan.engine.past.past import Past
from mulligan.engine.past.timemachine import TimeMachine
from mulligan.engine.pool.report import pool_of
from mulligan.engine.requests.admission import Admission, stopping
from mulligan.engine.requests.allowance import Allowance
from mulligan.engine.requests.answers import Answers
from mulligan.engine.requests.once import Once
from mulligan.engine.requests.sessions import Sessions
from mulligan.engine.requests.validation import check_vm_request
from mulligan.engine.terminals.terminals import Terminals
from mulligan.engine.vms.networks import Networks
from mulligan.engine.vms.program import OutputCallback
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ConfigError, VmNotAvailable
from mulligan.history import HistoryStore
from mulligan.hooks.approver import Approver
from mulligan.images.host import prepare
from mulligan.layers.directories import make_directory
from mulligan.log import get_logger
from mulligan.models import (
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
    VmPoolResponse,
)
from mulligan.network.resolving import Resolver
from mulligan.settings import Settings
from mulligan.telemetry import Stage

log = get_logger()
Result = TypeVar("Result")
Part = TypeVar("Part")


class Engine:
    """Serves one data directory. Use as an async context manager, or ``open`` and ``close``."""

    def __init__(
        self,
        settings: Settings,
        lock: DirectoryLock | None = None,
        approver: Approver | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        """Takes settings, the lock of their directory if the caller has it, and who is asked.

        ``resolver`` turns names VMs ask for into addresses; by default this machine's does.
        """
        self.settings = settings
        self._lock = lock
        self._drivers: Drivers | None = None
        self._images: Images | None = None
        self._fleet: Fleet | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._history: HistoryStore | None = None
        self._maintenance: Maintenance | None = None
        self._machine: TimeMachine | None = None
        self._past: Past | None = None
        self._executions: Executions | None = None
        self._files: Files | None = None
        self._gates: Gates | None = None
        self._runner: Runner | None = None
        self._approver, self._resolver = approver, resolver
        self._allowance = Allowance(settings.limits)
        self.admission = Admission(settings.admission, self._allowance)
        self._draining = False
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
            drivers = self._drivers = Drivers(self.settings)
            await drivers.open()
            driver = drivers.jobs
            make_directory(directory / "images")
            image = await asyncio.to_thread(prepare, directory / "images", driver.disk_owner())
            await drivers.choose(image)
            stores, found = await load_stores(self.settings, driver)
            recorded = [each.record.image for each in found]
            images = await asyncio.to_thread(open_images, self.settings, image, recorded)
            self._images = images
            history = self._history = history_of(self.settings)
            await open_history(history, stores)
            self.once = Once(history, self.settings.idempotency, self._owned)
            await self.once.open()
            fleet = Fleet(self.settings, images, drivers, stores, self._owned, self._allowance)
            self.packages = await open_packages(self.settings, image, driver, stores, fleet.of)
            self.image_jobs = ImageJobs(self.settings, images.let_go)
            await self.image_jobs.open()
            self._serve(fleet, driver, history)
            fleet.load(found)
            fleet.keep(self.delete_vm)
            self._fleet = fleet
        except BaseException:
            self._release()
            raise

    def _serve(self, fleet: Fleet, driver: Driver, history: HistoryStore) -> None:
        """Puts together what requests go through."""
        kept = functools.partial(layers_of, history)
        maintenance = Maintenance(
            driver, fleet.images.host, fleet.stores, kept, fleet.layers_used, fleet.forgotten
        )
        gates = Gates(self.settings, history, self._approver)
        machine = TimeMachine(history, maintenance, gates.clean)
        record = functools.partial(
            Recording, self.settings.history, history, machine, maintenance, gates.clean
        )
        self._maintenance, self._machine, self._gates = maintenance, machine, gates
        fleet.networks = Networks(self.settings, history, gates, self._resolver)
        self._runner = Runner(
            self.settings, fleet, gates, record, self._owned, self.admission, self.packages
        )
        self._past = Past(
            history,
            machine,
            maintenance,
            find=fleet.find,
            owned=self._owned,
            add=fleet.fork,
            remove=fleet.remove,
            clean=gates.clean,
            clean_path=gates.clean_path,
            enabled=lambda: self.settings.history.enabled,
            vms=fleet.vms.values,
            allowance=self._allowance,
        )
        self._files = Files(
            self.settings.files,
            str(fleet.images.host.python),
            find=fleet.find,
            owned=self._owned,
            keep=FileUndo(self.settings.history, history, machine, maintenance).keep,
            room=self._past.check_stored,
            clean=gates.clean,
        )
        self._executions = Executions(self.settings.streams, self.execute, fleet.find, history.get)
        self.sessions = Sessions(
            fleet, self._past, self.execute, self.delete_vm, self.settings.default_vm_type
        )
        stops = self.settings.answers.stop_on_failure
        self.answers = Answers(self.execute, self.create_vm, stop_on_failure=stops)
        self.terminals = Terminals(self._runner, lambda: self.fleet, self._past, self._allowance)

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Takes no new work, and gives what runs some time to end; ``close`` is to follow.

        What waits for its turn is turned away. One may still listen to executions, and cancel them.

        Args:
            hurry: set when there is no more time.
        """
        self._draining = True
        await drained(self.admission, self.settings.admission.shutdown_seconds, hurry)

    async def close(self) -> None:
        """Stops every VM, whatever runs in it. Their disks stay for the next time.

        From its beginning nothing new starts; the directory is let go when nothing runs any more,
        even if this is cancelled.
        """
        self._closing = True
        self.admission.stop()
        await self._owned(self._close())

    async def _close(self) -> None:
        if self._gates is not None:
            self._gates.stop()
        if self._maintenance is not None:
            await self._maintenance.close()
        if self._fleet is not None:
            await self._fleet.close()
            await self.packages.close()
            await self.image_jobs.close()
        if self._executions is not None:
            await self._executions.close()
            await self.terminals.close()
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        self._fleet = None
        self._release()

    @property
    def past(self) -> Past:
        """History, snapshots, rollback, fork and diff."""
        return self._part(self._past, work=True)

    @property
    def gates(self) -> Gates:
        """Hooks, approvals and secrets."""
        return self._part(self._gates, work=False)

    @property
    def files(self) -> Files:
        """Files of VMs: read, write, list, move and remove them."""
        return self._part(self._files, work=True)

    @property
    def executions(self) -> Executions:
        """Executions that nobody has to wait for: start, listen, cancel."""
        return self._part(self._executions, work=False)

    @property
    def failure(self) -> str | None:
        """What is wrong with the work in the background, in one line; None if nothing is."""
        return self._part(self._maintenance).failure

    async def try_boot(self) -> None:
        """Boots a VM that nobody asked for, and ends it.

        Raises:
            VmExecutionError: it did not come up.
        """
        await self._owned(self._part(self._maintenance).try_boot())

    @property
    def history(self) -> HistoryStore:
        """The rows of executions, snapshots and approvals."""
        return self._part(self._history, work=False)

    async def settle(self) -> None:
        """Waits until nothing is left to do in the background."""
        if self._maintenance is not None:
            await self._maintenance.settle()

    async def _owned(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does something to its end, even if whoever asked for it is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _release(self) -> None:
        for part in (self._gates, self._history, self._drivers, self._images):
            if part is not None:
                part.close()
        self._gates = self._history = self._drivers = self._images = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def drivers(self) -> Drivers:
        """What makes its VMs."""
        if self._drivers is None:
            raise ConfigError("the engine is not open")
        return self._drivers

    def languages(self) -> list[str]:
        """The languages that are allowed and that VMs of the default type have."""
        toolchains = self.fleet.images.of_type(self.settings.default_vm_type).toolchains
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
                runs into its time limit, is no error: the response says so. A TooManyRequests
                where the agent has, or runs, as much as it may.
        """
        runner = self._part(self._runner)
        with Stage("execution", language=request.language) as stage:
            with self.admission.request(request.agent_id) as ticket:
                await self.past.check_stored(request.agent_id)
                response = await runner.execute(request, on_output, watcher, ticket=ticket)
            stage.tell(
                execution_id=response.execution_id,
                vm_id=response.vm_id,
                outcome=response.outcome,
                exit_code=response.exit_code,
            )
            return response

    # VMs

    async def create_vm(self, request: VmCreateRequest, *, boot: bool = False) -> VmInstance:
        """Makes a VM. It boots when it is first needed, or in the background if asked to.

        Raises:
            ValidationFailed: there is no such type, or a name is not acceptable.
            TooManyRequests: the agent has as many, or stores as much, as it may.
            ConfigError: the data directory takes no more.
        """
        agent_id, name = check_vm_request(request)
        await self.past.check_stored(agent_id)
        vm = await self.fleet.create(agent_id, name, request)
        if boot:
            self.fleet.boot_soon(vm)
        return vm.instance()

    def get_vm(self, vm_id: str, agent_id: str | None = None) -> VmInstance:
        """A VM by its id; with ``agent_id``, only if it is that agent's.

        Raises:
            VmNotAvailable: there is none.
        """
        return self._part(self._fleet, work=False).find(vm_id, agent_id).instance()

    def list_vms(self, agent_id: str | None = None) -> list[VmInstance]:
        """All VMs, or those of an agent, oldest first."""
        return [vm.instance() for vm in self._part(self._fleet, work=False).of(agent_id)]

    def vm_pool(self, agent_id: str) -> VmPoolResponse:
        """An agent's VMs, those that run something apart from the others, and spare ones."""
        return pool_of(agent_id, self.list_vms(agent_id), self.fleet.spares, self.settings)

    async def delete_vm(self, vm_id: str, agent_id: str | None = None) -> None:
        """Stops a VM and removes it and everything it wrote.

        Raises:
            VmNotAvailable: there is none.
        """
        fleet = self._part(self._fleet, work=False)  # whoever ends sessions as it stops does this
        vm = fleet.find(vm_id, agent_id)
        del fleet.vms[vm_id]
        self.admission.turn_away(vm_id, VmNotAvailable(vm_id, field="vm_id"))
        await self._owned(self._delete(fleet, vm))
        log.info("vm_deleted", vm_id=vm_id, agent_id=vm.record.agent_id)

    async def _delete(self, fleet: Fleet, vm: Vm) -> None:
        await fleet.remove(vm)
        if self._history is not None and self._machine is not None:
            await asyncio.to_thread(self._history.forget_vm, vm.record.id)
            self._machine.forget(vm.record.id)
        if self._maintenance is not None:
            self._maintenance.look_at(vm.record.agent_id)

    @property
    def fleet(self) -> Fleet:
        """The VMs."""
        return self._part(self._fleet)

    def _part(self, part: Part | None, *, work: bool = True) -> Part:
        """A part of an open engine; what new ``work`` needs is not to be had while it stops."""
        if self._closing or (work and self._draining):
            raise stopping()
        if part is None:
            raise RuntimeError("the engine is not open")
        return part
