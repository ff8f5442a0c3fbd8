"""Bounds on the work one judgement may take; what does not fit in is not allowed."""

from __future__ import annotations

import time
from typing import Final

LONGEST_CODE: Final = 262_144
"""Bytes of a text that are judged."""
SECONDS: Final = 0.6
"""Of this thread's processor; what else runs on the machine decides nothing."""
SECONDS_AT_MOST: Final = 1.4
"""By the clock."""
STEPS: Final = 400_000
DEPTH: Final = 150
NESTED_BYTES: Final = 1_048_576
"""Bytes of all texts found inside a text together."""
_CLOCK_EVERY: Final = 256


class TooHardError(Exception):
    """The text takes more work than a judgement may; the message says which bound it met."""


class Budget:
    """Steps, depth and seconds left."""

    __slots__ = ("_deadline", "_last", "_next_look", "depth", "nested", "steps")

    def __init__(self) -> None:
        self._deadline = time.thread_time() + SECONDS
        self._last = time.monotonic() + SECONDS_AT_MOST
        self._next_look = _CLOCK_EVERY
        self.steps = 0
        self.depth = 0
        self.nested = 0

    def step(self, count: int = 1) -> None:
        """Counts work done.

        Raises:
            TooHardError: too many steps, or out of time.
        """
        self.steps += count
        if self.steps >= self._next_look:
            self._next_look = self.steps + _CLOCK_EVERY
            if self.steps > STEPS:
                raise TooHardError("is too large to judge")
            if self.late():
                raise TooHardError("takes too long to judge")

    def late(self) -> bool:
        """Whether the time is up."""
        return time.thread_time() > self._deadline or time.monotonic() > self._last

    def enter(self) -> None:
        """One level further in; whoever enters leaves, whatever happens.

        Raises:
            TooHardError: nested too deep.
        """
        self.depth += 1
        self.step()
        if self.depth > DEPTH:
            raise TooHardError("is nested too deep to judge")

    def leave(self) -> None:
        """One level back out."""
        self.depth -= 1

    def nest(self, size: int) -> None:
        """Counts a text found inside the text.

        Raises:
            TooHardError: more than ``NESTED_BYTES`` together.
        """
        self.nested += size
        if self.nested > NESTED_BYTES:
            raise TooHardError("is too much code inside code to judge")
