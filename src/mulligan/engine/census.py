"""How much of everything there is, from memory and from a few rows: nothing walks a disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from mulligan.engine.engine import Engine
from mulligan.errors import VmExecutionError
from mulligan.log import get_logger

log = get_logger()

STATES = ("stopped", "booting", "ready", "running", "hibernated")
FRESH_S = 10.0
PATIENCE_S = 2.0


@dataclass(frozen=True)
class Census:
    """What there is.

    Attributes:
        vms: how many are in each of ``STATES``.
        places, places_taken, executions_queued: of the queue in front of executions.
        layers: that are kept.
        layers_bytes: of them, as far as they were counted.
        snapshots: None where the database has never told.
        approvals_waiting: for an answer; None likewise.
    """

    vms: dict[str, int]
    places: int
    places_taken: int
    executions_queued: int
    layers: int
    layers_bytes: int
    snapshots: int | None
    approvals_waiting: int | None


class CensusTaker:
    """Counts. The database is asked at most every ten seconds, and never waited for long.

    Args:
        engine: of what.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows: tuple[int, int] | None = None
        self._asked: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def take(self) -> Census:
        """What there is now.

        Raises:
            Unavailable: the engine is shutting down.
        """
        fleet = self._engine.fleet
        loop = asyncio.get_running_loop()
        due = self._asked is None or loop.time() - self._asked >= FRESH_S
        if due and (self._asking is None or self._asking.done()):
            self._asked = loop.time()
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None and not self._asking.done():
            await asyncio.wait({self._asking}, timeout=PATIENCE_S)
        states = Counter(vm.status for vm in list(fleet.vms.values()))
        layers, size = fleet.stores.layers.totals()
        snapshots, approvals = self._rows or (None, None)
        vms = {state: states[state] for state in STATES}
        queue = self._engine.admission
        return Census(
            vms=vms,
            places=queue.places,
            places_taken=queue.running,
            executions_queued=queue.waiting,
            layers=layers,
            layers_bytes=size,
            snapshots=snapshots,
            approvals_waiting=approvals,
        )

    async def close(self) -> None:
        """Waits for what was asked."""
        if self._asking is not None:
            await asyncio.wait({self._asking})

    async def _ask(self) -> None:
        history, waiting = self._engine.history, self._engine.gates.approvals
        try:
            self._rows = await asyncio.to_thread(
                lambda: (history.count_snapshots(), waiting.count_waiting())
            )
        except VmExecutionError as error:
            log.warning("not_counted", error=str(error))
