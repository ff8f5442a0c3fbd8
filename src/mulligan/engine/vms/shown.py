"""What is to be seen of a VM from outside, without asking it anything."""

from __future__ import annotations

import asyncio

from mulligan.drivers.interface import Machine
from mulligan.engine.pool.life import Life
from mulligan.engine.vms.connection import AgentConnection
from mulligan.engine.vms.program import Running


class Shown:
    """The part of ``Vm`` that only looks."""

    life: Life
    _machine: Machine | None
    _connection: AgentConnection | None
    _executing: int
    _lock: asyncio.Lock
    _running: dict[str, Running]
    _beginnings: set[asyncio.Task[tuple[AgentConnection, Running]]]

    @property
    def status(self) -> str:
        """ "stopped", "booting", "ready" (nothing runs), "running" or "hibernated"."""
        if self._connection is not None:
            return "running" if self._executing else "ready"
        if self.life.booting:
            return "booting"
        return "hibernated" if self.life.hibernated else "stopped"

    @property
    def busy(self) -> bool:
        """Whether an execution runs."""
        return self._executing > 0

    @property
    def held(self) -> bool:
        """Whether somebody holds it ``steady``."""
        return self._lock.locked()

    @property
    def running(self) -> list[str]:
        """The ids of the executions that were started and have not ended."""
        return list(self._running)

    @property
    def is_beginning(self) -> bool:
        """Whether executions are about to start."""
        return bool(self._beginnings)

    @property
    def connection(self) -> AgentConnection | None:
        """The stream to the agent, while the VM is up."""
        return self._connection

    @property
    def machine(self) -> Machine | None:
        """What the driver made, while the VM is up."""
        return self._machine
