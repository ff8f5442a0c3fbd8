"""Several requests in one: answered in their order, each with a result or an error of its own.

Requests to one VM run one after the other, in their order, so that each has a state to go back to
and finds what the one before it left. Those to different VMs run beside each other, a few at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mulligan.errors import InternalError, ValidationFailed, VmExecutionError
from mulligan.log import get_logger
from mulligan.models import (
    BatchResponse,
    BatchResult,
    ErrorAnswer,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
)

log = get_logger()

MOST_REQUESTS = 100
AT_ONCE = 4

Asked = VmExecuteRequest | VmExecutionError


async def run_batch(
    requests: Sequence[Asked],
    execute: Callable[[VmExecuteRequest], Awaitable[VmExecuteResponse]],
    vms_of: Callable[[str], list[VmInstance]],
) -> BatchResponse:
    """Runs a batch. Cancelling this ends what runs of it.

    Args:
        requests: each a request, or the error that was found when it was read.
        execute: runs one.
        vms_of: an agent's VMs, that first which takes requests that name none.

    Raises:
        ValidationFailed: there are too many.
    """
    if len(requests) > MOST_REQUESTS:
        raise ValidationFailed(
            f"{len(requests)} requests are more than {MOST_REQUESTS}",
            field="requests",
            remedy="send several batches",
        )
    results: list[BatchResult] = [BatchResult()] * len(requests)
    queues: dict[str, list[tuple[int, VmExecuteRequest]]] = {}
    for number, request in enumerate(requests):
        if isinstance(request, VmExecutionError):
            results[number] = BatchResult(error=ErrorAnswer.of(request))
        else:
            queues.setdefault(_vm_of(request, vms_of), []).append((number, request))
    turns = asyncio.Semaphore(AT_ONCE)

    async def work(queue: list[tuple[int, VmExecuteRequest]]) -> None:
        async with turns:
            for number, request in queue:
                results[number] = await _one(request, execute)

    async with asyncio.TaskGroup() as group:
        for queue in queues.values():
            group.create_task(work(queue))
    return BatchResponse(results=results)


def _vm_of(request: VmExecuteRequest, vms_of: Callable[[str], list[VmInstance]]) -> str:
    """What names the VM a request goes to, before there may be one."""
    if request.vm_id is not None:
        return request.vm_id
    own = vms_of(request.agent_id)
    return own[0].id if own else f"the first of {request.agent_id}"


async def _one(
    request: VmExecuteRequest,
    execute: Callable[[VmExecuteRequest], Awaitable[VmExecuteResponse]],
) -> BatchResult:
    try:
        return BatchResult(result=await execute(request))
    except VmExecutionError as error:
        return BatchResult(error=ErrorAnswer.of(error))
    except Exception as error:  # the others go on
        log.exception("fault", exc_info=error)
        fault = InternalError("the server failed; its log has the details")
        return BatchResult(error=ErrorAnswer.of(fault))
