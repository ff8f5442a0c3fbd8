"""One execution from its request to its answer."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from mulligan.engine.execution import Watcher
from mulligan.engine.gates import Gates, Judged
from mulligan.engine.program import OutputCallback
from mulligan.engine.programs import program_of
from mulligan.engine.recording import Recording
from mulligan.engine.results import raise_setup_failure, response_of
from mulligan.engine.validation import check_request
from mulligan.engine.vm import Vm
from mulligan.errors import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalRequired,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.images.host import HostImage
from mulligan.log import get_logger
from mulligan.models import VmExecuteRequest, VmExecuteResponse, utc_now
from mulligan.settings import Settings

log = get_logger()
Result = TypeVar("Result")


class Owner(Protocol):
    """Does something to its end, even if whoever asked for it is cancelled meanwhile."""

    async def __call__(self, work: Coroutine[Any, Any, Result]) -> Result: ...


class Runner:
    """Has requests judged, run and recorded.

    Args:
        settings: bounds of requests.
        image: what VMs are made of.
        gates: what judges them.
        record: makes the recording of an execution in a VM, by its id.
        vm_for: finds the VM of an agent, or the one with an id.
        owned: see the class.
    """

    def __init__(
        self,
        settings: Settings,
        image: HostImage,
        gates: Gates,
        record: Callable[[Vm, Judged, str], Recording],
        vm_for: Callable[[str, str | None], Coroutine[Any, Any, Vm]],
        owned: Owner,
    ) -> None:
        self._settings = settings
        self._image = image
        self._gates = gates
        self._record = record
        self._vm_for = vm_for
        self._owned = owned

    async def execute(
        self,
        request: VmExecuteRequest,
        on_output: OutputCallback | None = None,
        watcher: Watcher | None = None,
    ) -> VmExecuteResponse:
        """See ``Engine.execute``."""
        language = check_request(request, self._settings)
        program_of(request, language, self._image, self._settings)  # is there a toolchain
        vm = await self._vm_for(request.agent_id, request.vm_id)
        watcher = watcher or Watcher()
        judged = await self._gates.before(request, language, vm.record.id, watcher.execution_id)
        if judged.block is not None:
            refusal = ValidationFailed(judged.block, field="code")
            await self._refuse(vm, judged, watcher, refusal)
        if judged.proposed is not None:
            check_request(judged.request, self._settings)
        try:
            return await self._attempt(vm, judged, on_output, watcher)
        except ApprovalRequired as waits:
            watcher.waits()
            if not await self._gates.consult(waits.approval_id):
                raise
            answered = judged.with_approval(waits.approval_id)
        except (ApprovalDenied, ApprovalExpired) as refusal:
            await self._refuse(vm, judged, watcher, refusal)
            raise
        try:
            return await self._attempt(vm, answered, on_output, watcher)
        except (ApprovalDenied, ApprovalExpired) as refusal:
            await self._refuse(vm, judged, watcher, refusal)
            raise

    async def _refuse(
        self, vm: Vm, judged: Judged, watcher: Watcher, refusal: VmExecutionError
    ) -> None:
        """Has the history know of an execution that was not let run."""
        recording = self._record(vm, judged, watcher.execution_id)
        await self._owned(recording.refuse(refusal))
        raise refusal

    async def _attempt(
        self,
        vm: Vm,
        judged: Judged,
        on_output: OutputCallback | None,
        watcher: Watcher,
    ) -> VmExecuteResponse:
        execution_id = watcher.execution_id
        environment = self._gates.environment(judged.request)
        request = judged.request.model_copy(update={"env": environment})
        program = program_of(request, judged.language, self._image, self._settings)
        outflow = self._gates.outflow(request.agent_id, on_output) if on_output else None
        recording = self._record(vm, judged, execution_id)
        permit = functools.partial(self._gates.permit, judged, vm, execution_id)
        started_at = utc_now()
        start = time.monotonic()
        watcher.admitted(vm, judged.language)
        try:
            result = await vm.run(
                program,
                outflow.write if outflow else None,
                execution_id=execution_id,
                prepare=functools.partial(recording.begin, permit),
            )
            watcher.over()
            duration_ms = int((time.monotonic() - start) * 1000)
            raise_setup_failure(result)
            if outflow is not None:
                outflow.finish(truncated=result.truncated)
        except BaseException as error:
            watcher.over()
            if outflow is not None:
                outflow.stop()
            vm.cancelled_for.pop(execution_id, None)
            await self._owned(recording.fail(error))
            raise
        response = response_of(execution_id, vm.record.id, program, result, started_at, duration_ms)
        why = vm.cancelled_for.pop(execution_id, None)
        if why and response.outcome == "cancelled":
            response = response.model_copy(update={"error": f"{response.error}: {why}"})
        response = await self._owned(self._finish(judged, recording, response))
        if outflow is not None:
            outflow.release(response.stdout, response.stderr)
        log.info(
            "executed",
            execution_id=execution_id,
            agent_id=request.agent_id,
            vm_id=vm.record.id,
            language=judged.language,
            outcome=response.outcome,
            exit_code=response.exit_code,
            duration_ms=duration_ms,
        )
        return response

    async def _finish(
        self, judged: Judged, recording: Recording, response: VmExecuteResponse
    ) -> VmExecuteResponse:
        released = await self._gates.after(judged, response)
        return await recording.finish(released.response, rollback=released.rollback)
