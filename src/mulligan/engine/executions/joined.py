"""Streamed executions that were asked for with an idempotency key: started once, joined again."""

from __future__ import annotations

from mulligan.engine.executions.executions import Executions
from mulligan.engine.requests.once import Asked, Attempt, Once
from mulligan.errors import ExecutionNotFound, IdempotencyKeyLost
from mulligan.models import ExecutionStatus, VmExecuteRequest


async def start_once(
    once: Once, executions: Executions, asked: Asked, request: VmExecuteRequest
) -> tuple[ExecutionStatus, bool]:
    """Starts an execution, or finds the one that was started with the key.

    Returns:
        How it is doing, to be listened to; and whether it was there before.

    Raises:
        IdempotencyKeyReused: the key was sent with another request.
        IdempotencyKeyLost: the server died under it, or nobody knows it any more.
        VmExecutionError: it was refused, and nothing ran.
    """

    async def start(attempt: Attempt) -> None:
        await executions.start(request, attempt.execution_id)

    found = await once.do(asked, start)
    execution_id = found.execution_id
    assert execution_id is not None
    try:
        state = await executions.status(execution_id)
        if state.result is None or state.result.outcome != "lost":
            return state, found.replayed
        known = "the server ended under it; the history has it as lost"
    except ExecutionNotFound:
        known = "the history does not know it any more"
    raise IdempotencyKeyLost(
        f"{execution_id} was started with this key, and {known}. Nothing was run now",
        field="Idempotency-Key",
        remedy="see in the history what it did; to run it again, use a new key",
    )
