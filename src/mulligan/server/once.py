"""The header ``Idempotency-Key``: a request that is sent again is not done again."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from mulligan.engine.engine import Engine
from mulligan.engine.requests.once import MOST_KEY_LENGTH, OK, Asked, Attempt, Content
from mulligan.errors import ValidationFailed
from mulligan.server.access import Caller, CallerDependency
from mulligan.server.answers import told
from mulligan.server.engines import EngineDependency

NAME = "Idempotency-Key"
REPLAYED = {"Idempotent-Replayed": "true"}
JSON = "application/json"
# A text, or a String of RFC 9651 (Structured Field Values), which stands for the text in it.
_TEXT = rf"[!#-~]([ -~]{{0,{MOST_KEY_LENGTH - 2}}}[!-~])?"
_STRING = rf'"([ !#-\[\]-~]|\\["\\]){{1,{MOST_KEY_LENGTH}}}"'
_PATTERN = rf"^({_TEXT}|{_STRING})$"
DESCRIPTION = (
    "The request is done once, however often it is sent with the same key; each time it gets the "
    "first answer. 1 to 255 printable characters of ASCII, such as a UUID; new with each request."
)


Model = TypeVar("Model", bound=BaseModel)
Ids = dict[str, str | list[str] | None]


@dataclass(frozen=True)
class Key:
    """The key of a request, if it has one; who sent it, and the engine."""

    engine: Engine
    caller: Caller
    text: str | None

    async def answer(
        self,
        agent_id: str | None,
        operation: str,
        subject: dict[str, Any],
        work: Callable[[Attempt], Coroutine[Any, Any, Model | None]],
        *,
        note: Callable[[Model], Ids] | None = None,
        status: int = OK,
        content: Content | None = None,
    ) -> Response:
        """Does something, once if there is a key; see ``Once.do``.

        Args:
            agent_id, operation, subject, content: see ``Asked``.
            work, status: see ``Once.do``.
            note: the ids in a result the audit log is to have.
        """
        agent_id = self.caller.agent(agent_id)

        async def noted(attempt: Attempt) -> Model | None:
            done = await work(attempt)
            if note is not None and done is not None:
                self.caller.note(**note(done))
            return done

        if self.text is None:
            done = await noted(Attempt())
            return _response(None if done is None else done.model_dump_json(), status)
        asked = self.asked(agent_id, operation, subject, content)
        found = await self.engine.once.do(asked, noted, status, told)
        self.caller.note(execution_id=found.execution_id)
        return _response(found.body, found.status, REPLAYED if found.replayed else None)

    def asked(
        self,
        agent_id: str | None,
        operation: str,
        subject: dict[str, Any],
        content: Content | None = None,
    ) -> Asked:
        """The request, where there is a key."""
        assert self.text is not None
        return Asked(self.text, agent_id or "", operation, subject, content)


def _response(
    body: str | bytes | None, status: int, headers: dict[str, str] | None = None
) -> Response:
    return Response(body, status, headers, media_type=JSON if body is not None else None)


async def _key(
    http: Request,
    engine: EngineDependency,
    caller: CallerDependency,
    text: Annotated[
        str | None,
        Header(
            alias=NAME,
            pattern=_PATTERN,
            description=DESCRIPTION,
        ),
    ] = None,
) -> Key:
    if len(http.headers.getlist(NAME)) > 1:
        raise ValidationFailed("there is more than one Idempotency-Key", field=NAME)
    if text is not None and text.startswith('"'):
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    return Key(engine, caller, text)


KeyDependency = Annotated[Key, Depends(_key)]
