"""One cell: an execution that is given to a kernel."""

from __future__ import annotations

import os
import time

from mulligan.guest import frames

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

GRACE_S = 1.0


class Cell:
    """What is to be run, what it has written so far, and how it ended."""

    def __init__(self, channel: int, body: dict[str, Any]) -> None:
        self.channel = channel
        self.name: str = body["kernel"]
        self.language: str = body["language"]
        self.code: bytes = body["code"].encode()
        self.program: str = body["steps"][0][0]
        self.env: dict[str, str] = body["env"]
        self.cwd: str = body["cwd"]
        self.enter: bool = body["enter"]
        self.deadline: float | None = time.monotonic() + body["timeout_ms"] / 1000
        self.limit: int = body["output_limit"]
        self.input: int | None = None
        self.input_ended = not body["stdin"]
        if body["stdin"]:
            self.input = os.memfd_create("stdin", os.MFD_CLOEXEC)
        self.reason = "exit"
        self.message = ""
        self.total = {frames.STDOUT: 0, frames.STDERR: 0}
        self.passed = {frames.STDOUT: 0, frames.STDERR: 0}
        self.notes: list[str] = []
        self.result: str | None = None
        self.results: list[dict[str, str]] = []
        self.kernel_ended: str | None = None
        self.cpu = (0, 0)
        self.rss_kb = 0

    def feed(self, data: bytes, *, ended: bool) -> None:
        """Takes a piece of the cell's input."""
        if self.input is not None:
            os.write(self.input, data)
        self.input_ended |= ended

    def interrupted(self, reason: str, grace: float) -> None:
        """It was asked to stop; it has so many seconds to do so."""
        if self.reason == "exit":
            self.reason = reason
        self.deadline = time.monotonic() + grace

    def take(self, kind: int, data: bytes) -> bytes:
        """Counts a piece of output; what of it is passed on."""
        self.total[kind] += len(data)
        kept = data[: self.limit - self.passed[kind]]
        self.passed[kind] += len(kept)
        return kept

    def answer(self, status: int) -> dict[str, object]:
        """The body of the EXIT frame, for a wait status."""
        self.close()
        return {
            "status": status,
            "reason": self.reason,
            "message": self.message,
            "stdout_bytes": self.total[frames.STDOUT],
            "stderr_bytes": self.total[frames.STDERR],
            "truncated": self.total != self.passed,
            "user_us": self.cpu[0],
            "system_us": self.cpu[1],
            "max_rss_kb": self.rss_kb,
            "background": 0,
            "result": self.result,
            "results": self.results,
            "notes": self.notes,
            "kernel_ended": self.kernel_ended,
        }

    def close(self) -> None:
        """Lets go of its input."""
        if self.input is not None:
            os.close(self.input)
            self.input = None
