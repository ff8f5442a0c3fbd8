"""One VM: its record, and the machine that runs it while there is one."""

from __future__ import annotations

import asyncio
from datetime import datetime

from mulligan.drivers.interface import BootSpec, Driver, Machine
from mulligan.engine.connection import AgentConnection, OutputCallback, Program, ProgramResult
from mulligan.engine.store import VmRecord
from mulligan.errors import ConfigError, ExecutionFailed, VmNotAvailable
from mulligan.log import get_logger
from mulligan.models import VmInstance, utc_now

log = get_logger()


class Vm:
    """A VM that boots when it is needed and can be stopped at any time.

    What holds under concurrency: one boot at a time; any number of executions beside each other;
    ``stop`` fails the executions that run and returns when no process of the VM is left; an
    execution after that boots it again.
    """

    def __init__(
        self, record: VmRecord, driver: Driver, spec: BootSpec, boot_timeout: float
    ) -> None:
        self.record = record
        self.last_activity: datetime | None = None
        self._driver = driver
        self._spec = spec
        self._boot_timeout = boot_timeout
        self._lock = asyncio.Lock()
        self._machine: Machine | None = None
        self._connection: AgentConnection | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._executing = 0
        self._closed = False

    @property
    def status(self) -> str:
        """ "stopped", "booting", "ready" (nothing runs) or "running"."""
        if self._connection is not None:
            return "running" if self._executing else "ready"
        return "booting" if self._lock.locked() else "stopped"

    @property
    def busy(self) -> bool:
        """Whether an execution runs."""
        return self._executing > 0

    def instance(self) -> VmInstance:
        """The VM as its users see it."""
        return VmInstance(
            id=self.record.id,
            name=self.record.name,
            vm_type=self.record.vm_type,
            status=self.status,
            created_at=self.record.created_at,
            last_activity=self.last_activity,
            agent_id=self.record.agent_id,
            driver=self.record.driver,
        )

    async def run(self, program: Program, on_output: OutputCallback | None = None) -> ProgramResult:
        """Runs a program, booting the VM first where it is not up. See ``AgentConnection.run``."""
        self._executing += 1
        self.last_activity = utc_now()
        try:
            connection = await self.start()
            return await connection.run(program, on_output)
        finally:
            self._executing -= 1
            self.last_activity = utc_now()

    async def start(self) -> AgentConnection:
        """Boots the VM unless it is up.

        Raises:
            VmNotAvailable: it was closed.
            ConfigError: this host cannot boot it.
            ExecutionFailed: it did not come up.
        """
        async with self._lock:
            if self._closed:
                raise VmNotAvailable(self.record.id, field="vm_id")
            if self._connection is None:
                self._connection = await self._boot()
            return self._connection

    async def _boot(self) -> AgentConnection:
        try:
            machine = await self._driver.boot(self._spec)
        except OSError as error:  # out of descriptors, processes or memory
            raise ExecutionFailed(f"the VM could not boot: {error.strerror}") from None
        loop = asyncio.get_running_loop()
        connection = AgentConnection(lambda why: self._on_lost(machine, why))
        try:
            await loop.create_connection(lambda: connection, sock=machine.connection)
            await connection.boot(machine.boot_frame, self._boot_timeout)
        except BaseException as error:
            connection.give_up("it was not wanted any more")
            # Not left to a caller that may be cancelled again: stop and close wait for it.
            await asyncio.shield(self._end(machine))
            said = machine.diagnostics().splitlines()
            if isinstance(error, ExecutionFailed) and said:
                raise ConfigError(f"{error.detail}; it said: {said[-1][:300]}") from None
            raise
        self._machine = machine
        return connection

    def _on_lost(self, machine: Machine, why: str) -> None:
        """The connection is gone; the machine behind it has to go too."""
        if self._machine is not machine:
            return
        self._machine = None
        self._connection = None
        log.warning(
            "vm_ended", vm_id=self.record.id, reason=why, said=machine.diagnostics()[-1000:]
        )
        self._end(machine)

    def _end(self, machine: Machine) -> asyncio.Task[None]:
        """Has a machine ended, whether anybody waits for it or not."""
        task = asyncio.create_task(self._stop_machine(machine))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def _stop_machine(self, machine: Machine) -> None:
        try:
            await machine.stop()
        except (OSError, ExecutionFailed) as error:
            log.error(  # noqa: TRY400  (where from is no news)
                "vm_not_ended", vm_id=self.record.id, pid=machine.pid, error=str(error)
            )

    async def stop(self) -> None:
        """Ends the VM's processes; its disk stays. Nothing of it runs when this returns."""
        async with self._lock:
            machine, self._machine = self._machine, None
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.give_up("it was stopped")
            if machine is not None:
                self._end(machine)
            if self._endings:
                await asyncio.wait(self._endings)

    async def close(self) -> None:
        """Ends the VM's processes for good: it boots no more."""
        self._closed = True
        await self.stop()
