"""What is known of one VM's life: whether it is up, since when, and when it was last used."""

from __future__ import annotations

import asyncio
import time


class Life:
    """Of one VM.

    Attributes:
        spare: it belongs to nobody yet.
        hibernated: it was put to rest; the next request wakes it.
        executions: that were started since it booted.
        booted_at: when it last did, by the monotonic clock.
        wear: executions, and hours it is up, after which its processes are renewed; 0: never.
    """

    def __init__(self, *, spare: bool = False) -> None:
        self.spare = spare
        self.hibernated = False
        self.executions = 0
        self.booted_at = 0.0
        self.wear = (0, 0.0)
        self.used_at = time.monotonic()
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def booting(self) -> bool:
        """Whether it boots, or is about to."""
        return not self._settled.is_set()

    def boots(self) -> None:
        """It boots, or will at once."""
        self._settled.clear()

    def settles(self) -> None:
        """It is up, or did not get there."""
        self._settled.set()

    def up(self) -> None:
        """It has booted."""
        self.hibernated = False
        self.executions = 0
        self.booted_at = time.monotonic()
        self.use()

    def use(self) -> None:
        """Somebody wants something of it, or has just got it."""
        self.used_at = time.monotonic()

    async def settle(self, timeout: float) -> bool:
        """Waits, for so many seconds, until it does not boot; whether it came to that."""
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True
