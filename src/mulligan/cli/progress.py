"""What is under way, on a terminal, where it takes over a second."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mulligan.cli.console import err
from mulligan.telemetry import Stage

if TYPE_CHECKING:
    from rich.status import Status

PATIENCE_S = 1.0
STAGES = {
    "admission": "waiting for other executions to end",
    "queue": "waiting for the VM",
    "kernel_queue": "waiting for the kernel",
    "hooks": "judging",
    "approval": "waiting for an approval",
    "boot": "booting the VM",
    "restore_point": "keeping the state it starts from",
    "packages": "packages",
    "run": "running",
    "snapshot": "keeping the state",
    "rollback": "taking the VM back",
}


class Progress:
    """A line on stderr that says what is under way. A context manager, and a sink of stages.

    It is there after a second, and goes for good with ``stop``: what else is written to the
    terminal would be written into it. Where stderr is no terminal it never is.

    Args:
        text: what is under way.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._timer: threading.Timer | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        if err.is_terminal:
            self._timer = threading.Timer(PATIENCE_S, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def say(self, text: str) -> None:
        """Something else is under way."""
        with self._lock:
            self._text = text
            if self._status is not None:
                self._status.update(text)

    def stop(self) -> None:
        """Takes the line away, if it is there; it does not come again."""
        with self._lock:
            self._stopped = True
            status, self._status = self._status, None
        if self._timer is not None:
            self._timer.cancel()
        if status is not None:
            status.stop()

    def _show(self) -> None:
        with self._lock:
            if not self._stopped:
                self._status = err.status(self._text)
                self._status.start()

    # A sink

    def begin(self, stage: Stage) -> None:
        """See ``telemetry.Sink``."""
        if stage.name in STAGES:
            self.say(STAGES[stage.name])

    def end(self, stage: Stage, token: object, seconds: float, error: BaseException | None) -> None:
        """See ``telemetry.Sink``."""

    def count(self, name: str, labels: dict[str, str]) -> None:
        """See ``telemetry.Sink``."""
