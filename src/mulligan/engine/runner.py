"""One execution from its request to its answer."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
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
        self.settings = settings
        self.image = image
        self.gates = gates
        self.record = record
        self._vm_for = vm_for
        self.owned = owned

    async def execute(
        self,
        request: VmExecuteRequest,
        on_output: OutputCallback | None = None,
        watcher: Watcher | None = None,
    ) -> VmExecuteResponse:
        """See ``Engine.execute``."""
        language = check_request(request, self.settings)
        program_of(request, language, self.image, self.settings)  # is there a toolchain
        vm = await self._vm_for(request.agent_id, request.vm_id)
        watcher = watcher or Watcher()
        attempt = functools.partial(self._attempt, vm, on_output=on_output, watcher=watcher)
        return await self.admit(vm, request, language, watcher, attempt)

    async def admit(
        self,
        vm: Vm,
        request: VmExecuteRequest,
        language: str,
        watcher: Watcher,
        attempt: Callable[[Judged], Awaitable[Result]],
    ) -> Result:
        """Has a request judged, and attempted where that is allowed, if need be by a person.

        Raises:
            VmExecutionError: it was refused, or ``attempt`` raised it.
        """
        judged = await self.gates.before(request, language, vm.record.id, watcher.execution_id)
        if judged.block is not None:
            refusal = ValidationFailed(judged.block, field="code")
            await self._refuse(vm, judged, watcher, refusal)
        if judged.proposed is not None:
            check_request(judged.request, self.settings)
        try:
            return await attempt(judged)
        except ApprovalRequired as waits:
            watcher.waits()
            if not await self.gates.consult(waits.approval_id):
                raise
            answered = judged.with_approval(waits.approval_id)
        except (ApprovalDenied, ApprovalExpired) as refusal:
            await self._refuse(vm, judged, watcher, refusal)
            raise
        try:
            return await attempt(answered)
        except (ApprovalDenied, ApprovalExpired) as refusal:
            await self._refuse(vm, judged, watcher, refusal)
            raise

    async def _refuse(
        self, vm: Vm, judged: Judged, watcher: Watcher, refusal: VmExecutionError
    ) -> None:
        """Has the history know of an execution that was not let run."""
        recording = self.record(vm, judged, watcher.execution_id)
        await self.owned(recording.refuse(refusal))
        raise refusal

    async def _attempt(
        self,
        vm: Vm,
        judged: Judged,
        *,
        on_output: OutputCallback | None,
        watcher: Watcher,
    ) -> VmExecuteResponse:
        execution_id = watcher.execution_id
        environment = self.gates.environment(judged.request)
        request = judged.request.model_copy(update={"env": environment})
        program = program_of(request, judged.language, self.image, self.settings)
        outflow = self.gates.outflow(request.agent_id, on_output) if on_output else None
        recording = self.record(vm, judged, execution_id)
        permit = functools.partial(self.gates.permit, judged, vm, execution_id)
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
            await self.owned(recording.fail(error))
            raise
        response = response_of(execution_id, vm.record.id, program, result, started_at, duration_ms)
        why = vm.cancelled_for.pop(execution_id, None)
        if why and response.outcome == "cancelled":
            response = response.model_copy(update={"error": f"{response.error}: {why}"})
        response = await self.owned(self._finish(judged, recording, response))
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
        released = await self.gates.after(judged, response)
        return await recording.finish(released.response, rollback=released.rollback)
