"""Whoever is asked whether something may run."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from mulligan.hooks.calls import CallFailed, Calls
from mulligan.log import get_logger
from mulligan.models import Approval, utc_now

log = get_logger()


@dataclass(frozen=True)
class Answer:
    """A person's answer: yes or no, who they are, and what they say to it."""

    approve: bool
    who: str = "approver"
    comment: str | None = None


class Approver(Protocol):
    """Asks a person, and returns their answer: True, False or an Answer.

    A coroutine function, or a plain one, which runs in a thread and may block. Where it raises,
    returns something else or takes longer than the question stands, nobody has answered.
    """

    def __call__(self, approval: Approval, /) -> bool | Answer | Awaitable[bool | Answer]:
        """Asks about one approval."""
        ...


async def asked(approver: Approver, question: Approval, calls: Calls) -> Answer | None:
    """What an approver says to a question, for as long as it stands; None where it failed."""
    seconds = (question.expires_at - utc_now()).total_seconds()
    try:
        answer = await calls.call(approver, question, max(seconds, 0.001))
    except CallFailed as failure:
        log.warning("approver_failed", approval_id=question.id, reason=str(failure))
        return None
    if isinstance(answer, bool):
        return Answer(answer)
    if isinstance(answer, Answer) and isinstance(answer.approve, bool):
        return answer
    log.warning(
        "approver_failed", approval_id=question.id, reason=f"returned {type(answer).__name__}"
    )
    return None
