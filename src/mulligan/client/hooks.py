"""Hooks of a client: judged in its own process, before it sends and after it receives.

They come before and on top of the gates of whoever runs the code, and see what goes over the wire:
an execution's code, and what came back of it, in which secrets are redacted already.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from mulligan.client.approvals import Approvals
from mulligan.errors import ApprovalDenied, ValidationFailed, VmExecutionError
from mulligan.hooks.approver import asked
from mulligan.hooks.calls import Calls
from mulligan.languages import canonical
from mulligan.models import (
    Approval,
    BatchResponse,
    BatchResult,
    ErrorAnswer,
    ExecutionEvent,
    RollbackTo,
    VmExecuteRequest,
    VmExecuteResponse,
    utc_now,
)
from mulligan.models.approvals import PENDING, ApprovalSubject
from mulligan.models.hooks import (
    OUTPUT_FIELDS,
    AskUser,
    Block,
    PostToolContext,
    PreToolContext,
)
from mulligan.models.verdicts import Verdict

if TYPE_CHECKING:
    from mulligan.hooks.manager import HookManager, Outcome
    from mulligan.models.hooks import ExecutionOutput

ANY_VM = "default"  # what hooks are told where a request names no VM
ANSWER_WITHIN = timedelta(hours=1)
MOST_TEXT = 16 * 1024  # characters of an event's text: 64 KiB at the most


class Hooked(Approvals):
    """The part of a client that has to do with its own hooks."""

    _hooks: HookManager | None = None

    def with_hook_manager(self, hook_manager: HookManager) -> Self:
        """Has hooks of the client's own judge what it executes; returns the client.

        Before: ``Block`` raises, ``Modify`` sends other code, ``AskUser`` asks the client's
        approver, without whom it is a no. After: ``Block`` raises, ``ModifyOutput`` changes what is
        returned, ``Rollback`` takes the VM back to before the execution. They judge ``execute_*``,
        commands of sessions and ``stream`` (whose output then comes with its end); not
        ``parse_and_execute``, where the code is found by whoever runs it, and judged there.
        """
        self._hooks = hook_manager
        return self

    async def _execute_judged(
        self, request: VmExecuteRequest, key: str | None = None
    ) -> VmExecuteResponse:
        if self._hooks is None:
            return await self._execute_asking(request, key)
        start = time.monotonic()
        request, verdicts = await self._before(self._hooks, request)
        response = await self._execute_asking(request, key)
        return await self._after(self._hooks, request, response, start, verdicts)

    async def _batch_judged(
        self, requests: list[VmExecuteRequest], key: str | None = None
    ) -> BatchResponse:
        if self._hooks is None:
            return await self._doing(key).batch(requests)
        start = time.monotonic()
        results: dict[int, BatchResult] = {}
        admitted: list[tuple[int, VmExecuteRequest, tuple[Verdict, ...]]] = []
        for number, request in enumerate(requests):
            try:
                admitted.append((number, *await self._before(self._hooks, request)))
            except VmExecutionError as error:
                results[number] = BatchResult(error=ErrorAnswer.of(error))
        done = await self._doing(key).batch([request for _, request, _ in admitted])
        for (number, request, verdicts), each in zip(admitted, done.results, strict=True):
            results[number] = each
            if each.result is not None:
                try:
                    judged = await self._after(self._hooks, request, each.result, start, verdicts)
                    results[number] = BatchResult(result=judged)
                except VmExecutionError as error:
                    results[number] = BatchResult(error=ErrorAnswer.of(error))
        return BatchResponse(results=[results[number] for number in range(len(requests))])

    async def _stream_judged(
        self, request: VmExecuteRequest, *, cancel_on_disconnect: bool, key: str | None = None
    ) -> AsyncGenerator[ExecutionEvent, None]:
        hooks = self._hooks
        start = time.monotonic()
        verdicts: tuple[Verdict, ...] = ()
        if hooks is not None:
            request, verdicts = await self._before(hooks, request)
        withheld = hooks is not None and _judges_output(hooks)
        source = self._stream_asking(request, cancel_on_disconnect=cancel_on_disconnect, key=key)
        async with aclosing(source) as events:
            async for event in events:
                if hooks is not None and event.result is not None:
                    try:
                        judged = await self._after(hooks, request, event.result, start, verdicts)
                    except VmExecutionError as error:
                        answer = ErrorAnswer.of(error)
                        changes = {"event": "error", "result": None, "error": answer}
                        yield event.model_copy(update=changes)
                        return
                    for each in _texts(event, judged) if withheld else ():
                        yield each
                    yield event.model_copy(update={"result": judged})
                elif not withheld or event.event not in ("stdout", "stderr", "gap"):
                    yield event

    async def _stream_asking(
        self, request: VmExecuteRequest, *, cancel_on_disconnect: bool, key: str | None = None
    ) -> AsyncGenerator[ExecutionEvent, None]:
        """A stream; where a person has to say yes first, the client's approver is asked."""
        approved: VmExecuteRequest | None = request
        while approved is not None:
            doing = self._doing(key)
            source = doing.stream(approved, cancel_on_disconnect=cancel_on_disconnect)
            approved = None
            async with aclosing(source) as events:
                async for event in events:
                    if event.error is not None:
                        approved = await self._approved(request, event.error.exception())
                        if approved is not None and key is not None:
                            # The key's execution was begun and refused: this is another.
                            key = f"{key[:200]}/{approved.approval}"
                    if approved is None:
                        yield event

    async def _before(
        self, hooks: HookManager, request: VmExecuteRequest
    ) -> tuple[VmExecuteRequest, tuple[Verdict, ...]]:
        """The request as the hooks let it go.

        Raises:
            ValidationFailed: they do not.
            ApprovalDenied: a person did not say yes.
        """
        context = PreToolContext(
            code=request.code,
            language=canonical(request.language),
            agent_id=request.agent_id,
            vm_id=request.vm_id or ANY_VM,
            stdin=request.stdin,
            env=request.env or {},
            working_dir=request.working_dir,
            kernel=request.kernel,
        )
        outcome = await hooks.run_pre_tool(context)
        if isinstance(outcome.decision, Block):
            raise ValidationFailed(outcome.decision.reason, field="code")
        if outcome.final != request.code:
            request = request.model_copy(update={"code": outcome.final})
        if isinstance(outcome.decision, AskUser):
            await self._ask(request, outcome.decision.prompt)
        return request, outcome.verdicts

    async def _after(
        self,
        hooks: HookManager,
        request: VmExecuteRequest,
        response: VmExecuteResponse,
        start: float,
        verdicts: tuple[Verdict, ...],
    ) -> VmExecuteResponse:
        """The answer as the hooks let it back.

        Raises:
            ValidationFailed: they do not.
        """
        context = PostToolContext(
            original_code=request.code,
            exit_code=response.exit_code,
            duration_ms=int((time.monotonic() - start) * 1000),
            agent_id=request.agent_id,
            vm_id=response.vm_id,
            language=canonical(request.language),
            execution_id=response.execution_id,
            outcome=response.outcome,
            truncated=response.truncated,
            working_dir=request.working_dir,
            **{name: getattr(response, name) for name in OUTPUT_FIELDS},
        )
        outcome = await hooks.run_post_tool(context)
        update: dict[str, object] = {}
        if outcome.rollback is not None:
            update = await self._go_back(response, outcome.rollback)
        if isinstance(outcome.decision, Block):
            raise ValidationFailed(outcome.decision.reason, field="output")
        texts = await self._released(request, outcome)
        update |= {name: getattr(texts, name) for name in OUTPUT_FIELDS}
        update["verdicts"] = [*verdicts, *response.verdicts, *outcome.verdicts]
        return response.model_copy(update=update)

    async def _released(
        self, request: VmExecuteRequest, outcome: Outcome[ExecutionOutput]
    ) -> ExecutionOutput:
        """What goes back; where a person is asked and does not say yes, why nothing does."""
        if not isinstance(outcome.decision, AskUser):
            return outcome.final
        try:
            await self._ask(request, outcome.decision.prompt)
        except ApprovalDenied as error:
            return outcome.final.model_copy(update={"error": f"Output withheld: {error}"})
        return outcome.on_yes

    async def _go_back(self, response: VmExecuteResponse, why: str) -> dict[str, object]:
        """Takes the VM back to before an execution; what there is to say of that in its answer."""
        if response.rolled_back_to is not None:
            return {}
        try:
            to = RollbackTo(execution_id=response.execution_id)
            done = await self._backend.rollback(response.vm_id, to)
        except VmExecutionError as error:
            return {"notes": [*response.notes, f"not rolled back: {error}"]}
        return {
            "rolled_back_to": done.restored_snapshot_id,
            "notes": [*response.notes, f"rolled back: {why}"],
        }

    async def _ask(self, request: VmExecuteRequest, prompt: str) -> None:
        """Asks the client's approver.

        Raises:
            ApprovalDenied: there is none, or there was no yes.
        """
        if self._approver is None:
            raise ApprovalDenied(
                f"a hook of this client wants a person asked, and it has no approver: {prompt}",
                remedy="give the client an approver",
            )
        said = await asked(self._approver, _question(request, prompt), Calls())
        if said is None or not said.approve:
            who = "nobody answered" if said is None else f"{said.who} said no"
            comment = f" ({said.comment})" if said is not None and said.comment else ""
            raise ApprovalDenied(f"{who}{comment}: {prompt}")


def _judges_output(hooks: HookManager) -> bool:
    """Whether output may not be shown before all of it was judged."""
    return any(not each.observer and "post_tool" in each.stages for each in hooks.describe())


def _texts(end: ExecutionEvent, judged: VmExecuteResponse) -> list[ExecutionEvent]:
    """What was judged, as the events before the end."""
    return [
        ExecutionEvent(
            id=max(end.id - 1, 1),
            event=stream,
            execution_id=end.execution_id,
            text=text[at : at + MOST_TEXT],
        )
        for stream, text in (("stdout", judged.stdout), ("stderr", judged.stderr))
        for at in range(0, len(text), MOST_TEXT)
    ]


def _question(request: VmExecuteRequest, prompt: str) -> Approval:
    """A question of this client's own: no list has it, and one answer is all there is to it."""
    subject = ApprovalSubject(
        code=request.code,
        language=canonical(request.language),
        vm_id=request.vm_id or ANY_VM,
        agent_id=request.agent_id,
        vm_state="unknown",
        stdin=request.stdin,
        env=request.env or {},
        working_dir=request.working_dir,
        kernel=request.kernel,
    )
    now = utc_now()
    return Approval(
        id=f"client-{secrets.token_hex(8)}",
        state=PENDING,
        digest=subject.digest(),
        prompt=prompt,
        env_names=sorted(subject.env),
        created_at=now,
        expires_at=now + ANSWER_WITHIN,
        **subject.model_dump(exclude={"env"}),
    )
