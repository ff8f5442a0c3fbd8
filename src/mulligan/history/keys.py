"""Idempotency keys: which requests were begun, and what they were answered.

::

    take ──▶ running ──finish──▶ done, with the answer
                │  └───release──▶ (no row: nothing had happened)
                └──the server died──▶ lost

The row is there before anything of its request happens, so a key whose request was begun is known
whenever the server dies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from mulligan.history.database import Database
from mulligan.history.schema import keys
from mulligan.models import utc_now

RUNNING = "running"
DONE = "done"
LOST = "lost"
_c = keys.c


@dataclass(frozen=True)
class KeyedRequest:
    """What is known of a key.

    Attributes:
        number: of its row.
        digest: of the request it came with.
        operation: what that asked for.
        state: "running", "done" or "lost".
        execution_id: the execution it was to start, where that is one.
        status: of the answer, as HTTP has it.
        body: of the answer; None where it is not kept (any more).
        new: whether nobody knew it before.
    """

    number: int
    digest: str
    operation: str
    state: str
    execution_id: str | None
    status: int | None
    body: bytes | None
    new: bool = False


class KeyStore:
    """The idempotency keys of one database. Its methods block and may be called from any thread.

    Every method raises HistoryError when the database refuses; nothing is changed then.

    Args:
        database: called for the open database each time it is needed.
        persist: whether answers, which hold outputs, may be on the disk; where they may not, they
            are kept in memory. Keys are on the disk all the same.
        keep_for: how long a key is known.
        max_keys, max_bytes: see ``IdempotencySettings``.
        clock: the present; a test's own.
    """

    def __init__(
        self,
        database: Callable[[], Database],
        *,
        persist: bool,
        keep_for: timedelta,
        max_keys: int,
        max_bytes: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._in_memory: dict[int, bytes] | None = None if persist else {}
        self._keep_for = keep_for
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._clock = clock

    def end_leftovers(self) -> list[str]:
        """Marks what a server that died had begun as lost, and returns the keys."""
        running = _c.state == RUNNING
        with self._database().write() as connection:
            found = list(connection.execute(select(_c.key).where(running)).scalars())
            connection.execute(update(keys).where(running).values(state=LOST))
        return found

    def take(
        self, agent_id: str, key: str, digest: str, operation: str, execution_id: str | None
    ) -> KeyedRequest:
        """The key's request: as it is known, or new and "running" with this digest.

        A new one is the caller's to ``finish`` or to ``release``.
        """
        now = self._clock()
        with self._database().write() as connection:
            self._expire(connection, now)
            statement = select(keys).where(_c.agent_id == agent_id, _c.key == key)
            row = connection.execute(statement).one_or_none()
            if row is not None:
                return self._request(row)
            self._make_room(connection, agent_id)
            values = {
                "agent_id": agent_id,
                "key": key,
                "digest": digest,
                "operation": operation,
                "state": RUNNING,
                "created_at": now,
                "execution_id": execution_id,
                "bytes": 0,
            }
            added = connection.execute(insert(keys).values(values)).inserted_primary_key
            assert added is not None
            return KeyedRequest(
                added[0], digest, operation, RUNNING, execution_id, None, None, new=True
            )

    def finish(
        self, number: int, status: int, body: bytes | None, digest: str | None = None
    ) -> None:
        """Keeps the answer; of an agent's answers above ``max_bytes`` the oldest go, or this.

        Args:
            number: of the request's row.
            status, body: see ``KeyedRequest``.
            digest: of the request, where all of it is known only now.
        """
        if body is not None and len(body) > self._max_bytes:
            body = None
        values: dict[str, object] = {"state": DONE, "status": status, "bytes": len(body or b"")}
        if digest is not None:
            values["digest"] = digest
        if self._in_memory is None:
            values["body"] = body
        elif body is not None:
            self._in_memory[number] = body
        with self._database().write() as connection:
            connection.execute(update(keys).where(_c.seq == number).values(values))
            if body is not None:
                self._shed(connection, number)

    def release(self, number: int) -> None:
        """Forgets a key whose request did nothing."""
        with self._database().write() as connection:
            self._remove(connection, [number])

    def _expire(self, connection: Connection, now: datetime) -> None:
        due = select(_c.seq).where(_c.created_at <= now - self._keep_for, _c.state != RUNNING)
        self._remove(connection, list(connection.execute(due).scalars()))

    def _make_room(self, connection: Connection, agent_id: str) -> None:
        """Forgets the keys of an agent that would be too many with one more."""
        own = and_(_c.agent_id == agent_id, _c.state != RUNNING)
        over = select(_c.seq).where(own).order_by(_c.seq.desc()).offset(self._max_keys - 1).limit(1)
        last = connection.execute(over).scalar()
        if last is not None:
            gone = connection.execute(select(_c.seq).where(own, _c.seq <= last)).scalars()
            self._remove(connection, list(gone))

    def _remove(self, connection: Connection, numbers: list[int]) -> None:
        step = 500  # numbers a statement takes at once, on any SQLite
        for start in range(0, len(numbers), step):
            some = numbers[start : start + step]
            connection.execute(delete(keys).where(_c.seq.in_(some)))
        for number in numbers:
            if self._in_memory is not None:
                self._in_memory.pop(number, None)

    def _shed(self, connection: Connection, newest: int) -> None:
        """Lets go of an agent's oldest answers, so that what is left is not too much."""
        agent = select(_c.agent_id).where(_c.seq == newest).scalar_subquery()
        held = and_(_c.agent_id == agent, _c.bytes > 0)
        total = connection.execute(select(func.sum(_c.bytes)).where(held)).scalar() or 0
        if total <= self._max_bytes:
            return
        oldest = select(_c.seq, _c.bytes).where(held, _c.seq != newest).order_by(_c.seq)
        for number, size in connection.execute(oldest).all():
            values = {"bytes": 0, "body": None}
            connection.execute(update(keys).where(_c.seq == number).values(values))
            if self._in_memory is not None:
                self._in_memory.pop(number, None)
            total -= size
            if total <= self._max_bytes:
                return

    def _request(self, row: Row[tuple[object, ...]]) -> KeyedRequest:
        body = row.body if self._in_memory is None else self._in_memory.get(row.seq)
        return KeyedRequest(
            number=row.seq,
            digest=row.digest,
            operation=row.operation,
            state=row.state,
            execution_id=row.execution_id,
            status=row.status,
            body=bytes(body) if body is not None else None,
        )
