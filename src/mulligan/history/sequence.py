"""The numbers of rows: a VM's rows are next to each other, in the order they began.

A sequence number is the VM's number times `SPAN` plus the row's within the VM. So the rows of a
VM, in their table and in every list of the full-text index, are one range, and no query meets
another VM's. Numbers only grow and none is used twice, whatever the clock does and whatever has
been deleted.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from mulligan.history.hot import Hot
from mulligan.history.schema import vms

SPAN = 1 << 36

_NUMBER = select(vms.c.number).where(vms.c.vm_id == bindparam("vm"))
_TAKE = Hot(
    update(vms)
    .where(vms.c.vm_id == bindparam("vm"))
    .values(taken=vms.c.taken + 1)
    .returning(vms.c.number, vms.c.taken)
)
_MAKE = insert(vms).returning(vms.c.number, vms.c.taken)


def vm_number(connection: Connection, vm_id: str) -> int | None:
    """The number of a VM; None if it has no rows."""
    found: int | None = connection.execute(_NUMBER, {"vm": vm_id}).scalar()
    return found


def vm_ids(connection: Connection) -> set[str]:
    """The VMs that have rows."""
    return set(connection.execute(select(vms.c.vm_id)).scalars())


def take(connection: Connection, vm_id: str) -> int:
    """The sequence number of a VM's next row."""
    found = _TAKE.run(connection, {"vm": vm_id})
    if not found:
        found = [connection.execute(_MAKE, {"vm_id": vm_id, "taken": 1}).one()]
    [(number, taken)] = found
    return int(number) * SPAN + int(taken)


def forget(connection: Connection, vm: int) -> None:
    """Removes a VM that has no rows any more."""
    connection.execute(delete(vms).where(vms.c.number == vm))


def vm_of(seq: int) -> int:
    """The number of the VM a row is of."""
    return seq // SPAN


def span(vm: int) -> tuple[int, int]:
    """The lowest and the highest sequence number a row of a VM can have."""
    return vm * SPAN, (vm + 1) * SPAN - 1
