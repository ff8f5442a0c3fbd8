"""The patterns rules are written in: globs, made into expressions whose work is bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Final

MOST_STARS: Final = 4
LONGEST: Final = 400
"""Characters of a text that a pattern is held against."""

_PIECE = re.compile(r"\*\*|\*|\?|\[[^\]]+\]|[^*?\[]+|\[")


def _piece(piece: str, any_of: str) -> str:
    if piece == "**":
        return ".*"
    if piece == "*":
        return f"{any_of}*"
    if piece == "?":
        return any_of
    if piece.startswith("[") and len(piece) > 1:
        return f"[{re.escape(piece[1:-1])}]".replace(r"\-", "-")
    return re.escape(piece)


class Globs:
    """Some globs as one expression, compiled when it is first held against a text.

    Of hundreds of rules a program meets few.
    """

    def __init__(self, source: str) -> None:
        self._source = source

    @cached_property
    def fullmatch(self) -> Callable[[str], re.Match[str] | None]:
        """Whether all of a text is one of them. See ``re.Pattern``."""
        return self._expression.fullmatch

    @cached_property
    def sub(self) -> Callable[..., str]:
        """Puts something else in the place of each. See ``re.Pattern``."""
        return self._expression.sub

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return re.compile(self._source, re.DOTALL)


def compiled(globs: Iterable[str], *, of_paths: bool = False) -> Globs:
    """One expression for some globs, each possibly several with ``|`` between.

    ``*`` and ``?`` do not cross a ``/`` in paths, ``**`` does; ``[*]`` is the character itself.

    Raises:
        ValueError: a glob is empty, has more than ``MOST_STARS`` stars, or characters in brackets
            that are no range.
    """
    alternatives = []
    ranges = False
    for glob in (one for globs_of_one in globs for one in globs_of_one.split("|")):
        pieces = _PIECE.findall(glob)
        if not glob:
            raise ValueError("a pattern is empty")
        if sum(piece in ("*", "**") for piece in pieces) > MOST_STARS:
            raise ValueError(f"{glob!r} has more than {MOST_STARS} stars")
        ranges |= any(piece.startswith("[") and len(piece) > 1 for piece in pieces)
        any_of = "[^/]" if of_paths else "."
        alternatives.append("".join(_piece(piece, any_of) for piece in pieces))
    made = Globs(f"(?:{'|'.join(alternatives)})")
    if ranges:
        try:
            made.fullmatch("")
        except re.error as error:
            raise ValueError(f"{error.msg} in brackets") from None
    return made


def plain(glob: str) -> bool:
    """Whether a pattern is a text without alternatives or wildcards."""
    return not any(character in glob for character in "*?[|")
