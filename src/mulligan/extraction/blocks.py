"""Fenced code blocks of a text: CommonMark 0.31, section 4.5.

Outside lists, quotes and HTML a fence is where its line says it is, and is read here; the parts
with containers go to a CommonMark parser (``containers.py``). A part ends before a line that closes
every container it could be in: one that begins in the first column, after a blank line or with a
fence or raw HTML.

Two rules are our own (docs/extraction.md): a fence ends an HTML block that only a blank line would
end, and a fence inside a string of the code does not close it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from markdown_it.rules_block.html_block import HTML_SEQUENCES

from mulligan.extraction.containers import Containers, Found, TooMuchError, outdented
from mulligan.extraction.labels import Label, read_label
from mulligan.extraction.lines import Lines
from mulligan.extraction.nesting import MOST_CODE, Extensions

_FENCE = r"(?:`{3,}(?=[^`\n]*$)|~{3,})"
_RAW = r"<(?:!--|\?|![A-Za-z]|!\[CDATA\[|(?:script|pre|style|textarea)(?=[\s>]|$))"
# Lines that begin something, of a text in which no container is open.
_BEGINS = re.compile(
    rf"^ {{0,3}}(?:(?P<fence>{_FENCE})|(?P<raw>{_RAW})|[><]"
    r"|[-+*](?:[ \t]|$)|\d{1,9}[.)](?:[ \t]|$))",
    re.MULTILINE | re.IGNORECASE,
)
_PART_ENDS = re.compile(
    rf"^(?:[ \t]*\n(?=[^ \t\n])|(?={_FENCE})|(?={_RAW}))", re.MULTILINE | re.IGNORECASE
)
_RAW_INSIDE = re.compile(rf"^ {{1,3}}{_RAW}", re.MULTILINE | re.IGNORECASE)
_HTML = (HTML_SEQUENCES[5][0], HTML_SEQUENCES[6][0])
_MOST_HTML_LINE = 2000


@dataclass(frozen=True)
class Fence:
    """A fenced code block.

    Attributes:
        label: its info string, read.
        code: the text between the fences without the prefixes of its containers; every line ends
            with ``\\n``, whatever it ends with in the text (the last only if it has an end).
        start_pos, end_pos: characters of the text, from the beginning of the opening fence's line
            to the end of the closing one's, without its line end.
        code_start, code_end: characters between the fences, with prefixes and line ends.
        closed: whether it has a closing fence.
        html: whether CommonMark would have taken it for a part of the HTML above it.
        nested: whether fences inside a string of the code were passed over.
        scanned: whether it was found without regard to containers (see ``fences``).
    """

    label: Label
    code: str
    start_pos: int
    end_pos: int
    code_start: int
    code_end: int
    closed: bool
    html: bool = False
    nested: bool = False
    scanned: bool = False


def fences(text: str, most: int) -> list[Fence]:
    """The first ``most`` fenced code blocks of a text, in its order.

    A text with over 20,000 blocks in containers, or containers nested 40 deep, is no answer to
    anything. Its containers are not followed: fences are found line by line, and say so
    (``scanned``).
    """
    # Of the same length, with lines that end with LF: a space at a line's end changes no block.
    flat = text.replace("\r\n", " \n").replace("\r", "\n") if "\r" in text else text
    try:
        return list(islice(_Reader(text, flat).read(), most))
    except TooMuchError:
        return list(islice(_scan(text, flat), most))


class _Reader:
    """One text being read."""

    def __init__(self, text: str, flat: str) -> None:
        self._text, self._flat = text, flat
        self._extensions = Extensions()
        self._containers: Containers | None = None

    def read(self) -> Iterator[Fence]:
        at = 0  # where a line begins, and no container is open
        least = 0  # where the paragraph or HTML that is open there begins at the earliest
        while found := _BEGINS.search(self._flat, at):
            line = found.start()
            if found["fence"]:
                fence = self._fence(found, least)
                at = least = _next_line(self._flat, fence.end_pos)
                yield fence
            elif found["raw"] and self._under_html(line, least):
                at = _next_line(self._flat, line)  # a part of that HTML
            elif found["raw"]:
                at = least = self._raw_html_end(line)
            else:
                start = self._paragraph_start(line, max(at, least))
                end = _PART_ENDS.search(self._flat, _next_line(self._flat, line))
                least = start
                inside, at = self._part(start, end.end() if end else len(self._flat))
                yield from inside

    def _part(self, start: int, end: int) -> tuple[list[Fence], int]:
        """The fences of a part with containers, and where to go on."""
        flat = self._flat
        marked = flat.find("```", start, end) >= 0 or flat.find("~~~", start, end) >= 0
        if not marked and not _RAW_INSIDE.search(flat, start, end):
            return [], end
        if self._containers is None:
            self._containers = Containers(self._extensions)
        lines = Lines.of(self._text[start:end])
        part = self._containers.read(lines)
        made = [self._moved(found, lines, start) for found in part.fences]
        return made, end if part.open_line is None else start + lines.starts[part.open_line]

    def _moved(self, found: Found, lines: Lines, start: int) -> Fence:
        first, after = found.first_line, found.after_line
        last = after - 1 if found.closed else after
        code_start = lines.starts[first + 1]
        return Fence(
            label=read_label(found.info),
            code=found.code,
            start_pos=start + lines.starts[first],
            end_pos=start + lines.end(after - 1),
            code_start=start + code_start,
            code_end=start + max(lines.starts[last], code_start),
            closed=found.closed,
            html=found.html,
            nested=found.nested,
        )

    def _fence(self, opening: re.Match[str], least: int) -> Fence:
        """A fence outside containers."""
        line = opening.start()
        code_start = _next_line(self._flat, line)
        indent = opening.start("fence") - line
        label = read_label(self._line(line)[opening.end() - line :].strip(" \t"))
        closing = _closing(opening["fence"][0], len(opening["fence"]))
        end = closing.search(self._flat, code_start)
        code_end = end.start() if end else len(self._flat)
        code, nested = self._code(code_start, code_end, indent), False
        if end:
            limit = _next_line(self._flat, min(code_start + MOST_CODE, len(self._flat)))
            later = (
                (found, self._code(code_start, found.start(), indent))
                for found in closing.finditer(self._flat, _next_line(self._flat, code_end), limit)
            )
            if longer := self._extensions.find(label.language, code, later):
                (end, code), nested = longer, True
                code_end = end.start()
        return Fence(
            label=label,
            code=code,
            start_pos=line,
            end_pos=self._content_end(code_end if end else max(code_start, line), bool(end), line),
            code_start=code_start,
            code_end=code_end,
            closed=end is not None,
            html=self._under_html(line, least),
            nested=nested,
        )

    def _content_end(self, closing: int, closed: bool, line: int) -> int:
        """Where the last line of a fence ends, without its line end."""
        if closed:
            return closing + len(self._line(closing))
        end = len(self._text)
        if end == line + len(self._line(line)):
            return end
        return end - (2 if self._text.endswith("\r\n") else self._text.endswith(("\n", "\r")))

    def _code(self, start: int, end: int, indent: int) -> str:
        code = self._text[start:end]
        if "\r" in code:
            code = code.replace("\r\n", "\n").replace("\r", "\n")
        if not indent:
            return code
        return "\n".join(outdented(line, indent) for line in code.split("\n"))

    def _line(self, start: int) -> str:
        """The line that begins there, without its end."""
        end = self._flat.find("\n", start)
        line = self._text[start : len(self._flat) if end < 0 else end]
        return line.removesuffix("\r")

    def _raw_html_end(self, line: int) -> int:
        """Where the line after a comment, script or the like begins."""
        first = self._line(line).lstrip(" ")
        kind = next(kind for kind in HTML_SEQUENCES[:5] if kind[0].search(first))
        end = kind[1].search(self._flat, line)
        return _next_line(self._flat, end.end() if end else len(self._flat))

    def _paragraph_start(self, line: int, least: int) -> int:
        """Where the lines before ``line`` begin that no blank one separates from it."""
        while line > least:
            before = self._flat.rfind("\n", least, line - 1) + 1 or least
            if not self._flat[before:line].strip(" \t\n"):
                break
            line = before
        return line

    def _under_html(self, line: int, least: int) -> bool:
        """Whether the lines right above are HTML that only a blank line would end."""
        if line == least or self._flat.find("<", least, line) < 0:
            return False
        first = self._paragraph_start(line, least)
        above = self._flat[first:line].split("\n")[:-1]
        contents = [content.lstrip(" ")[:_MOST_HTML_LINE] for content in above]
        return any(_HTML[0].match(content) for content in contents) or bool(
            contents and _HTML[1].match(contents[0].rstrip(" \t"))
        )


@lru_cache(maxsize=64)
def _closing(mark: str, length: int) -> re.Pattern[str]:
    return re.compile(rf"^ {{0,3}}{mark}{{{length},}}[ \t]*$", re.MULTILINE)


def _next_line(flat: str, at: int) -> int:
    end = flat.find("\n", at)
    return len(flat) if end < 0 else end + 1


_MARKED = re.compile(
    # No character has two places to go to: a line of marks could else be split in n**8 ways.
    r"^[ \t>]*(?:[-+*][ \t>]*|\d{1,9}[.)][ \t][ \t>]*){0,8}(`{3,}|~{3,})(.*)$",
    re.MULTILINE,
)


def _scan(text: str, flat: str) -> Iterator[Fence]:
    """Fences by their lines alone, prefixed by whatever looks like containers."""
    opening: re.Match[str] | None = None

    def made(opening: re.Match[str], end: int, code_end: int, closed: bool) -> Fence:
        start = min(opening.end() + 1, len(flat))
        code = text[start : max(code_end, start)].replace("\r\n", "\n").replace("\r", "\n")
        label = read_label(opening[2].strip(" \t"))
        return Fence(
            label, code, opening.start(), end, start, max(code_end, start), closed, scanned=True
        )

    for line in _MARKED.finditer(flat):
        mark, info = line[1], line[2].strip(" \t")
        if opening is None:
            opening = line if mark[0] == "~" or "`" not in info else None
        elif mark.startswith(opening[1]) and not info:
            yield made(opening, line.end(), line.start(), closed=True)
            opening = None
    if opening is not None:
        yield made(opening, len(text.rstrip("\r\n")), len(text), closed=False)
