"""What may happen to one VM at a time: the table behind docs/concurrency.md.

It is held against the behaviour of VMs, each pair of it, by tests/integration/test_concurrency.py;
the page is made from it by tools/concurrency_table.py. What brings it about:

- Whoever starts something in a VM, or changes its disk, holds it ``steady`` (``vm.py``): one at a
  time, in the order of asking. A program is started so, and runs without.
- Cells of one kernel have its turn (``Vm.turn_of``), from before they start to their end.
- What ends a VM's programs (``Vm.cancel_all``, ``Vm.close``) ends conversations about files, too.
- A VM that is being removed is not found any more (``Fleet.vms``) from the beginning of that.

Turns are taken in one order (a kernel's turn, a place on the host, the VM), so there is no circle.
"""

from __future__ import annotations

from enum import StrEnum


class Meeting(StrEnum):
    """What becomes of an operation that comes while another is under way on the same VM."""

    BESIDE = "beside"  # both go on
    WAITS = "waits"  # until the other is over
    ENDS = "ends it"  # the other is ended, and this goes on
    REFUSED = "refused"  # the VM is not found


OPERATIONS = {
    "program": "an execution that runs",
    "cell": "a cell of a kernel (two of the same)",
    "terminal": "a terminal",
    "read": "reading a file",
    "write": "writing a file",
    "names": "list, look at, make, move or remove files",
    "snapshot": "a snapshot",
    "fork": "a fork",
    "diff": "a diff",
    "rollback": "a rollback",
    "cancel": "cancelling what is under way",
    "delete": "removing the VM",
}
ARRIVING = tuple(OPERATIONS)
UNDER_WAY = tuple(each for each in OPERATIONS if each != "cancel")  # that one takes no time

_B, _W, _E, _R = Meeting.BESIDE, Meeting.WAITS, Meeting.ENDS, Meeting.REFUSED
# Columns in the order of ARRIVING.
_ROWS = {
    "program": (_B, _B, _B, _B, _B, _B, _B, _B, _B, _E, _E, _E),
    "cell": (_B, _W, _B, _B, _B, _B, _B, _B, _B, _E, _E, _E),
    "terminal": (_B, _B, _B, _B, _B, _B, _B, _B, _B, _E, _E, _E),
    "read": (_B, _B, _B, _B, _B, _B, _B, _B, _B, _E, _B, _E),
    "write": (_B, _B, _B, _B, _B, _B, _B, _B, _B, _E, _B, _E),
    "names": (_W, _W, _W, _W, _W, _W, _W, _W, _W, _W, _B, _W),
    "snapshot": (_W, _W, _W, _W, _W, _W, _W, _W, _W, _W, _B, _W),
    "fork": (_W, _W, _W, _W, _W, _W, _W, _W, _W, _W, _B, _W),
    "diff": (_W, _W, _W, _W, _W, _W, _W, _W, _W, _W, _B, _W),
    "rollback": (_W, _W, _W, _W, _W, _W, _W, _W, _W, _W, _B, _W),
    "delete": (_R, _R, _R, _R, _R, _R, _R, _R, _R, _R, _R, _R),
}
TABLE = {
    (under_way, arriving): meeting
    for under_way, row in _ROWS.items()
    for arriving, meeting in zip(ARRIVING, row, strict=True)
}


def rows() -> str:
    """The table, in Markdown: what is under way in rows, what comes in columns."""
    lines = [
        f"| under way ↓ · comes → | {' | '.join(ARRIVING)} |",
        f"| --- |{' --- |' * len(ARRIVING)}",
    ]
    for under_way in UNDER_WAY:
        cells = " | ".join(TABLE[under_way, arriving] for arriving in ARRIVING)
        lines.append(f"| **{under_way}** | {cells} |")
    return "\n".join(lines) + "\n"
