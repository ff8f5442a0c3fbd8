"""One VM: its record, its disk, and the machine that runs it while there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from weakref import WeakValueDictionary

from mulligan.drivers.interface import BootSpec, Driver, Machine
from mulligan.engine.files.transfers import Transfers
from mulligan.engine.pool.life import Life
from mulligan.engine.pool.rest import recycle
from mulligan.engine.pool.slots import Slots
from mulligan.engine.vms.background import Background
from mulligan.engine.vms.connection import AgentConnection
from mulligan.engine.vms.endings import Endings
from mulligan.engine.vms.instances import instance_of
from mulligan.engine.vms.kept import KeptMemory
from mulligan.engine.vms.kernels import Kernels
from mulligan.engine.vms.limits import meter, strained
from mulligan.engine.vms.network import VmNetwork
from mulligan.engine.vms.program import OutputCallback, Program, Running
from mulligan.engine.vms.queues import queued
from mulligan.engine.vms.quota import Bounds, bounded, check_room, note_sizes
from mulligan.engine.vms.replies import ProgramResult
from mulligan.engine.vms.shown import Shown
from mulligan.engine.vms.state import VmState
from mulligan.engine.vms.store import Stores, VmRecord, new_id
from mulligan.engine.vms.writing import Writing
from mulligan.errors import ConfigError, ExecutionFailed, VmNotAvailable
from mulligan.log import get_logger
from mulligan.models import VmInstance, VmLimit, utc_now
from mulligan.telemetry import Stage, staged

log = get_logger()
Prepare = Callable[[], Awaitable[Program | None]]


class Vm(Shown):
    """A VM that boots when it is needed and can be stopped at any time.

    What holds under concurrency: one boot at a time; any number of executions beside each other;
    ``stop`` fails the executions that run and returns when no process of the VM is left; an
    execution after that boots it again. Whoever holds the VM ``steady`` can change its disk:
    nothing starts meanwhile, and what runs already goes on.
    """

    def __init__(
        self,
        record: VmRecord,
        state: VmState,
        driver: Driver,
        spec: BootSpec,
        stores: Stores,
        boot_timeout: float,
        bounds: Bounds | None = None,
        limits: dict[str, VmLimit] | None = None,
        slots: Slots | None = None,
        network: VmNetwork | None = None,
        *,
        spare: bool = False,
    ) -> None:
        self.record = record
        self.state = state
        self.last_activity: datetime | None = None
        self.stack_in_use: list[str] = []
        self.packages_in_use: set[str] = set()  # by programs since it booted
        self.kernels = Kernels()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.bounds = bounds
        self.network = network
        self.limits = limits or {}
        self.writing = Writing()
        self.transfers = Transfers()
        self.filled = False  # the last execution met a full disk
        self.driver = driver
        self.spec = spec
        self.stores = stores
        self._boot_timeout = boot_timeout
        self._lock = asyncio.Lock()
        self.life = Life(spare=spare)
        self._slots = slots or Slots()
        self._machine: Machine | None = None
        self._connection: AgentConnection | None = None
        self._endings = Endings(
            lambda: self._slots.give(self.record.agent_id), network.down if network else None
        )
        self.background = Background(self._not_tidied)
        self._executing = 0
        self._beginnings: set[asyncio.Task[tuple[AgentConnection, Running]]] = set()
        self._running: dict[str, Running] = {}
        self.cancelled_for: dict[str, str] = {}
        self.terminals: set[str] = set()  # those of ``running`` that mostly wait for keys
        self._closed = False
        self.kept: KeptMemory | None = None  # where its type wants it

    def instance(self) -> VmInstance:
        """The VM as its users see it."""
        return instance_of(self)

    async def run(
        self,
        program: Program,
        on_output: OutputCallback | None = None,
        *,
        execution_id: str | None = None,
        prepare: Prepare | None = None,
        on_turn: Callable[[float], None] = lambda _: None,
    ) -> ProgramResult:
        """Runs a program, booting the VM first where it is not up. See ``AgentConnection``.

        Args:
            program: what to run.
            on_output: called with each piece of output.
            execution_id: what it is called in ``running``.
            prepare: awaited when the VM is up, before the program starts; nothing else starts
                and nothing changes the VM's disk in between. It may return another program to
                start, of the same kernel.
            on_turn: told how many seconds it waited for others to start, or to hold it steady.
        """
        self._executing += 1
        self.last_activity = utc_now()
        execution_id = execution_id or new_id("run")
        try:
            return await self._run(program, on_output, execution_id, prepare, on_turn)
        finally:
            self._running.pop(execution_id, None)
            self._executing -= 1
            self.last_activity = utc_now()
            self.life.use()
            if self.kept is not None:
                self.kept.soon()

    def turn_of(self, kernel: str | None) -> asyncio.Lock | None:
        """Held by a kernel's cell while it runs: each goes on from where another ended."""
        return self._turns.setdefault(kernel, asyncio.Lock()) if kernel is not None else None

    async def _run(
        self,
        program: Program,
        on_output: OutputCallback | None,
        execution_id: str,
        prepare: Prepare | None,
        on_turn: Callable[[float], None],
    ) -> ProgramResult:
        wanted = asyncio.Event()
        wanted.set()
        task = asyncio.create_task(
            self._begin(program, on_output, execution_id, prepare, on_turn, wanted)
        )
        self._beginnings.add(task)
        task.add_done_callback(self._begun)
        try:
            connection, running = await asyncio.shield(task)
        except asyncio.CancelledError:
            wanted.clear()  # what was begun with the disk goes on to its end
            if task.done() and not task.cancelled() and task.exception() is None:
                connection, running = task.result()
                await connection.end([running])
                connection.forget(running)
            raise
        with Stage("run"):
            result = await connection.finish(running)
        if running.meter is not None:
            result = strained(result, running.meter(), self.limits)
        self.writing.ended(program, result, alone=self._alone())
        self.filled = result.disk is not None
        await note_sizes(self, running.program, connection.counted)
        return result

    def _alone(self) -> bool:
        """Whether one execution, and nobody else, can write to the disk."""
        return len(self._running) == 1 and not self.transfers.changing

    def _begun(self, task: asyncio.Task[tuple[AgentConnection, Running]]) -> None:
        self._beginnings.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits for it any more

    async def _begin(
        self,
        program: Program,
        on_output: OutputCallback | None,
        execution_id: str,
        prepare: Prepare | None,
        on_turn: Callable[[float], None],
        wanted: asyncio.Event,
    ) -> tuple[AgentConnection, Running]:
        """Boots, prepares and starts, unless it is no longer wanted by then."""
        async with queued(self._lock) as waited_s:
            on_turn(waited_s)
            if self.bounds is not None:
                check_room(self.bounds)
            await recycle(self)
            connection = await self.up()
            if prepare is not None:
                program = await prepare() or program
                connection = await self.up()  # it may have been given up meanwhile
            if not wanted.is_set():
                raise ExecutionFailed("it was cancelled before it started")
            if self.kept is not None:
                self.kept.void()
            assert self._machine is not None
            measure = meter(self._machine, connection)
            running = connection.start(bounded(program, self), on_output)
            running.meter = measure
            self.life.executions += 1
            if program.kernel is not None:
                self.kernels.cell_started()
            self._running[execution_id] = running
            if self.network is not None:
                self.network.began(execution_id, running.channel)
            self.writing.began(execution_id, alone=self._alone())
            return connection, running

    async def cancel(self, execution_id: str, why: str | None = None) -> bool:
        """Ends an execution's program and returns when it has ended.

        ``why`` is told in its answer.

        Returns:
            False where none of that id runs here: it may not have started, or be over.
        """
        running, connection = self._running.get(execution_id), self._connection
        if running is None or connection is None:
            return False
        if why is not None and not running.done.done():
            self.cancelled_for[execution_id] = why
        await connection.end([running])
        return True

    async def cancel_all(self, why: str) -> list[str]:
        """Ends what runs, and returns which executions it was; for the holder of ``steady``.

        ``cancelled_for`` says ``why`` from then on, for whoever waits for one of them.
        """
        running = dict(self._running)
        self.cancelled_for.update(dict.fromkeys(running, why))
        await self.transfers.end(why)
        if running and self._connection is not None:
            await self._connection.end(list(running.values()))
        if self.network is not None:
            await self.network.close_connections()
        return list(running)

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[None]:
        """Keeps executions from starting, and the VM from booting and stopping.

        Raises:
            VmNotAvailable: it was closed.
        """
        async with self._lock:
            if self._closed:
                raise VmNotAvailable(self.record.id, field="vm_id")
            yield
        if self.kept is not None and self._connection is not None:
            self.kept.soon()

    def _not_tidied(self, error: BaseException) -> None:
        log.warning("vm_not_tidied", vm_id=self.record.id, error=str(error))

    async def start(self) -> None:
        """Boots the VM unless it is up. See ``up``."""
        async with self._lock:
            await self.up()

    async def up(self) -> AgentConnection:
        """Boots the VM unless it is up; for the holder of ``steady``.

        Raises:
            VmNotAvailable: it was closed.
            ConfigError, ExecutionFailed: it did not come up.
        """
        if self._closed:
            raise VmNotAvailable(self.record.id, field="vm_id")
        if self._connection is None:
            self.life.boots()
            try:
                kept = self.kept
                boot = kept.boot(self._boot) if kept is not None else self._boot()
                self._connection = await boot
                self.life.up()
            finally:
                self.life.settles()
        return self._connection

    @staged("boot")
    async def _boot(self, resumes: str | None = None) -> AgentConnection:
        await self._endings.wait()  # what is left of it may still write to its disk
        await self._slots.take(self.record.agent_id, spare=self.life.spare)
        try:
            disk = await asyncio.to_thread(self._disk, renew=resumes is None)
            spec = self.spec
            if self.kept is not None:
                spec = self.kept.of(spec, resumes)
            if self.network is not None:
                spec = await asyncio.to_thread(self.network.prepare, spec)
            machine = await self.driver.boot(spec)
        except BaseException as error:
            self._slots.give(self.record.agent_id)
            if isinstance(error, OSError):  # out of descriptors, processes, memory or space
                raise ExecutionFailed(f"the VM could not boot: {error.strerror}") from None
            raise
        loop = asyncio.get_running_loop()
        connection = AgentConnection(lambda why: self._on_lost(machine, why), machine.cause)
        try:
            await loop.create_connection(lambda: connection, sock=machine.connection)
            await connection.boot(machine.boot_frame | disk, self._boot_timeout)
            machine.check_limits()
            if self.network is not None:
                self.network.up(machine, connection)
        except BaseException as error:
            connection.give_up("it was not wanted any more")
            # Not left to a caller that may be cancelled again: stop and close wait for it.
            await asyncio.shield(self._endings.begin(self.record.id, machine))
            said = machine.diagnostics().splitlines()
            if isinstance(error, ExecutionFailed) and said:
                raise ConfigError(f"{error.detail}; it said: {said[-1][:300]}") from None
            raise
        self._machine = machine
        return connection

    def _disk(self, *, renew: bool) -> dict[str, object]:
        """The disk's part of the BOOT frame."""
        if self.spec.disk is None:
            return {"layers": [], "generation": None}
        self.stack_in_use = self.stores.prepared(self.record, self.state, renew=renew)
        return {"layers": self.stack_in_use, "generation": str(self.state.generation)}

    def _on_lost(self, machine: Machine, why: str) -> None:
        """The connection is gone; the machine behind it has to go too."""
        if self._machine is not machine:
            return
        self._machine = None
        self._connection = None
        self.packages_in_use.clear()
        self.kernels.lost()
        log.warning(
            "vm_ended", vm_id=self.record.id, reason=why, said=machine.diagnostics()[-1000:]
        )
        self._endings.begin(self.record.id, machine)

    async def stop(self) -> None:
        """Ends the VM's processes; its disk stays. Nothing of it runs when this returns."""
        async with self._lock:
            await self.down()

    async def down(self) -> None:
        """``stop`` for the holder of ``steady``."""
        machine, self._machine = self._machine, None
        connection, self._connection = self._connection, None
        self.kernels.lost()
        if connection is not None:
            connection.give_up("it was stopped")
        if machine is not None:
            self._endings.begin(self.record.id, machine)
        await self._endings.wait()
        self.stack_in_use = []
        self.packages_in_use.clear()
        self.writing.stopped()
        self.life.hibernated = False

    def lease(self, record: VmRecord, spec: BootSpec) -> None:
        """Makes a spare VM that is up somebody's; its directories are where ``spec`` says."""
        self._slots.pass_on(self.record.agent_id, record.agent_id)
        self.record, self.spec = record, spec
        if self.network is not None:
            self.network.lease(record.agent_id, self.stores.vms.trust(record.id))
        self.life.spare = False
        self.life.use()

    async def close(self) -> None:
        """Ends the VM's processes for good: it boots no more."""
        if self.kept is not None:
            await self.kept.close()
        self._closed = True
        self.life.settles()
        await self.stop()
        await self.background.wait()
