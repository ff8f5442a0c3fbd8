"""One execution from its request to its answer."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from mulligan.engine.executions.execution import CANCELLED, Watcher
from mulligan.engine.executions.gates import Gates, Judged
from mulligan.engine.executions.offered import Offers, check_reachable
from mulligan.engine.executions.programs import program_of
from mulligan.engine.executions.recording import Recording
from mulligan.engine.executions.results import raise_setup_failure, response_of, too_late
from mulligan.engine.fleet import Fleet
from mulligan.engine.packages.packages import Needs, Packages
from mulligan.engine.requests.admission import Admission, DeadlinePassed, Ticket
from mulligan.engine.requests.validation import check_request
from mulligan.engine.vms.program import OutputCallback, Program
from mulligan.engine.vms.replies import ProgramResult
from mulligan.engine.vms.vm import Prepare, Vm
from mulligan.errors import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalRequired,
    RequirementsRefused,
    TooManyRequests,
    ValidationFailed,
    VmExecutionError,
)
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
        fleet: the VMs.
        gates: what judges them.
        record: makes the recording of an execution in a VM, by its id.
        owned: see the class.
        admission: says whose turn it is.
        packages: the sets of packages executions ask for.
    """

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        gates: Gates,
        record: Callable[[Vm, Judged, str], Recording],
        owned: Owner,
        admission: Admission,
        packages: Packages,
    ) -> None:
        self.settings = settings
        self.gates = gates
        self.record = record
        self._vm_for = fleet.vm_for
        self._image_for = fleet.image_for
        self.owned = owned
        self._admission = admission
        self._packages = packages
        self._offers = Offers(settings, gates.vault.add)

    async def execute(
        self,
        request: VmExecuteRequest,
        on_output: OutputCallback | None = None,
        watcher: Watcher | None = None,
        *,
        ticket: Ticket,
    ) -> VmExecuteResponse:
        """See ``Engine.execute``; ``ticket`` is the request's in the queue."""
        language = check_request(request, self.settings)
        image = self._image_for(request.agent_id, request.vm_id)
        program_of(request, language, image, self.settings)  # is there a toolchain
        vm = await self._vm_for(request.agent_id, request.vm_id)
        check_reachable(request, vm)
        watcher = watcher or Watcher()
        attempt = functools.partial(self._attempt, vm, ticket, on_output=on_output, watcher=watcher)
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
        ticket: Ticket,
        judged: Judged,
        *,
        on_output: OutputCallback | None,
        watcher: Watcher,
    ) -> VmExecuteResponse:
        execution_id = watcher.execution_id
        async with self._offers.placeholders(judged.request, vm, execution_id) as found:
            return await self._run_judged(
                vm, ticket, judged, found, on_output=on_output, watcher=watcher
            )

    async def _run_judged(
        self,
        vm: Vm,
        ticket: Ticket,
        judged: Judged,
        placeholders: dict[str, str],
        *,
        on_output: OutputCallback | None,
        watcher: Watcher,
    ) -> VmExecuteResponse:
        execution_id, env = watcher.execution_id, self.gates.environment(judged.request)
        request = judged.request.model_copy(update={"env": env | placeholders})
        language, image = judged.language, vm.spec.image
        made = functools.partial(program_of, request, language, image, self.settings)
        needs = Needs(self._packages, request, judged.language, vm, made, watcher.progress)
        outflow = self.gates.outflow(request.agent_id, on_output) if on_output else None
        recording = self.record(vm, judged, execution_id)
        permit = functools.partial(self.gates.permit, judged, vm, execution_id)
        begin = functools.partial(recording.begin, permit)
        program, asked_at = made(), utc_now()
        watcher.admitted(vm, judged.language)
        ticket.started = False
        try:
            if judged.question is None and request.requirements:
                program, asked_at = await needs.program(), utc_now()
            result, duration_ms = await self._run(
                vm,
                ticket,
                program,
                watcher,
                on_output=outflow.write if outflow else None,
                prepare=functools.partial(needs.program, begin),
                has_deadline=request.timeout_seconds is not None,
            )
            watcher.over()
            raise_setup_failure(result)
            if outflow is not None:
                outflow.finish(truncated=result.truncated)
        except BaseException as error:
            watcher.over()
            if outflow is not None:
                outflow.stop()
            vm.cancelled_for.pop(execution_id, None)
            if ticket.started:
                await self.owned(recording.fail(error))
                raise
            if not isinstance(error, DeadlinePassed):
                await self.owned(_not_started(recording, error))
                raise
            late = too_late(execution_id, vm.record.id, program, asked_at, ticket.queue_ms)
            await self.owned(recording.never_started(late.outcome, late.error or ""))
            return late
        started_at = asked_at + timedelta(milliseconds=ticket.queue_ms)
        response = response_of(execution_id, vm.record.id, program, result, started_at, duration_ms)
        update: dict[str, object] = {"queue_ms": ticket.queue_ms, "packages": needs.pins()}
        response = await self._released(vm, judged, recording, response, update)
        if outflow is not None:
            outflow.release(response.stdout, response.stderr)
        _log(request.agent_id, judged.language, response)
        return response

    async def _released(
        self,
        vm: Vm,
        judged: Judged,
        recording: Recording,
        response: VmExecuteResponse,
        update: dict[str, object],
    ) -> VmExecuteResponse:
        """The answer as it goes back: judged, and kept in the history."""
        why = vm.cancelled_for.pop(response.execution_id, None)
        if why and response.outcome == "cancelled":
            update["error"] = f"{response.error}: {why}"
        response = response.model_copy(update=update)
        return await self.owned(self._finish(judged, recording, response))

    async def _run(
        self,
        vm: Vm,
        ticket: Ticket,
        program: Program,
        watcher: Watcher,
        *,
        on_output: OutputCallback | None,
        prepare: Prepare,
        has_deadline: bool,
    ) -> tuple[ProgramResult, int]:
        """Waits for the program's turn, and runs it; its end, and the milliseconds it took.

        What it waits counts where the request has a deadline; see ``Admission.place``.
        """
        deadline_s = program.timeout_ms / 1000 if has_deadline else None
        kernel = vm.turn_of(program.kernel)

        async def begin() -> Program:
            prepared = await prepare() or program
            self._admission.begun(ticket)
            return replace(prepared, timeout_ms=program.timeout_ms)

        async with self._admission.place(
            ticket, vm.record.id, kernel, deadline_s=deadline_s, on_wait=watcher.queued
        ):
            watcher.started(ticket.queue_ms)
            if has_deadline and ticket.queue_ms:
                left_ms = max(1, program.timeout_ms - ticket.queue_ms)
                program = replace(program, timeout_ms=left_ms)
            start = time.monotonic()
            result = await vm.run(
                program,
                on_output,
                execution_id=watcher.execution_id,
                prepare=begin,
                on_turn=ticket.waited,
            )
            took_s = time.monotonic() - start - ticket.for_vm_s
        return result, max(0, int(took_s * 1000))

    async def _finish(
        self, judged: Judged, recording: Recording, response: VmExecuteResponse
    ) -> VmExecuteResponse:
        released = await self.gates.after(judged, response)
        return await recording.finish(released.response, rollback=released.rollback)


def _log(agent_id: str, language: str, response: VmExecuteResponse) -> None:
    log.info(
        "executed",
        execution_id=response.execution_id,
        agent_id=agent_id,
        vm_id=response.vm_id,
        language=language,
        outcome=response.outcome,
        exit_code=response.exit_code,
        duration_ms=response.duration_ms,
        queue_ms=response.queue_ms,
    )


async def _not_started(recording: Recording, error: BaseException) -> None:
    """Has the history know of an execution whose turn never came."""
    if isinstance(error, asyncio.CancelledError):
        await recording.never_started("cancelled", CANCELLED)
    elif isinstance(error, (TooManyRequests, RequirementsRefused)):
        await recording.refuse(error)
