"""How many requests an agent may send."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from mulligan.errors import TooManyRequests
from mulligan.server.access import SCOPE_KEY, Caller
from mulligan.server.answers import refuse
from mulligan.settings import LimitSettings


class TokenBucket:
    """Lets so many through at once, and so many a second after that.

    Args:
        rate: how many a second; above 0.
        burst: how many at once.
        clock: seconds that only grow; a test's own.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._level = float(burst)
        self._at = clock()

    def take(self) -> float:
        """Takes one; 0.0 if there was one, else the seconds until there is."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self._rate


class RateLimit:
    """Refuses what comes too fast: of an agent by all its tokens together.

    Args:
        app: the application behind it.
        limits: how fast that is.
    """

    def __init__(self, app: ASGIApp, limits: LimitSettings) -> None:
        self._app = app
        self._limits = limits
        self._buckets: dict[str | None, TokenBucket] = {}  # as many as have had a token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        caller: Caller | None = scope.get(SCOPE_KEY)
        wait = self._take(caller) if caller is not None else 0.0
        if wait:
            error = TooManyRequests(
                "too many requests a second",
                remedy="send them more slowly, or raise limits.requests_per_second",
                retry_after_s=math.ceil(wait),
            )
            await refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _take(self, caller: Caller) -> float:
        limits = self._limits
        rate = limits.requests_per_second
        if caller.agent_id is None:
            rate = limits.admin_requests_per_second if caller.token_id else 0.0
        if not rate:
            return 0.0
        bucket = self._buckets.get(caller.agent_id)
        if bucket is None:
            bucket = self._buckets[caller.agent_id] = TokenBucket(rate, limits.request_burst)
        return bucket.take()
