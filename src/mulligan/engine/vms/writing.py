"""Who wrote what a VM's disk took since it was last frozen, and how much it is."""

from __future__ import annotations

from mulligan.engine.vms.program import Program
from mulligan.engine.vms.replies import ProgramResult


class Writing:
    """Follows a VM's executions from one freeze to the next.

    Attributes:
        recalled: whether it is known who wrote before this server started.
        execution: the only one that may have written; None where there were several, or none.
        size: bytes that were written; None where nobody counted, or it may have become more.
        turns: grows whenever an execution starts, and when the VM goes to another state.
    """

    def __init__(self) -> None:
        self.recalled = False
        self.execution: str | None = None
        self.size: int | None = None
        self.turns = 0
        self._first = False  # something was frozen, or begun on a fresh disk, and nothing ran since
        self._kernels = False
        self._background = False

    def recall(self, execution_id: str | None) -> None:
        """Takes who wrote before this server started."""
        if self.execution is None and not self.recalled:
            self.execution = execution_id
        self.recalled = True

    def began(self, execution_id: str, *, alone: bool) -> None:
        """An execution started; ``alone`` where no other runs."""
        self.recalled = True
        self.turns += 1
        alone = alone and not self._background
        self.execution = execution_id if self._first and alone else None
        self._first = False
        self.size = None

    def ended(self, program: Program, result: ProgramResult, *, alone: bool) -> None:
        """An execution ended; ``alone`` where no other ran."""
        self._kernels |= program.runtime == "kernel"
        self._background |= result.background > 0
        quiet = alone and not self._background
        self.size = result.written if quiet and not self._kernels else None
        if not quiet:
            self.execution = None

    def by_hand(self) -> None:
        """Somebody outside changed files: it is no execution's doing."""
        self.recalled = True
        self.execution, self.size, self._first = None, None, False

    def change_of(self, execution_id: str) -> int | None:
        """What an execution that has just ended wrote."""
        return self.size if self.execution == execution_id else None

    def unchanged(self) -> None:
        """Nothing was written since the last freeze: the next to start is the first."""
        self.execution, self.size, self._first = None, None, True

    def frozen(self) -> None:
        """What was written is a layer, and nothing runs that could write."""
        self.unchanged()
        self._background = False

    def restored(self) -> None:
        """What was written was thrown away, and nothing runs that could write."""
        self.frozen()
        self.turns += 1

    def stopped(self) -> None:
        """The VM's processes are gone, and kernels with them."""
        self._kernels = self._background = False
