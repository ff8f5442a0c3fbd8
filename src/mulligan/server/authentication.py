"""Tokens at the door: who sent a request, found out before anything else looks at it."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from starlette.types import ASGIApp, Receive, Scope, Send

from mulligan.errors import Unauthorized, VmExecutionError
from mulligan.history.tokens import Token, TokenStore, digest_of
from mulligan.log import get_logger
from mulligan.models import utc_now
from mulligan.server.access import SCOPE_KEY, Caller
from mulligan.server.answers import refuse

log = get_logger()

FRESH_S = 0.5  # so long what was read of the tokens counts
NOTED_S = 60.0  # so exact the time a token was last used is
MOST_TOKEN = 200  # characters
OPEN_PATHS = frozenset({"/health"})


@dataclass(frozen=True)
class _Known:
    """The tokens as they were read at a time."""

    at: float
    by_digest: dict[str, Token] = field(default_factory=dict)


class Tokens:
    """A server's view of the tokens, which others make and revoke while it runs.

    It is read anew for a request that comes ``FRESH_S`` after it was read, so both are seen within
    that time. Where they cannot be read, nobody gets in.

    Args:
        store: where they are.
        required: whether a token is asked for even where there is none.
        clock: seconds that only grow; a test's own.
        now: the present; a test's own.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        required: bool,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._required = required
        self._clock = clock
        self._now = now
        self._known = _Known(at=-FRESH_S)
        self._reading = asyncio.Lock()
        self._used: dict[str, datetime] = {}
        self._noted: dict[str, float] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """Who shows this header.

        Raises:
            Unauthorized: it is missing or no good; of a token that is not, no one is told why.
            HistoryError: the tokens cannot be read.
        """
        known = await self._fresh()
        if not (self._required or known.by_digest):
            return Caller()
        if authorization is None:
            raise Unauthorized(
                "a token is needed",
                field="Authorization",
                remedy="send Authorization: Bearer <token>, or set MULLIGAN_TOKEN; "
                "an administrator makes one with: mulligan token create",
            )
        token = _found(known, authorization)
        if token is None or token.state(self._now()) != "good":
            raise Unauthorized(
                "this token is not good here",
                field="Authorization",
                remedy="have an administrator make one with: mulligan token create",
            )
        self._used[token.id] = self._now()
        return Caller(token.agent_id, token.id)

    async def _fresh(self) -> _Known:
        if self._clock() - self._known.at < FRESH_S:
            return self._known
        async with self._reading:
            if self._clock() - self._known.at >= FRESH_S:  # nobody else has read it meanwhile
                at = self._clock()
                found = await asyncio.to_thread(self._store.list)
                self._known = _Known(at, {token.digest: token for token in found})
                await self._note(at)
            return self._known

    async def _note(self, at: float) -> None:
        """Writes down who was there, of each token once in ``NOTED_S``."""
        due = [each for each in self._used if at - self._noted.get(each, -NOTED_S) >= NOTED_S]
        if due:
            await self._write({each: self._used.pop(each) for each in due})
            self._noted.update(dict.fromkeys(due, at))

    async def _write(self, times: dict[str, datetime]) -> None:
        try:
            await asyncio.to_thread(self._store.used, times)
        except VmExecutionError as error:  # it is a note; who is let in does not hang on it
            log.warning("token_use_not_noted", error=str(error))

    async def close(self) -> None:
        """Writes down what was not yet."""
        if self._used:
            times, self._used = self._used, {}
            await self._write(times)


def _found(known: _Known, authorization: str) -> Token | None:
    """The token in a header.

    It is looked up by its digest, of which a stranger cannot choose a part, and compared in a time
    that does not depend on it.
    """
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not 0 < len(secret) <= MOST_TOKEN:
        return None
    digest = digest_of(secret)
    token = known.by_digest.get(digest)
    if token is None or not hmac.compare_digest(token.digest, digest):
        return None
    return token


class Authentication:
    """Lets nobody in but those ``Tokens`` knows, and notes in the scope who it is.

    Args:
        app: the application behind it; ``state.tokens`` of the whole one is a ``Tokens``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        tokens: Tokens = scope["app"].state.tokens
        header = next((v for k, v in scope["headers"] if k == b"authorization"), None)
        try:
            caller = await tokens.caller(None if header is None else header.decode("latin-1"))
        except VmExecutionError as error:
            await refuse(error, scope, receive, send)
            return
        scope[SCOPE_KEY] = caller
        await self._app(scope, receive, send)
