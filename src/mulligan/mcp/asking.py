"""A person is asked through the client, where a gate wants one asked (see docs/approvals.md)."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from mulligan.errors import (
    ApprovalDenied,
    ApprovalNotFound,
    ApprovalRequired,
    VmExecutionError,
)
from mulligan.log import get_logger
from mulligan.mcp.calls import Call, Waiting
from mulligan.mcp.text import fenced
from mulligan.models import Approval, ApprovalAnswer, utc_now
from mulligan.printable import printable

log = get_logger()

MOST_COMMENT = 1000
FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "comment": {
            "type": "string",
            "title": "Comment",
            "description": "Kept with the answer; may be left empty.",
            "maxLength": MOST_COMMENT,
        }
    },
}


def question_of(approval: Approval) -> str:
    """All that a person is asked to approve, as a text that hides nothing."""
    extras = {
        "Working directory": approval.working_dir,
        "Live interpreter": approval.kernel,
        "Environment variables": ", ".join(approval.env_names) or None,
    }
    lines = [
        f"{printable(approval.prompt)}",
        "",
        f"May this {printable(approval.language)} program run, once, in {approval.vm_id} "
        f"of agent {printable(approval.agent_id)}?",
        fenced(printable(approval.code)),
    ]
    lines += [f"{name}: {printable(text)}" for name, text in extras.items() if text]
    if approval.stdin:
        lines += ["Its input:", fenced(printable(approval.stdin))]
    return "\n".join(lines)


async def permission(call: Call, waits: ApprovalRequired, done: list[str]) -> str:
    """The approval of an execution that needs one, if the person at the client says yes.

    Args:
        call: of the tool.
        waits: how the execution was refused.
        done: the executions of this call so far.

    Raises:
        ApprovalRequired: nobody answered; a person can still.
        ApprovalDenied: a person said no.
        InputRequiredError: see ``Peer.ask``.
    """
    if not call.peer.can_ask:
        raise pending(waits.detail)
    question = await call.workspace.backend.approval(waits.approval_id)
    seconds = max(1.0, (question.expires_at - utc_now()).total_seconds())
    waiting = Waiting(approval_id=question.id, done=done)
    try:
        said = await call.peer.ask(question_of(question), FORM, waiting, seconds)
    except MCPError as error:
        log.warning("person_not_asked", approval_id=question.id, error=str(error))
        raise pending(waits.detail) from None
    return await settle(call, question, said)


async def resumed(call: Call) -> str | None:
    """The approval this call was made again with, if it was and the answer is yes.

    Raises:
        VmExecutionError: as ``permission``.
    """
    waiting, said = call.peer.waiting, call.peer.said
    if waiting is None or said is None:
        return None
    question = await call.workspace.backend.approval(waiting.approval_id)
    if question.agent_id != call.workspace.agent_id:
        raise ApprovalNotFound(waiting.approval_id[:100])
    if not call.peer.can_ask:
        raise pending(f"{question.id}: {question.prompt}")
    return await settle(call, question, said)


async def settle(call: Call, question: Approval, said: types.ElicitResult) -> str:
    """Writes down what a person said; the approval's id if it was yes.

    Raises:
        VmExecutionError: it was no, or no answer, or too late for one.
    """
    if said.action == "cancel":
        raise pending(f"{question.id}: {question.prompt}")
    comment = (said.content or {}).get("comment")
    answer = ApprovalAnswer(
        approve=said.action == "accept",
        who=f"the user of {call.peer.name} (MCP)",
        comment=comment[:MOST_COMMENT] if isinstance(comment, str) and comment else None,
    )
    try:
        await call.workspace.backend.answer(question.id, answer)
    except VmExecutionError as error:
        # Another was first, or it is too late, or this client's answers do not count: running
        # it says which.
        log.warning("answer_not_taken", approval_id=question.id, error=str(error))
    if not answer.approve:
        why = f": {answer.comment}" if answer.comment else ""
        raise ApprovalDenied(
            f"{question.id}: {answer.who} said no{why}",
            remedy="nothing ran; do not ask for the same again, find another way",
        )
    return question.id


def pending(detail: str | int) -> ApprovalRequired:
    """Nobody has answered; how a person can."""
    approval_id = str(detail).partition(":")[0]
    return ApprovalRequired(
        detail,
        remedy="nothing ran; a person answers with `mulligan approvals show|approve|deny "
        f"{approval_id}`; after a yes make exactly the same call again",
    )
