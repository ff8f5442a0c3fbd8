"""Fenced code blocks of a CommonMark text (CommonMark 0.31, section 4.5), by markdown-it-py."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markdown_it import MarkdownIt

from mulligan.languages import canonical

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class FencedBlock:
    """A fenced code block.

    Attributes:
        language: canonical name from the first word of the info string, "" where there is none.
        code: the text between the fences.
        start_pos, end_pos: characters of the original text, from the line of the opening fence to
            the end of the closing one.
    """

    language: str
    code: str
    start_pos: int
    end_pos: int


def fenced_blocks(text: str) -> list[FencedBlock]:
    """The fenced code blocks of a text, in its order."""
    starts = _line_starts(text)
    blocks = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type != "fence" or token.map is None:
            continue
        first, after = token.map
        words = token.info.split(maxsplit=1)
        blocks.append(
            FencedBlock(
                language=canonical(words[0]) if words else "",
                code=token.content,
                start_pos=starts[first],
                end_pos=_without_line_end(text, starts[after]),
            )
        )
    return blocks


def _line_starts(text: str) -> list[int]:
    """Where each line begins, and where the text ends; lines as CommonMark counts them."""
    return [0, *(end.end() for end in _LINE_END.finditer(text)), len(text)]


def _without_line_end(text: str, end: int) -> int:
    """``end``, or where the line end before it begins."""
    if text.endswith("\r\n", 0, end):
        return end - 2
    return end - 1 if text[end - 1 : end] in ("\n", "\r") else end
