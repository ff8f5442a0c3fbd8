"""Fences inside a string of the code they seem to close.

CommonMark closes a block at the first fence, also where a model wrote a README into a string:

    ```python
    README = \"\"\"
    ```bash
    make
    ```
    \"\"\"
    ```

The rule: if a multi-line string or here-document of the code is still open at the closing fence,
the block goes on to the first later fence at which none is and at which the code parses. In a
Markdown block, fences that open with an info string have closing ones of their own. If there is
no such later fence, the first one closes the block, as CommonMark says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from mulligan.extraction.grammars import parse

Place = TypeVar("Place")
_MARKDOWN = frozenset(("markdown", "md", "mdx"))
_MOST_TRIES = 20  # of a text
_MOST_FENCES = 12  # of a block
MOST_CODE = 50_000
_SECONDS = 0.05

_PYTHON = re.compile(
    r"#[^\n]*|\"\"\"(?:[^\\]|\\.)*?(?:\"\"\"|\\?(?P<double>\Z))"
    r"|'{3}(?:[^\\]|\\.)*?(?:'{3}|\\?(?P<single>\Z))"
    r"|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?",
    re.DOTALL,
)
_RUST = re.compile(
    r"//[^\n]*|r(?P<hashes>#{0,9})\"|\"(?:[^\"\\]|\\.)*(?P<end>\"?)|'(?:[^'\\\n]|\\.)'", re.DOTALL
)
_HERE = re.compile(r"(?<!<)<<(?!<)(-?)[ \t]*(?:'(\w+)'|\"(\w+)\"|\\?(\w+))")
_INNER_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)")


class Extensions:
    """Later ends of blocks, looked for within the limits of one text."""

    def __init__(self) -> None:
        self._tries = _MOST_TRIES

    def find(
        self, language: str, code: str, closing: Iterable[tuple[Place, str]]
    ) -> tuple[Place, str] | None:
        """What closes a block and its code then; none where the first fence did.

        Args:
            language: canonical name.
            code: up to the first closing fence.
            closing: (place, code up to it) of the closing fences after it.
        """
        is_open = _IS_OPEN.get(language)
        if is_open is None or self._tries < 0 or len(code) > MOST_CODE or not is_open(code):
            return None
        self._tries -= 1
        for number, (place, longer) in enumerate(closing):
            self._tries -= 1
            if number >= _MOST_FENCES or self._tries < 0 or len(longer) > MOST_CODE:
                return None
            if is_open(longer):
                continue
            if language in _MARKDOWN or _parses(longer, language):
                return place, longer
        return None


def _parses(code: str, language: str) -> bool:
    tree = parse(code, language, _SECONDS)
    return tree is not None and not tree.root_node.has_error


def _python_open(code: str) -> bool:
    """Whether a triple-quoted string is open at the end."""
    return any(found.lastgroup is not None for found in _PYTHON.finditer(code))


def _rust_open(code: str) -> bool:
    """Whether a string or raw string is open at the end."""
    at = 0
    while found := _RUST.search(code, at):
        at = found.end()
        if found["hashes"] is not None:
            end = code.find('"' + found["hashes"], at)
            if end < 0:
                return True
            at = end + 1
        elif found["end"] == "":
            return True
    return False


def _bash_open(code: str) -> bool:
    """Whether a here-document is open at the end."""
    waiting: list[tuple[bool, str]] = []
    for line in code.split("\n"):
        if waiting:
            tabs, word = waiting[0]
            if (line.lstrip("\t") if tabs else line) == word:
                waiting.pop(0)
            continue
        if "<<" in line and not line.lstrip().startswith("#"):
            waiting = [
                (bool(found[1]), found[2] or found[3] or found[4]) for found in _HERE.finditer(line)
            ]
    return bool(waiting)


def _markdown_open(code: str) -> bool:
    """Whether a fence with an info string is open at the end.

    The fence that closes it is the one that seemed to close the block, so it is not in ``code``.
    """
    opened = ""
    for line in code.split("\n"):
        found = _INNER_FENCE.match(line)
        if found is None:
            continue
        marker, info = found[1], found[2].strip()
        if opened:
            if marker.startswith(opened) and not info:
                opened = ""
        elif info:
            opened = marker
    return bool(opened)


_IS_OPEN = {
    "python": _python_open,
    "bash": _bash_open,
    "rust": _rust_open,
    **dict.fromkeys(_MARKDOWN, _markdown_open),
}
