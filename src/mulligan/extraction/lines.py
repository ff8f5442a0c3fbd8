"""A text's lines, and a short text with the same blocks that a CommonMark parser reads instead.

A parser written in Python spends microseconds on every line. Most lines of an answer cannot begin,
end or continue anything but what is open already; they are left out or cut, so that a megabyte is
read in time and no line is long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LINE_END = re.compile(r"\r\n|\n|\r")
# Block structure of CommonMark 0.31 that a line can begin, after its indentation.
_STRUCTURE = re.compile(
    r"`{3}|~{3}|>|\#{1,6}(?:[ \t]|$)|[-+*](?:[ \t]|$)|\d{1,9}[.)](?:[ \t]|$)|<|\t"
    r"|=+[ \t]*$|-+[ \t]*$|_[_ \t]*$|\*[* \t]*$"
)
_STRUCTURAL = frozenset("`~>#*+-=_<0123456789\t")
# HTML blocks that go on over blank lines end with one of these, anywhere in a line.
_RAW_HTML = re.compile(r"<(?:!|\?|script|pre|style|textarea)", re.IGNORECASE)
_HTML_ENDS = ("-->", "?>", "]]>", "</script>", "</pre>", "</style>", "</textarea>", ">")
MOST_COLUMNS = 2000


@dataclass(frozen=True)
class Lines:
    """Where the lines of a text are.

    Attributes:
        text: the text.
        starts: where each line begins; the last entry is where the text ends.
        contents: each line without its end.
    """

    text: str
    starts: list[int]
    contents: list[str]

    @classmethod
    def of(cls, text: str) -> Lines:
        """The lines of ``text``: they end with LF, CRLF or a CR alone, and nothing else."""
        if "\r" not in text:
            contents = text.split("\n")
            starts, at = [], 0
            for content in contents:
                starts.append(at)
                at += len(content) + 1
        else:
            starts = [0]
            contents = []
            for end in _LINE_END.finditer(text):
                contents.append(text[starts[-1] : end.start()])
                starts.append(end.end())
            contents.append(text[starts[-1] :])
        if not contents[-1]:  # a text ends with its last line's end, or without one
            contents.pop()
            starts.pop()
        starts.append(len(text))
        return cls(text, starts, contents)

    def end(self, line: int) -> int:
        """Where the content of a line ends."""
        return self.starts[line] + len(self.contents[line])

    def cut_off(self, after: int) -> bool:
        """Whether the line before ``after`` is the text's last and has no line end."""
        return after == len(self.contents) and after > 0 and self.end(after - 1) == len(self.text)


@dataclass
class Skeleton:
    """A text with the blocks of another, and the line there that each of its lines stands for."""

    lines: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def skeleton(lines: Lines) -> Skeleton:
    """A short text whose blocks are those of ``lines``.

    Left out are blank lines after a blank one, and lines of nothing but words that follow another
    such line and are indented no less than all of that run: if a paragraph or code is open they
    continue it, and they close no container that is still open.
    """
    made = Skeleton()
    keep_line, keep_number = made.lines.append, made.numbers.append
    raw_html = _RAW_HTML.search(lines.text) is not None
    blank, least = False, -1  # of the run of plain lines before, -1 where there is none
    for number, line in enumerate(lines.contents):
        rest = line.lstrip(" ")
        if not rest or (rest[0] == "\t" and not rest.strip(" \t")):
            if not blank:
                keep_line("")
                keep_number(number)
            blank, least = True, -1
            continue
        blank = False
        plain = rest[0] not in _STRUCTURAL or not _STRUCTURE.match(rest)
        if not plain or (raw_html and ">" in rest):
            keep_line(line if len(line) <= MOST_COLUMNS else _cut(line))
            keep_number(number)
            least = -1
            continue
        indent = len(line) - len(rest)
        if least < 0 or indent < least:
            keep_line(" " * min(indent, MOST_COLUMNS) + "x")
            keep_number(number)
            least = indent
    return made


def _cut(line: str) -> str:
    """A line's beginning, with what of its rest decides about blocks."""
    rest = line[MOST_COLUMNS:]
    small = rest.lower()
    ends = " ".join(end for end in _HTML_ENDS if end in small)
    kinds = "".join(mark for mark in "`-*_=" if mark in rest)
    same = len(set(rest) - {" ", "\t"}) <= 1  # thematic breaks, fences, underlines
    return line[:MOST_COLUMNS] + (kinds[:1] if same else f"x {ends} {kinds}")
