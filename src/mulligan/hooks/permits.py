"""Asking a person, where a hook wants one asked."""

from __future__ import annotations

import asyncio
from typing import Literal

from mulligan.errors import (
    ApprovalConflict,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalRequired,
    VmExecutionError,
)
from mulligan.history.approvals import ApprovalStore, refusal
from mulligan.hooks.approver import Answer, Approver, asked
from mulligan.hooks.calls import Calls
from mulligan.hooks.manager import Outcome
from mulligan.log import get_logger
from mulligan.models import Approval
from mulligan.models.approvals import APPROVED, PENDING, ApprovalSubject
from mulligan.models.hooks import AskUser, ExecutionOutput, PostToolContext

log = get_logger()

OUTPUT = "output"  # the language of a question about what an execution printed


class Permits:
    """Turns "ask a person" into a yes that is used up, or an error.

    Args:
        store: where questions and answers are kept.
        mode: "ask"; or "refuse", where nobody can answer: then what is to be asked is refused,
            unless there is an approver.
        approver: asked right away; None: whoever looks at the list of approvals answers.
    """

    def __init__(
        self,
        store: ApprovalStore,
        *,
        mode: Literal["ask", "refuse"] = "ask",
        approver: Approver | None = None,
    ) -> None:
        self._store = store
        self._mode = mode
        self._approver = approver
        self._calls = Calls()
        self._asking: set[asyncio.Task[Answer | None]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Asks the approver nothing any more, and waits no longer for what it was asked."""
        self._stopped = True
        for task in self._asking:
            task.cancel()

    async def obtain(
        self,
        subject: ApprovalSubject,
        prompt: str,
        *,
        execution_id: str | None = None,
        approval_id: str | None = None,
    ) -> Approval:
        """As `require`; where the question waits for an answer, the approver is asked first.

        Not for who holds a lock: people take their time.
        """
        try:
            return await self.require(
                subject, prompt, execution_id=execution_id, approval_id=approval_id
            )
        except ApprovalRequired as waits:
            approval_id = waits.approval_id
            if not await self.consult(approval_id):
                raise
        return await self.require(
            subject, prompt, execution_id=execution_id, approval_id=approval_id
        )

    async def require(
        self,
        subject: ApprovalSubject,
        prompt: str,
        *,
        execution_id: str | None = None,
        approval_id: str | None = None,
    ) -> Approval:
        """A yes to this execution, used up by it; call it right before the execution starts.

        Waits for nobody.

        Args:
            subject: exactly what would run, and from which state.
            prompt: the question.
            execution_id: written down with the yes.
            approval_id: a yes the request brought along; None: one to the same subject is looked
                for, and the question asked if there is none.

        Raises:
            ApprovalRequired: the question waits for an answer; nothing may run.
            ApprovalDenied: a person said no, or nobody can be asked.
            ApprovalExpired: nobody answered, or used the yes, in time.
            ApprovalNotFound, ApprovalConflict: the approval brought along is not for this.
            HistoryError: the database refuses; nothing may run.
        """
        digest = subject.digest()
        if approval_id is None:
            if self._mode == "refuse" and self._approver is None:
                raise ApprovalDenied(
                    f"a person would have to be asked, and nobody can be: {prompt}",
                    field="approvals.mode",
                    remedy='set approvals.mode to "ask", or give the client an approver',
                )
            known = await asyncio.to_thread(self._store.ask, subject, prompt)
            if known.state != APPROVED:
                raise refusal(known)
            approval_id = known.id
        return await asyncio.to_thread(
            self._store.take, approval_id, digest, execution_id, subject.agent_id
        )

    async def consult(self, approval_id: str) -> bool:
        """Asks the approver a waiting question and writes down the answer.

        Returns:
            Whether the question waits no longer: it was answered, by the approver or another, or
            its time has passed. False without an approver, or if that failed.
        """
        if self._approver is None:
            return False
        question = await asyncio.to_thread(self._store.get, approval_id)
        answer = await self._said(question) if question.state == PENDING else None
        if answer is not None:
            try:
                await asyncio.to_thread(
                    self._store.answer, approval_id, answer.approve, answer.who, answer.comment
                )
            except (ApprovalConflict, ApprovalExpired):  # another was first, or it is too late
                return True
        return (await asyncio.to_thread(self._store.get, approval_id)).state != PENDING

    async def released(
        self, context: PostToolContext, outcome: Outcome[ExecutionOutput]
    ) -> ExecutionOutput:
        """What of an execution's texts goes back, after the approver was asked where a hook wants.

        An execution waits for no list of questions to be answered: without an approver its text
        stays withheld. Asks nobody, and returns ``outcome.final``, if no hook wants it.
        """
        if not isinstance(outcome.decision, AskUser) or self._approver is None:
            return outcome.final
        subject = ApprovalSubject(
            code=outcome.on_yes.model_dump_json(),
            language=OUTPUT,
            vm_id=context.vm_id,
            agent_id=context.agent_id,
            vm_state=f"after {context.execution_id}",
        )
        try:
            await self.obtain(subject, outcome.decision.prompt, execution_id=context.execution_id)
        except VmExecutionError as error:
            return ExecutionOutput(error=f"Output withheld: {error}")
        return outcome.on_yes

    async def _said(self, question: Approval) -> Answer | None:
        """What the approver says to a question; None where it failed, or nobody waits any more."""
        assert self._approver is not None
        if self._stopped:
            return None
        task = asyncio.create_task(asked(self._approver, question, self._calls))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        return None if task.cancelled() else task.result()
