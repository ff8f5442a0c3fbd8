"""Approvals: durable questions to a person, each yes good for one execution.

::

    pending ──answer──▶ approved ──take──▶ used
       │  └───answer──▶ denied
       └──────────────────┴── its time passed ──▶ expired   (of pending and approved)

Every change of state is one statement that names the state it starts from, so of two who want the
same change one wins, in whichever processes they are. What `take` has marked as used stays so,
even where the process dies before the execution starts: a yes may be lost, and never counts twice.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from mulligan.errors import (
    ApprovalConflict,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalRequired,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.history.database import Database, open_sqlite, open_url
from mulligan.history.schema import LIVE, approvals
from mulligan.models import Approval, utc_now
from mulligan.models.approvals import (
    APPROVED,
    DENIED,
    EXPIRED,
    PENDING,
    STATES,
    USED,
    ApprovalSubject,
)

HOUR = timedelta(hours=1)
MOST_PENDING = 100
MOST_KEPT = 1000
MOST_LISTED = 1000
_MOST_PROMPT = 8000
_MOST_COMMENT = 2000
_c = approvals.c
_LIVE = (PENDING, APPROVED)


class _AskedMeanwhile(Exception):  # noqa: N818
    """The same question came from another process."""


class ApprovalStore:
    """The approvals of one database. Its methods block and may be called from any thread.

    Every method raises HistoryError when the database refuses; nothing is changed then.

    Args:
        database: called for the open database each time it is needed.
        expires_after: how long a question waits, and for how long a no stands.
        use_within: how long a yes is good for.
        clock: the present; a test's own.
    """

    def __init__(
        self,
        database: Callable[[], Database],
        *,
        expires_after: timedelta = HOUR,
        use_within: timedelta = HOUR,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._expires_after = expires_after
        self._use_within = use_within
        self._clock = clock

    def ask(self, subject: ApprovalSubject, prompt: str) -> Approval:
        """A question about an execution.

        The same one is not asked twice: while it waits, or a yes to it is unused, or a no to it
        stands, that approval is returned.

        Raises:
            ValidationFailed: the agent has ``MOST_PENDING`` questions waiting.
        """
        digest = subject.digest()
        try:
            with self._database().write() as connection:
                return self._ask(connection, subject, digest, prompt)
        except _AskedMeanwhile:  # by another process; it is found now
            with self._database().write() as connection:
                return self._ask(connection, subject, digest, prompt)

    def answer(
        self, approval_id: str, approve: bool, who: str, comment: str | None = None
    ) -> Approval:
        """Writes down a person's answer; there is one.

        Args:
            approval_id: the question's.
            approve: yes or no.
            who: the person, as they are known.
            comment: what they said, for whoever asked.

        Raises:
            ApprovalNotFound: there is no such question.
            ApprovalExpired: its time has passed.
            ApprovalConflict: it has been answered.
        """
        if not isinstance(approve, bool):  # "no" is true to Python
            raise ValidationFailed("approve must be true or false", field="approve")
        if not who.strip():
            raise ValidationFailed("who answers is missing", field="who", remedy="send a name")
        now = self._clock()
        values = {
            "state": APPROVED if approve else DENIED,
            "answered_at": now,
            "answered_by": who[:200],
            "comment": None if comment is None else comment[:_MOST_COMMENT],
            "expires_at": now + (self._use_within if approve else self._expires_after),
        }
        before = (PENDING,) if approve else _LIVE
        is_open = and_(_c.id == approval_id, _c.state.in_(before))
        with self._database().write() as connection:
            self._expire(connection, now)
            done = connection.execute(update(approvals).where(is_open).values(values)).rowcount
            found = self._found(connection, approval_id)
        if done:
            return found
        if found.state == EXPIRED:
            raise _expired(found)
        raise ApprovalConflict(
            f"{found.id} was answered by {found.answered_by} at {_when(found.answered_at)}: "
            f"{found.state}",
            field="approval_id",
            remedy="an answer stands; a new execution can be asked about anew",
        )

    def take(
        self,
        approval_id: str,
        digest: str,
        execution_id: str | None = None,
        agent_id: str | None = None,
    ) -> Approval:
        """Uses up a yes, for one execution; call it right before that starts.

        Args:
            approval_id: the yes's.
            digest: of what is about to run, see `ApprovalSubject.digest`.
            execution_id: written down beside it.
            agent_id: whose execution it is, if the approval has to be that agent's.

        Raises:
            ApprovalNotFound: there is no such approval.
            ApprovalRequired: nobody has answered yet.
            ApprovalDenied: a person said no.
            ApprovalExpired: nobody answered, or nobody used it, in time.
            ApprovalConflict: it is of something else, or has been used.
        """
        now = self._clock()
        usable = and_(_c.id == approval_id, _c.state == APPROVED, _c.digest == digest)
        values = {"state": USED, "used_at": now, "execution_id": execution_id}
        with self._database().write() as connection:
            self._expire(connection, now)
            done = connection.execute(update(approvals).where(usable).values(values)).rowcount
            found = self._found(connection, approval_id, agent_id)
        if done:
            return found
        if found.digest != digest:
            raise ApprovalConflict(
                f"{found.id} is for another execution: the code, language, input, agent, VM or the "
                "VM's state differs from what was shown",
                field="approval",
                remedy="run it without the approval, which asks anew",
            )
        raise refusal(found)

    def get(self, approval_id: str, agent_id: str | None = None) -> Approval:
        """The approval with that id; with ``agent_id``, only if it is that agent's.

        Raises:
            ApprovalNotFound: there is none.
        """
        with self._database().read() as connection:
            return self._found(connection, approval_id, agent_id)

    def count_waiting(self) -> int:
        """How many questions wait for an answer."""
        with self._database().read() as connection:
            waiting = select(func.count()).select_from(approvals).where(self._is(PENDING))
            return connection.execute(waiting).scalar_one()

    def list(
        self,
        state: str | None = None,
        agent_id: str | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[Approval]:
        """Approvals, newest first; of a state or an agent, if one is named.

        Raises:
            ValidationFailed: there is no such state.
        """
        if state is not None and state not in STATES:
            raise ValidationFailed(
                f"there is no state {state[:50]!r}",
                field="state",
                remedy=f"use one of: {', '.join(STATES)}",
            )
        statement = select(approvals).order_by(_c.seq.desc())
        if state is not None:
            statement = statement.where(self._is(state))
        if agent_id is not None:
            statement = statement.where(_c.agent_id == agent_id)
        page = statement.limit(min(limit, MOST_LISTED)).offset(min(offset, 2**62))
        with self._database().read() as connection:
            return [self._approval(row) for row in connection.execute(page).mappings()]

    def _ask(
        self, connection: Connection, subject: ApprovalSubject, digest: str, prompt: str
    ) -> Approval:
        now = self._clock()
        self._expire(connection, now)
        stands = or_(_c.state.in_(_LIVE), and_(_c.state == DENIED, _c.expires_at > now))
        same = select(approvals).where(_c.digest == digest, stands).order_by(_c.seq.desc()).limit(1)
        row = connection.execute(same).mappings().one_or_none()
        if row is not None:
            return self._approval(row)
        waiting = select(func.count()).where(_c.agent_id == subject.agent_id, _c.state == PENDING)
        if connection.execute(waiting).scalar_one() >= MOST_PENDING:
            raise ValidationFailed(
                f"agent {subject.agent_id} has {MOST_PENDING} questions waiting for approval",
                field="agent_id",
                remedy="answer some of them, or wait until they expire",
            )
        self._prune(connection, subject.agent_id)
        asked = Approval(
            id=f"approval-{secrets.token_hex(8)}",
            state=PENDING,
            digest=digest,
            prompt=prompt[:_MOST_PROMPT],
            env_names=sorted(subject.env),
            created_at=now,
            expires_at=now + self._expires_after,
            **subject.model_dump(exclude={"env"}),
        )
        columns: dict[str, Any] = dict(asked) | {"env_names": json.dumps(asked.env_names)}
        try:
            connection.execute(insert(approvals).values(columns))
        except IntegrityError:
            raise _AskedMeanwhile from None
        return asked

    def _prune(self, connection: Connection, agent_id: str) -> None:
        """Forgets an agent's oldest ones that nothing waits for, above ``MOST_KEPT``."""
        over = and_(_c.agent_id == agent_id, _c.state.not_in(_LIVE))
        oldest = select(_c.seq).where(over).order_by(_c.seq.desc()).offset(MOST_KEPT).limit(1)
        seq = connection.execute(oldest).scalar()
        if seq is not None:
            connection.execute(delete(approvals).where(over, _c.seq <= seq))

    def _expire(self, connection: Connection, now: datetime) -> None:
        """Writes down what has expired, so that a clock that jumps back brings nothing back."""
        due = and_(LIVE, _c.expires_at <= now)
        connection.execute(update(approvals).where(due).values(state=EXPIRED))

    def _is(self, state: str) -> ColumnElement[bool]:
        due = _c.expires_at <= self._clock()
        if state == EXPIRED:
            return or_(_c.state == EXPIRED, and_(_c.state.in_(_LIVE), due))
        if state in _LIVE:
            return and_(_c.state == state, ~due)
        return _c.state == state

    def _found(
        self, connection: Connection, approval_id: str, agent_id: str | None = None
    ) -> Approval:
        statement = select(approvals).where(_c.id == approval_id)
        row = connection.execute(statement).mappings().one_or_none()
        if row is None or agent_id not in (None, row["agent_id"]):
            raise ApprovalNotFound(
                approval_id[:100], field="approval_id", remedy="list them to see those there are"
            )
        return self._approval(row)

    def _approval(self, row: Any) -> Approval:
        values = {name: row[name] for name in Approval.model_fields}
        values["env_names"] = json.loads(row["env_names"])
        if row["state"] in _LIVE and row["expires_at"] <= self._clock():
            values["state"] = EXPIRED
        return Approval.model_construct(**values)


def refusal(approval: Approval) -> VmExecutionError:
    """Why an approval does not let an execution run now; a person's no is told from an expiry."""
    if approval.state == PENDING:
        return ApprovalRequired(
            f"{approval.id}: {approval.prompt}",
            field="approval",
            remedy=f"a person answers by {_when(approval.expires_at)}: mulligan approvals "
            f"show|approve|deny {approval.id}; then run the same again with it (--approval)",
        )
    if approval.state == DENIED:
        said = f": {approval.comment}" if approval.comment else ""
        return ApprovalDenied(
            f"{approval.answered_by} said no to {approval.id}{said}",
            field="approval",
            remedy=f"the no stands until {_when(approval.expires_at)}; change what is asked for",
        )
    if approval.state == EXPIRED:
        return _expired(approval)
    if approval.state == USED:
        return ApprovalConflict(
            f"{approval.id} was used at {_when(approval.used_at)}"
            + (f" by {approval.execution_id}" if approval.execution_id else ""),
            field="approval",
            remedy="a yes is good for one execution; run it without the approval, which asks anew",
        )
    return ApprovalConflict(f"{approval.id} is {approval.state}", field="approval")


def _when(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _expired(approval: Approval) -> ApprovalExpired:
    why = (
        f"nobody answered {approval.id} before {_when(approval.expires_at)}"
        if approval.answered_by is None
        else f"{approval.answered_by} said yes to {approval.id}, but it was not used before "
        f"{_when(approval.expires_at)}"
    )
    return ApprovalExpired(
        why, field="approval", remedy="run it without the approval, which asks anew"
    )


@contextmanager
def open_approvals(
    directory: Path,
    *,
    url: str | None = None,
    durability: Literal["process", "power"] = "process",
    **options: Any,
) -> Iterator[ApprovalStore]:
    """The approvals of a history, also while a server uses it.

    Args:
        directory: the history's.
        url: of its PostgreSQL database; None: SQLite in ``directory``.
        durability: see `HistoryStore`.
        options: of `ApprovalStore`.

    Raises:
        ConfigError, HistoryError: as `HistoryStore.open` does; nothing a server runs is ended.
    """
    power = durability == "power"
    if url is None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = open_sqlite(directory / "history.db", power=power)
    else:
        database = open_url(url, power=power)
    try:
        yield ApprovalStore(lambda: database, **options)
    finally:
        database.close()
