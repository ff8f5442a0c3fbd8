"""Which states executions started from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select

from mulligan.history.database import Database
from mulligan.history.records import REFUSED
from mulligan.history.schema import executions, snapshots
from mulligan.history.sequence import span, vm_number


class Start(NamedTuple):
    """An execution that was let run: its id, when that was, and the snapshot it started from."""

    execution_id: str
    executed_at: datetime
    snapshot_id: str | None


class State(NamedTuple):
    """What a snapshot is of.

    Attributes:
        snapshot_id: it.
        layer: of its disk; None: the bare image.
        memory: whether kernels belong to it.
    """

    snapshot_id: str
    layer: str | None
    memory: bool


class Starts(ABC):
    """Part of ``HistoryStore``, to which what is said there applies."""

    @abstractmethod
    def _snapshots(self) -> Database: ...

    @abstractmethod
    def _executions(self) -> Database: ...

    def starts(self, vm_id: str, limit: int) -> list[Start]:
        """The newest executions of a VM, newest first."""
        columns = executions.c
        with self._executions().read() as connection:
            vm = vm_number(connection, vm_id)
            if vm is None:
                return []
            statement = (
                select(columns.id, columns.executed_at, columns.snapshot_before)
                .where(columns.seq.between(*span(vm)), columns.outcome != REFUSED)
                .order_by(columns.seq.desc())
                .limit(limit)
            )
            return [Start(*row) for row in connection.execute(statement)]

    def states(self, snapshot_ids: Collection[str]) -> dict[str, State]:
        """Those of some snapshots that are there yet, by their ids."""
        columns = snapshots.c
        statement = select(columns.id, columns.layer, columns.kernels).where(
            columns.id.in_(snapshot_ids)
        )
        with self._snapshots().read() as connection:
            return {
                each: State(each, layer, memory=kernels != "[]")
                for each, layer, kernels in connection.execute(statement)
            }
