"""Rows of snapshots, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from mulligan.errors import HistoryError
from mulligan.history import records
from mulligan.history.schema import snapshots
from mulligan.models import Snapshot

_c = snapshots.c


def add(connection: Connection, snapshot: Snapshot, layer: str | None) -> None:
    """Adds a row.

    Raises:
        HistoryError: its id is taken.
    """
    try:
        connection.execute(insert(snapshots), records.snapshot_row(snapshot, layer))
    except IntegrityError:
        raise HistoryError(f"there is a snapshot {snapshot.id} already") from None


def get(connection: Connection, snapshot_id: str) -> tuple[Snapshot, str | None] | None:
    """The snapshot with that id and its layer."""
    statement = select(snapshots).where(_c.id == snapshot_id)
    row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else (records.row_snapshot(row), row["layer"])


def of_vm(connection: Connection, vm_id: str) -> list[Snapshot]:
    """A VM's snapshots, newest first."""
    statement = select(snapshots).where(_c.vm_id == vm_id).order_by(_c.seq.desc())
    return [records.row_snapshot(row) for row in connection.execute(statement).mappings()]


def remove(connection: Connection, snapshot_id: str) -> bool:
    """Removes a row, and says whether there was one."""
    return connection.execute(delete(snapshots).where(_c.id == snapshot_id)).rowcount > 0


def remove_all(connection: Connection, vm_id: str) -> list[str]:
    """Removes a VM's rows and returns their ids, oldest first."""
    statement = select(_c.id).where(_c.vm_id == vm_id).order_by(_c.seq)
    found = list(connection.execute(statement).scalars())
    connection.execute(delete(snapshots).where(_c.vm_id == vm_id))
    return found


def vm_ids(connection: Connection) -> set[str]:
    """Ids of the VMs that have snapshots."""
    return set(connection.execute(select(_c.vm_id).distinct()).scalars())


def layers(connection: Connection, without: Collection[str]) -> set[tuple[str, str]]:
    """(agent id, layer id) of every layer a snapshot begins with, but those of some VMs."""
    statement = select(_c.agent_id, _c.layer).where(_c.layer.is_not(None)).distinct()
    if without:
        statement = statement.where(_c.vm_id.not_in(without))
    return {(agent_id, layer) for agent_id, layer in connection.execute(statement)}


def layers_of_agent(connection: Connection, agent_id: str) -> list[tuple[str, str, str | None]]:
    """(VM, snapshot, layer) of an agent's snapshots."""
    statement = select(_c.vm_id, _c.id, _c.layer).where(_c.agent_id == agent_id)
    return [(vm_id, snapshot, layer) for vm_id, snapshot, layer in connection.execute(statement)]
