"""What the history knows of itself and of disk: layers snapshots need, what executions changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from sqlalchemy import func, select, text

from mulligan.history import rows, schema, snapshots
from mulligan.history.database import Database
from mulligan.models import NetworkConnection


class Costs(ABC):
    """Part of ``HistoryStore``, to which what is said there applies."""

    @abstractmethod
    def _snapshots(self) -> Database: ...

    @abstractmethod
    def _executions(self) -> Database: ...

    def add_network(self, execution_id: str, notes: list[NetworkConnection]) -> None:
        """Adds what an execution reached over the network and what was known after its end."""
        with self._executions().write() as connection:
            rows.add_network(connection, execution_id, notes)

    def set_changes(self, sizes: Mapping[str, int]) -> None:
        """Notes what executions' changes take, by their ids, where that was not known yet."""
        with self._executions().write() as connection:
            for execution_id, size in sizes.items():
                rows.set_change(connection, execution_id, size)

    def layers_of_agent(self, agent_id: str) -> list[tuple[str, str, str | None]]:
        """(VM, snapshot, its layer) of all snapshots of an agent's VMs."""
        with self._snapshots().read() as connection:
            return snapshots.layers_of_agent(connection, agent_id)

    def count_snapshots(self) -> int:
        """How many snapshots there are."""
        with self._snapshots().read() as connection:
            return connection.execute(
                select(func.count()).select_from(schema.snapshots)
            ).scalar_one()

    def check_writable(self) -> None:
        """Writes what is there already.

        Raises:
            HistoryError: the database does not take it.
        """
        with self._snapshots().write() as connection:
            table = schema.VERSION_TABLE
            connection.execute(text(f"UPDATE {table} SET version_num = version_num"))  # noqa: S608
