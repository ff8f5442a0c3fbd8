"""Asking people, from a client."""

from __future__ import annotations

import contextlib

from mulligan.client.backends import Backend, Doing
from mulligan.errors import (
    ApprovalConflict,
    ApprovalExpired,
    ApprovalRequired,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.hooks.approver import Approver, asked
from mulligan.hooks.calls import Calls
from mulligan.models import Approval, ApprovalAnswer, VmExecuteRequest, VmExecuteResponse

MOST_KEY = 255


class Approvals:
    """The part of a client that has to do with approvals."""

    _backend: Backend
    _approver: Approver | None = None

    async def list_approvals(
        self, state: str | None = None, agent_id: str | None = None
    ) -> list[Approval]:
        """What people were asked, newest first.

        Args:
            state: "pending", "approved", "denied", "expired" or "used"; None: any.
            agent_id: for whose executions; None: anybody's.
        """
        return await self._backend.approvals(state, agent_id)

    async def get_approval(self, approval_id: str) -> Approval:
        """A question, and what became of it.

        Raises:
            ApprovalNotFound: there is none.
        """
        return await self._backend.approval(approval_id)

    async def answer_approval(
        self, approval_id: str, approve: bool, who: str = "somebody", comment: str | None = None
    ) -> Approval:
        """Writes down a person's answer. A yes is used by one execution, sent with the id.

        Raises:
            ApprovalNotFound, ApprovalConflict, ApprovalExpired: it is too late for one.
        """
        answer = ApprovalAnswer(approve=approve, who=who, comment=comment)
        return await self._backend.answer(approval_id, answer)

    def _doing(self, key: str | None) -> Doing:
        """What does something: once, if there is an idempotency key.

        Raises:
            ValidationFailed: it is none.
        """
        if key is None:
            return self._backend
        if not (0 < len(key) <= MOST_KEY and key.isascii() and key.isprintable()):
            raise ValidationFailed(
                f"idempotency_key must be 1 to {MOST_KEY} printable characters of ASCII",
                field="idempotency_key",
                remedy="use a UUID",
            )
        return self._backend.keyed(key)

    async def _execute_asking(
        self, request: VmExecuteRequest, key: str | None = None
    ) -> VmExecuteResponse:
        """Runs code; where a person has to say yes first, the client's approver is asked."""
        try:
            return await self._doing(key).execute(request)
        except ApprovalRequired as waits:
            approved = await self._approved(request, waits)
            if approved is None:
                raise
        return await self._doing(key).execute(approved)  # a refusal has not used up the key

    async def _approved(
        self, request: VmExecuteRequest, error: VmExecutionError
    ) -> VmExecuteRequest | None:
        """The request with the answer of the client's approver, if that is what it lacked."""
        if request.approval is not None:
            return None  # an answer was given, and it was to something else
        approval = await self._approval(error)
        return None if approval is None else request.model_copy(update={"approval": approval})

    async def _approval(self, error: VmExecutionError) -> str | None:
        """The id of an answer of the client's approver, if it is one that was lacking."""
        if not isinstance(error, ApprovalRequired) or self._approver is None:
            return None
        question = await self._backend.approval(error.approval_id)
        said = await asked(self._approver, question, Calls())
        if said is None:
            return None
        answer = ApprovalAnswer(approve=said.approve, who=said.who, comment=said.comment)
        with contextlib.suppress(ApprovalConflict, ApprovalExpired):
            # Where another was first, or it is too late, the next execution says so.
            await self._backend.answer(question.id, answer)
        return question.id
