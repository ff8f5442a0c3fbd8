"""Sending a request again that may have been done: only where it has an idempotency key.

And only to a server that says it knows what that is: another would do it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx

KEY = "Idempotency-Key"
FEATURE = "idempotency-keys"
HEALTH_TIMEOUT_S = 5.0
ATTEMPTS = 8
FIRST_WAIT_S = 0.1
MOST_WAIT_S = 5.0


def key_header(key: str | None) -> dict[str, str]:
    """The header that says a key."""
    if key is None:
        return {}
    if key.startswith('"') or key != key.strip():  # a String of RFC 9651 then
        key = '"' + key.replace("\\", r"\\").replace('"', r"\"") + '"'
    return {KEY: key}


async def knows_keys(http: httpx.AsyncClient) -> bool:
    """Whether a server does a request with a key once.

    Raises:
        httpx.TransportError: it does not answer.
    """
    answer = await http.get("/health", timeout=HEALTH_TIMEOUT_S)
    try:
        return FEATURE in answer.json().get("features", [])
    except (ValueError, AttributeError, TypeError):
        return False


async def repeated(
    http: httpx.AsyncClient,
    send: Callable[[], Awaitable[httpx.Response]],
    lost: httpx.TransportError,
) -> httpx.Response:
    """Sends a request with a key again, whose connection was lost before its answer.

    A server that has gone away is given some 15 seconds to come back.

    Args:
        http: to the server.
        send: sends it, alike each time.
        lost: how the connection was lost.

    Raises:
        httpx.TransportError: there was no answer, or the server does not know keys.
    """
    for failures in range(ATTEMPTS):
        await asyncio.sleep(min(FIRST_WAIT_S * 2**failures, MOST_WAIT_S))
        try:
            if not await knows_keys(http):
                break
            return await send()
        except httpx.ReadTimeout:
            raise
        except httpx.TransportError as error:
            lost = error
    raise lost
