"""One execution inside the VM, from its start to the frame that says how it ended."""

from __future__ import annotations

import os
from _signal import SIGKILL

from mulligan.guest import frames, processes
from mulligan.guest.captures import Capture, Feed

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from mulligan.guest.terminals import Terminal

DRAIN_READS = 32
REPORT_LIMIT = 4096
UNENDABLE = 70


class Execution:
    """State of one execution.

    An execution ends with its main process. What that leaves behind is given ``LINGER_S`` to end
    by itself, and is then ended, unless it was detached on purpose (see ``processes``). Of a
    terminal nothing stays.
    """

    LINGER_S = 0.25

    def __init__(self, channel: int, stdout: Capture, stderr: Capture) -> None:
        self.channel = channel
        self.outputs = {frames.STDOUT: stdout, frames.STDERR: stderr}
        self.open = {frames.STDOUT, frames.STDERR}
        self.stdin: Feed | None = None
        self.terminal: Terminal | None = None
        self.report: int | None = None
        self.report_data = b""
        self.is_job = False  # it does work of the agent's own
        self.pid = 0
        self.namespace = 0
        self.mounts = -1  # a descriptor of that namespace, where it is held
        self.waits = False  # its first process goes on when it is
        self.status: int | None = None
        self.usage = (0, 0, 0)
        self.reason = "exit"
        self.message = ""
        self.deadline: float | None = None
        self.linger_until: float | None = None
        self.background: list[int] = []
        self.patience = True

    def read_report(self) -> bool:
        """Reads what the child said of its start; true when it has said it all.

        Raises:
            BlockingIOError: nothing is there yet.
        """
        assert self.report is not None
        try:
            chunk = os.read(self.report, REPORT_LIMIT)
        except ConnectionResetError:  # it ended before it read that it may go on
            chunk = b""
        if chunk:
            self.report_data = (self.report_data + chunk)[:REPORT_LIMIT]
        for line in self.report_data.split(b"\n"):
            kind, _, text = line.partition(b" ")
            if kind == b"ns" and self.report_data.find(b"\n") >= 0:
                self.namespace = int(text)
            elif kind == b"error":
                self.reason = "setup"
                self.message = text.decode(errors="replace")
        return not chunk

    def end(self, reason: str) -> None:
        """Ends every process of the execution, for the reason given.

        A child that has not yet entered its namespace is ended by its number.
        """
        if self.reason == "exit" and self.status is None:
            self.reason = reason
        if self.pid and self.status is None:
            processes.send([self.pid], SIGKILL)
        if self.namespace:
            self._sure(processes.end_all(self.namespace))

    def left_behind(self) -> bool:
        """Looks at what the main process left; true while something should still end."""
        if not self.namespace:
            return False
        if self.terminal is not None:
            return bool(processes.conclusive(self.namespace))
        attached, self.background = processes.stragglers(self.namespace, self.pid)
        return bool(attached)

    def end_attached(self) -> None:
        """Ends what was not detached on purpose."""
        if self.terminal is not None:
            self._sure(processes.end_all(self.namespace))
            return
        processes.hang_up(self.namespace, self.pid)
        self._sure(processes.end_all(self.namespace, self.pid))
        _, self.background = processes.stragglers(self.namespace, self.pid)

    def _sure(self, ended: bool) -> None:
        """An end that cannot be made sure of is the end of the VM: nothing may run on unseen."""
        if not ended:
            os._exit(UNENDABLE)

    def result(self) -> dict[str, object]:
        """The body of the EXIT frame."""
        stdout, stderr = self.outputs[frames.STDOUT], self.outputs[frames.STDERR]
        user, system, rss = self.usage
        return {
            "status": self.status if self.status is not None else 9,
            "reason": self.reason,
            "message": self.message,
            "stdout_bytes": stdout.total,
            "stderr_bytes": stderr.total,
            "truncated": stdout.truncated or stderr.truncated,
            "user_us": user,
            "system_us": system,
            "max_rss_kb": rss,
            "background": len(self.background),
        }


def refused(channel: int, why: str) -> dict[str, object]:
    """The body of the EXIT frame of an execution there are no means for."""
    execution = Execution(channel, Capture(-1, 0), Capture(-1, 0))
    execution.reason, execution.message = "setup", why
    return execution.result()
