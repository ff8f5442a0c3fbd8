"""From how a program ended to what its asker is told."""

from __future__ import annotations

import os
from datetime import datetime

from mulligan.engine.executions.execution import NEVER_STARTED
from mulligan.engine.vms.program import Program
from mulligan.engine.vms.quota import said_of
from mulligan.engine.vms.replies import ProgramResult
from mulligan.errors import ExecutionFailed, ExecutionTimeout, ValidationFailed
from mulligan.models import DisplayData, VmExecuteResponse, utc_now

TIMEOUT_EXIT_CODE = 124  # as timeout(1) has it
SIGNAL_EXIT_CODE = 128


def raise_setup_failure(result: ProgramResult) -> None:
    """A program that was never started is the request's fault or ours, not the program's."""
    if result.reason != "setup":
        return
    if result.message.startswith("working_dir"):
        raise ValidationFailed(result.message, field="working_dir")
    if result.message.startswith(("kernel ", "this VM has")):
        raise ValidationFailed(result.message, field="kernel")
    raise ExecutionFailed(result.message or "the program could not be started")


def response_of(
    execution_id: str,
    vm_id: str,
    program: Program,
    result: ProgramResult,
    started_at: datetime,
    duration_ms: int,
) -> VmExecuteResponse:
    """The answer for a program that ran."""
    exit_code, outcome, error = _judge(program, result)
    note, disk_error = said_of(result)
    notes = [*result.notes, note] if note else list(result.notes)
    return VmExecuteResponse(
        execution_id=execution_id,
        vm_id=vm_id,
        exit_code=exit_code,
        stdout=result.stdout.decode(errors="replace"),
        stderr=result.stderr.decode(errors="replace"),
        duration_ms=duration_ms,
        started_at=started_at,
        completed_at=utc_now(),
        error=error or disk_error,
        notes=notes,
        outcome=outcome,
        truncated=result.truncated,
        stdout_bytes=result.stdout_bytes,
        stderr_bytes=result.stderr_bytes,
        cpu_ms=result.cpu_us // 1000,
        max_rss_kb=result.max_rss_kb,
        background_processes=result.background,
        kernel=program.kernel,
        result=result.result,
        results=[DisplayData(mime_type=kind, data=data) for kind, data in result.results],
    )


def too_late(
    execution_id: str, vm_id: str, program: Program, asked_at: datetime, queue_ms: int
) -> VmExecuteResponse:
    """The answer where the time was over before the program's turn came."""
    now = utc_now()
    return VmExecuteResponse(
        execution_id=execution_id,
        vm_id=vm_id,
        exit_code=NEVER_STARTED,
        stdout="",
        stderr="",
        duration_ms=0,
        started_at=asked_at,
        completed_at=now,
        error=f"{ExecutionTimeout(program.timeout_ms)}: it waited for its turn and never started",
        outcome="timeout",
        kernel=program.kernel,
        queue_ms=queue_ms,
    )


def _judge(program: Program, result: ProgramResult) -> tuple[int, str, str | None]:
    """Exit code, outcome and error text of a program that ran."""
    if result.reason == "timeout":
        text = str(ExecutionTimeout(program.timeout_ms))
        return TIMEOUT_EXIT_CODE, "timeout", _with(text, result.kernel_ended)
    code = os.waitstatus_to_exitcode(result.status)
    if code < 0:
        code = SIGNAL_EXIT_CODE - code
    if result.reason == "cancel":
        return code, "cancelled", _with("Execution cancelled", result.kernel_ended)
    if result.out_of_memory is not None:
        return code, "out_of_memory", _with(result.out_of_memory, result.kernel_ended)
    if result.kernel_ended is not None:
        return code, "failed", result.kernel_ended
    return code, "success" if code == 0 else "failed", None


def _with(text: str, kernel_ended: str | None) -> str:
    return text if kernel_ended is None else f"{text}; {kernel_ended}"
