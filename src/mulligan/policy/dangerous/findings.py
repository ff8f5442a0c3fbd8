"""What is found in a text, and where."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import Final, Literal

from mulligan.policy.dangerous.values import HOME, UNKNOWN

Decision = Literal["block", "ask"]

EXCERPT: Final = 160
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


@dataclass(frozen=True)
class Finding:
    """A rule that a piece of code meets.

    Attributes:
        rule: id of the rule.
        decision: what the rule asks for, "block" or "ask".
        reason: why, in one line.
        line, column: where in the judged text, from 1, in characters. Code found inside code (a
            command in a Python string) is at the place of what would run it.
        excerpt: what was met, one line of at most ``EXCERPT`` characters.
    """

    rule: str
    decision: Decision
    reason: str
    line: int
    column: int
    excerpt: str


class Source:
    """A text under judgement; offsets are bytes of its UTF-8 form.

    ``anchor`` is the place in an outer text that would run this one.
    """

    __slots__ = ("_starts", "anchor", "data")

    def __init__(self, data: bytes, anchor: Place | None = None) -> None:
        self.data = data
        self.anchor = anchor
        self._starts: list[int] | None = None

    def line_column(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, from 1, in characters."""
        if self._starts is None:
            self._starts = [0, *(match.end() for match in re.finditer(b"\n", self.data))]
        line = bisect.bisect_right(self._starts, offset)
        before = self.data[self._starts[line - 1] : offset]
        return line, len(before.decode(errors="replace")) + 1


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a source, in bytes."""

    source: Source
    start: int
    end: int

    def line_column(self) -> tuple[int, int]:
        """Line and column in the outermost text."""
        place = self
        while place.source.anchor is not None:
            place = place.source.anchor
        return place.source.line_column(place.start)

    def excerpt(self) -> str:
        """The stretch as one bounded line."""
        return excerpt(
            self.source.data[self.start : self.end][: EXCERPT * 4].decode(errors="ignore")
        )


def excerpt(text: str) -> str:
    """A text as one line of at most ``EXCERPT`` characters."""
    shown = text[: EXCERPT * 2].replace(UNKNOWN, "?").replace(HOME, "~")
    shown = _UNPRINTABLE.sub(" ", shown).strip()
    return shown if len(shown) <= EXCERPT else shown[: EXCERPT - 1] + "…"
