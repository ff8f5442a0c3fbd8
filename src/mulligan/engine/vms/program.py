"""A program as the agent of a VM is asked to run it, and one that was started."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mulligan.drivers.limits import Strain
from mulligan.engine.terminals.pty import Pty
from mulligan.engine.vms.replies import ProgramResult, plausible, program_result
from mulligan.errors import ValidationFailed
from mulligan.guest import frames

OutputCallback = Callable[[str, bytes], None]


@dataclass(frozen=True)
class Program:
    """What the agent is asked to run.

    Attributes:
        runtime: "python" to start from the zygote where that can be, "kernel" to run as a cell of
            a kernel, "job" for the agent's own work, "exec" otherwise.
        steps: argument vectors, each run if the one before it succeeded.
        files: name to text, laid at ``/run/mulligan`` for this execution alone.
        env: added to the VM's environment.
        cwd: absolute path in the VM.
        timeout_ms: everything is ended then.
        output_limit: bytes of each of stdout and stderr that are kept.
        stdin: what the program reads; None for an empty input.
        job: with the runtime "job", what the agent itself is to do, as ``guest.jobs`` takes it.
        kernel: with the runtime "kernel", its name; it is started where it does not run.
        language: with "kernel", "python", "bash" or "javascript".
        code: with "kernel", what to run.
        enter: with "kernel", whether a kernel that runs already goes to ``cwd`` first.
        disk: what may be written to the VM's disk, as ``guest.quota.Terms`` takes it.
        pty: the terminal it runs in, with the runtime "exec"; its output goes there alone, and its
            input comes from there.
    """

    runtime: str
    steps: list[list[str]]
    files: dict[str, str]
    env: dict[str, str]
    cwd: str
    timeout_ms: int
    output_limit: int
    stdin: bytes | None = None
    job: dict[str, object] | None = None
    kernel: str | None = None
    language: str = ""
    code: str = ""
    enter: bool = False
    disk: dict[str, object] | None = None
    pty: Pty | None = None

    def body(self) -> dict[str, object]:
        """Body of the START frame."""
        return {
            "runtime": self.runtime,
            "steps": self.steps,
            "files": self.files,
            "env": self.env,
            "cwd": self.cwd,
            "timeout_ms": self.timeout_ms,
            "output_limit": self.output_limit,
            "stdin": self.stdin is not None,
            "job": self.job,
            "kernel": self.kernel,
            "language": self.language,
            "code": self.code,
            "enter": self.enter,
            "disk": self.disk,
            "terminal": self.pty.body() if self.pty is not None else None,
        }

    def start_frame(self, channel: int) -> bytes:
        """The frame that asks for it.

        Raises:
            ValidationFailed: it does not fit into one.
        """
        try:
            return frames.encode(frames.START, channel, self.body())
        except frames.FrameError as error:
            raise ValidationFailed(f"code and env are too large: {error}", field="code") from None


@dataclass
class Running:
    """A program that was started."""

    channel: int
    program: Program
    done: asyncio.Future[ProgramResult]
    on_output: OutputCallback | None
    failure: Exception | None = None
    started: bool = False
    began: float = field(default_factory=time.monotonic)
    disk: str | None = None
    meter: Callable[[], Strain] | None = None
    output: dict[int, bytearray] = field(
        default_factory=lambda: {frames.STDOUT: bytearray(), frames.STDERR: bytearray()}
    )

    def take(self, kind: int, data: bytes) -> bool:
        """Keeps output, or has its terminal take it; false where nobody wants it.

        Raises:
            FrameError: it is more than the agent was told to send.
        """
        if self.program.pty is not None:
            self.program.pty.output(data)
            return True
        if len(self.output[kind]) + len(data) > self.program.output_limit:
            raise frames.FrameError("more output than it was told to send")
        self.output[kind] += data
        return True

    def result(self, body: dict[str, Any]) -> ProgramResult:
        """What the body of an EXIT frame says of it.

        Raises:
            FrameError: it says nothing that could be.
        """
        stdout, stderr = self.output[frames.STDOUT], self.output[frames.STDERR]
        result = program_result(body, bytes(stdout), bytes(stderr))
        limit = (self.program.disk or {}).get("limit")
        limited = limit if isinstance(limit, int) else None
        result = plausible(result, time.monotonic() - self.began)
        return replace(result, disk=self.disk, disk_limit=limited)
