"""The patterns rules are written in: globs, made into expressions whose work is bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable
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


def compiled(globs: Iterable[str], *, of_paths: bool = False) -> re.Pattern[str]:
    """One expression for some globs, each possibly several with ``|`` between.

    ``*`` and ``?`` do not cross a ``/`` in paths, ``**`` does; ``[*]`` is the character itself.

    Raises:
        ValueError: a glob is empty or has more than ``MOST_STARS`` stars.
    """
    alternatives = []
    for glob in (one for globs_of_one in globs for one in globs_of_one.split("|")):
        pieces = _PIECE.findall(glob)
        if not glob:
            raise ValueError("a pattern is empty")
        if sum(piece in ("*", "**") for piece in pieces) > MOST_STARS:
            raise ValueError(f"{glob!r} has more than {MOST_STARS} stars")
        any_of = "[^/]" if of_paths else "."
        alternatives.append("".join(_piece(piece, any_of) for piece in pieces))
    return re.compile(f"(?:{'|'.join(alternatives)})", re.DOTALL)


def plain(glob: str) -> bool:
    """Whether a pattern is a text without alternatives or wildcards."""
    return not any(character in glob for character in "*?[|")
