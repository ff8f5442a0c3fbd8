"""Requests with an idempotency key: each is done once, and answered alike whenever it is sent.

What is done with a key, in the words of the IETF's draft on the Idempotency-Key header field
(draft-ietf-httpapi-idempotency-key-header-07) and as other services have it:

- the first request is done; its answer is kept, also where that is an error;
- the same again is answered with what is kept; while the first is under way, it waits for that;
- another request with the key is refused (``IdempotencyKeyReused``);
- where the server died in between, or the answer is not kept any more, the history is asked how the
  execution ended; where it does not know, the key is lost (``IdempotencyKeyLost``). Nothing runs.

A request that was refused before it did anything does not use up its key.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from mulligan.engine.executions.execution import Watcher, status_of
from mulligan.engine.requests.sessions import output_of
from mulligan.errors import (
    ApprovalConflict,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalRequired,
    ExecutionFailed,
    HistoryError,
    IdempotencyKeyLost,
    IdempotencyKeyReused,
    InternalError,
    TooManyRequests,
    Unavailable,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.history import HistoryStore
from mulligan.history.keys import DONE, KeyedRequest, KeyStore
from mulligan.log import get_logger
from mulligan.models import CommandHistoryEntry, ErrorAnswer
from mulligan.settings import IdempotencySettings

log = get_logger()

MOST_KEY_LENGTH = 255
OK = 200
NO_CONTENT = 204
SERVER_FAULT = 500
EXECUTE = "execute"
STREAM = "stream"
COMMAND = "command"  # of a session
_ONE_EXECUTION = (EXECUTE, STREAM, COMMAND)
_NOTHING_RAN = (
    ApprovalRequired,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalConflict,
    TooManyRequests,
    Unavailable,
)
Result = TypeVar("Result")
Model = TypeVar("Model", bound=BaseModel)


class Owner(Protocol):
    """Does something to its end, even if whoever asked for it is cancelled meanwhile."""

    async def __call__(self, work: Coroutine[Any, Any, Result]) -> Result: ...


class Content(Protocol):
    """What a request brings besides its fields, and is not in memory as a whole: a file."""

    async def digest(self) -> str:
        """SHA-256, in hex, over all of it; what nobody has read yet is read for that."""


@dataclass(frozen=True)
class Asked:
    """A request that came with a key.

    Attributes:
        key: up to 255 printable characters of ASCII.
        agent_id: who asks; "" where nobody says. Keys of different agents are different ones.
        operation: what is asked for.
        subject: all that decides what is done: models, and what goes into JSON.
        content: what is compared besides, once there is an answer. Nothing has been done where
            there is none: such work is done whole or not at all.
    """

    key: str
    agent_id: str
    operation: str
    subject: dict[str, Any]
    content: Content | None = None

    def digest(self) -> str:
        """SHA-256, in hex, over the request as canonical JSON.

        Raises:
            ValidationFailed: the key is none, or the request is nested too deeply.
        """
        if not (0 < len(self.key) <= MOST_KEY_LENGTH and self.key.isascii()) or not (
            self.key.isprintable()
        ):
            raise ValidationFailed(
                f"Idempotency-Key must be 1 to {MOST_KEY_LENGTH} printable characters of ASCII",
                field="Idempotency-Key",
                remedy="send a UUID",
            )
        whole = {"operation": self.operation, "subject": self.subject}
        try:
            canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"), default=_plain)
        except (RecursionError, ValueError):
            raise ValidationFailed("the request is nested too deeply", field="body") from None
        return hashlib.sha256(b"mulligan request 1\n" + canonical.encode()).hexdigest()

    async def whole_digest(self, digest: str) -> str:
        """The same with the content."""
        if self.content is None:
            return digest
        both = f"{digest} {await self.content.digest()}"
        return hashlib.sha256(both.encode()).hexdigest()


def _plain(value: object) -> object:
    return value.model_dump() if isinstance(value, BaseModel) else str(value)


@dataclass(frozen=True)
class Answer:
    """What a request is answered.

    Attributes:
        status: as HTTP has it.
        body: JSON; None for an execution that is listened to, and where there is nothing to say.
        execution_id: the execution it started, where it is one alone.
        replayed: whether it is what an earlier request was answered.
    """

    status: int
    body: bytes | None
    execution_id: str | None
    replayed: bool

    def check(self) -> None:
        """Raises the error it is, if it is one."""
        if self.status >= 400:  # noqa: PLR2004  (errors begin there)
            raise ErrorAnswer.model_validate_json(self.body or b"").exception()

    def read(self, model: type[Model]) -> Model:
        """The answer again, or the error it is, raised."""
        self.check()
        return model.model_validate_json(self.body or b"")


class Attempt(Watcher):
    """The one time a request is done.

    Attributes:
        begun: whether an execution was let run, as far as anybody can tell.
        task: what does it.
        unwanted: whether whoever asked has gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun = False
        self.task: asyncio.Task[Any] | None = None
        self.unwanted = False

    def started(self, queue_ms: int) -> None:  # noqa: ARG002  (see the base class)
        """See the base class."""
        self.begun = True

    def cancel(self) -> None:
        """Whoever asked has gone, and nobody else may ever ask again."""
        self.unwanted = True
        if self.task is not None:
            self.task.cancel()


Work = Callable[[Attempt], Coroutine[Any, Any, BaseModel | None]]
Tell = Callable[[VmExecutionError], ErrorAnswer]


@dataclass
class _Running:
    """A request under way here."""

    digest: str
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Once:
    """Does requests with a key once.

    Args:
        history: where keys are kept, and executions known.
        settings: how long, and how many.
        owned: see the class.
    """

    def __init__(self, history: HistoryStore, settings: IdempotencySettings, owned: Owner) -> None:
        self._keys: KeyStore = history.keys(settings)
        self._recorded: Callable[[str], CommandHistoryEntry | None] = history.get
        self._owned = owned
        self._running: dict[tuple[str, str], _Running] = {}

    async def open(self) -> None:
        """Marks what a server that died had begun."""
        lost = await asyncio.to_thread(self._keys.end_leftovers)
        if lost:
            log.warning("idempotency_keys_lost", count=len(lost))

    async def do(
        self, asked: Asked, work: Work, status: int = OK, tell: Tell = ErrorAnswer.of
    ) -> Answer:
        """Does a request, or answers what it was answered.

        Cancelling this cancels the work; its key is used up if it had begun.

        Args:
            asked: the request.
            work: does it; its result is the body of the answer. Executions it starts by themselves
                have the attempt's id and tell the attempt how far they are.
            status: of the answer, where there is no error.
            tell: makes an error's answer.

        Raises:
            IdempotencyKeyReused, IdempotencyKeyLost: see the module.
            VmExecutionError: it was refused, and nothing had been done.
        """
        digest = asked.digest()
        place = (asked.agent_id, asked.key)
        while (other := self._running.get(place)) is not None:
            if other.digest != digest:
                raise _reused(asked.key)
            await other.over.wait()
        self._running[place] = _Running(digest)
        attempt = Attempt()
        try:
            return await self._owned(self._do(asked, digest, attempt, work, status, tell))
        except asyncio.CancelledError:
            attempt.cancel()
            raise

    async def _do(
        self, asked: Asked, digest: str, attempt: Attempt, work: Work, status: int, tell: Tell
    ) -> Answer:
        place = (asked.agent_id, asked.key)
        try:
            single = attempt.execution_id if asked.operation in _ONE_EXECUTION else None
            taken = await asyncio.to_thread(
                self._keys.take, asked.agent_id, asked.key, digest, asked.operation, single
            )
            if not taken.new:
                answered = taken.state == DONE
                if taken.digest != (await asked.whole_digest(digest) if answered else digest):
                    raise _reused(asked.key)
                return await self._again(asked.key, taken)
            return await self._first(asked, taken, attempt, work, status, tell)
        finally:
            self._running.pop(place).over.set()

    async def _first(
        self,
        asked: Asked,
        taken: KeyedRequest,
        attempt: Attempt,
        work: Work,
        status: int,
        tell: Tell,
    ) -> Answer:
        if attempt.unwanted:
            await self._release(taken)
            raise ExecutionFailed("it was cancelled before it started")
        attempt.task = asyncio.create_task(work(attempt))
        await asyncio.wait({attempt.task})
        fault: BaseException | None = None
        if attempt.task.cancelled():
            fault = asyncio.CancelledError()
            error: VmExecutionError = ExecutionFailed("it was cancelled before it had an answer")
            kept = attempt.begun or taken.operation not in _ONE_EXECUTION
        elif (raised := attempt.task.exception()) is None:
            model = attempt.task.result()
            body = model.model_dump_json().encode() if model is not None else None
            await self._finish(taken, status, body, await asked.whole_digest(taken.digest))
            return Answer(status, body, taken.execution_id, replayed=False)
        elif isinstance(raised, VmExecutionError):
            error, kept = raised, _counts(taken, attempt, raised)
        else:
            fault, kept = raised, True
            error = InternalError("the server failed; its log has the details")
        body = tell(error).model_dump_json().encode()
        if asked.content is not None:
            await self._release(taken)
            raise fault or error
        if kept:
            await self._finish(taken, error.http_status, body, taken.digest)
        else:
            await self._release(taken)
            raise error
        if fault is not None:
            raise fault
        return Answer(error.http_status, body, taken.execution_id, replayed=False)

    async def _finish(
        self, taken: KeyedRequest, status: int, body: bytes | None, digest: str
    ) -> None:
        """Keeps an answer. Where that fails it goes out all the same, and the key is lost."""
        try:
            await asyncio.to_thread(self._keys.finish, taken.number, status, body, digest)
        except HistoryError as error:
            log.error("answer_not_kept", error=str(error))  # noqa: TRY400  (where from is no news)

    async def _release(self, taken: KeyedRequest) -> None:
        try:
            await asyncio.to_thread(self._keys.release, taken.number)
        except HistoryError as error:
            log.error("key_not_released", error=str(error))  # noqa: TRY400

    async def _again(self, key: str, taken: KeyedRequest) -> Answer:
        """What a key's request was answered.

        Raises:
            IdempotencyKeyLost: nobody knows.
        """
        if taken.state == DONE and taken.status is not None:
            if taken.body is not None or taken.status == NO_CONTENT:
                return Answer(taken.status, taken.body, taken.execution_id, replayed=True)
            if taken.operation == STREAM:
                return Answer(taken.status, None, taken.execution_id, replayed=True)
        outcome = None
        if taken.execution_id is not None:
            entry = await asyncio.to_thread(self._recorded, taken.execution_id)
            outcome = entry.outcome if entry is not None else None
            if entry is not None and outcome not in ("running", "lost"):
                return _recalled(taken, entry)
        raise _lost(key, taken, outcome)


def _counts(taken: KeyedRequest, attempt: Attempt, error: VmExecutionError) -> bool:
    """Whether something may have been done before an error: then the key is used up."""
    if taken.operation in _ONE_EXECUTION:
        return attempt.begun and not isinstance(error, _NOTHING_RAN)
    return error.http_status >= SERVER_FAULT


def _recalled(taken: KeyedRequest, entry: CommandHistoryEntry) -> Answer:
    """The answer as the history has it: without values of cells, which are not in it."""
    if taken.operation == STREAM:
        return Answer(OK, None, entry.id, replayed=True)
    status = status_of(entry)
    if status.error is not None:
        return Answer(SERVER_FAULT, status.error.model_dump_json().encode(), entry.id, True)
    assert status.result is not None
    result: BaseModel = status.result
    if taken.operation == COMMAND:
        result = output_of(status.result)
    return Answer(OK, result.model_dump_json().encode(), entry.id, replayed=True)


def _reused(key: str) -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        f"{key} came with another request before",
        field="Idempotency-Key",
        remedy="send a new key with each request, and the same one when you send it again",
    )


def _lost(key: str, taken: KeyedRequest, outcome: str | None) -> IdempotencyKeyLost:
    what = f"the {taken.operation} request of {key} was begun"
    if taken.state == DONE:
        what = f"{key} was answered with {taken.status}, and that answer is not kept any more"
    elif taken.execution_id is not None:
        known = f"the history has it as {outcome}" if outcome else "the history does not know it"
        what += f" as {taken.execution_id}, and the server ended under it; {known}"
    else:
        what += ", and the server ended under it"
    return IdempotencyKeyLost(
        f"{what}. Nothing was run now",
        field="Idempotency-Key",
        remedy="see in the history and the list of VMs what it did; to do it again, use a new key",
    )
