"""Kernels on their way from one root to another."""

from __future__ import annotations

import time

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from mulligan.guest.kernels.manager import Kernels
    from mulligan.guest.kernels.runners import Kernel

PATIENCE_S = 1.0
_BASH = "{ __mulligan_%s; } 2>/dev/null"


class Departure:
    """Has every kernel let go of the present root, so that the VM can leave it.

    One that does not is no hindrance by itself: whether it could still write to the old root is
    asked of the system, not of the kernel.

    Args:
        kernels: all of the VM.
        then: called when all have let go, or have been waited for long enough.
    """

    def __init__(self, kernels: Kernels, then: Callable[[], None]) -> None:
        self.deadline = time.monotonic() + PATIENCE_S
        self._all = kernels
        self._then = then
        self._leaving = [
            each for each in kernels.kernels.values() if each.live is not None and each.live.usable
        ]
        self._waiting = {each.name for each in self._leaving}

    def begin(self) -> None:
        """Asks them to."""
        for kernel in self._leaving:
            kernel.saving = True
        for kernel in self._leaving:
            self._tell(kernel, "release")
        self._check()

    def released(self, kernel: Kernel) -> bool:
        """A kernel has let go, or is no more; false where it was not asked to."""
        if kernel.name not in self._waiting:
            return False
        self._waiting.discard(kernel.name)
        self._check()
        return True

    def give_up(self) -> None:
        """Goes on without those that do not answer; when they do, it is no answer any more."""
        for kernel in self._leaving:
            if kernel.name in self._waiting and kernel.live is not None:
                kernel.live.late += 1
        self._waiting.clear()
        self._check()

    def over(self) -> None:
        """The VM has moved, or stays: each goes to its directory again, by its path."""
        for kernel in self._leaving:
            kernel.saving = False
            self._tell(kernel, "moved")
            self._all.pump(kernel)

    def _check(self) -> None:
        if not self._waiting and self._all.departure is self:
            self._all.departure = None
            self._then()
            self.over()

    def _tell(self, kernel: Kernel, what: str) -> None:
        if kernel.live is not None:
            text = _BASH % what if kernel.language == "bash" else what
            self._all.say(kernel, kernel.live, text)
