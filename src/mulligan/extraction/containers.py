"""Fences inside lists, quotes and HTML, by markdown-it-py: one part of a text at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, fence, html_block
from markdown_it.rules_block.html_block import HTML_SEQUENCES

from mulligan.extraction.labels import read_label
from mulligan.extraction.lines import Lines, skeleton
from mulligan.extraction.nesting import Extensions

MOST_LEVELS = 40  # a list is two: itself and its item
MOST_STEPS = 20_000  # blocks of a text that are followed this way
MOST_LINES = 40_000
_MOST_AHEAD = 2000  # lines looked at for a later closing fence


class TooMuchError(Exception):
    """The text has more structure than is worth following."""


@dataclass(frozen=True)
class Found:
    """A fence in a part of a text.

    Attributes:
        info: its info string.
        code: its text, without prefixes.
        first_line, after_line: its lines, counted in the part; ``after_line`` is not its own.
        closed, html, nested: as in ``blocks.Fence``.
    """

    info: str
    code: str
    first_line: int
    after_line: int
    closed: bool
    html: bool
    nested: bool


@dataclass(frozen=True)
class Part:
    """What a part of a text holds.

    Attributes:
        fences: its fences.
        open_line: the line of a fence or raw HTML outside any container that the part does not
            end; none if everything in it ends with it.
    """

    fences: list[Found]
    open_line: int | None


class Containers:
    """Reads parts of one text, within limits that hold for all of them together."""

    def __init__(self, extensions: Extensions) -> None:
        self._extensions = extensions
        self._steps = self._read_lines = 0
        self._parser = MarkdownIt("commonmark", {"maxNesting": 10 * MOST_LEVELS})
        # Inline structure finds no code blocks; what a link's definition is changes none.
        self._parser.disable(["inline", "text_join", "reference"])
        ruler = self._parser.block.ruler
        ruler.before("code", "budget", self._count)
        ruler.at("fence", self._fence, {"alt": ["paragraph", "reference", "blockquote", "list"]})
        ruler.at("html_block", self._html, {"alt": ["paragraph", "reference", "blockquote"]})

    def read(self, lines: Lines) -> Part:
        """The fences of a part that begins where no block is open.

        Raises:
            TooMuchError: over 20,000 blocks or 40,000 lines were read so far, or containers are
                nested over 40 deep.
        """
        made = skeleton(lines)
        self._read_lines += len(made.lines)
        if self._read_lines > MOST_LINES:
            raise TooMuchError
        self._lines = lines
        self._numbers = [*made.numbers, len(lines.contents)]
        self._starts = [0]
        for line in made.lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._html_cut: set[int] = set()
        self._found: list[Found] = []
        self._open: int | None = None
        self._parser.parse("".join(f"{line}\n" for line in made.lines))
        return Part(self._found, self._open)

    def _count(self, state: StateBlock, _start: int, _end: int, silent: bool) -> bool:
        """A rule that matches nothing and is asked about every block."""
        self._steps += not silent
        if self._steps > MOST_STEPS or state.level > MOST_LEVELS:
            raise TooMuchError
        return False

    def _html(self, state: StateBlock, start: int, end: int, silent: bool) -> bool:
        if not html_block(state, start, end, silent):
            return False
        if silent:
            return True
        first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
        raw = next((kind for kind in HTML_SEQUENCES[:5] if kind[0].search(first)), None)
        if raw is not None:  # comments, scripts and the like go on to their own end
            last = state.src[self._starts[state.line - 1] : self._starts[state.line]]
            if state.level == 0 and state.line == state.lineMax and not raw[1].search(last):
                self._open = self._numbers[start]
            return True
        for line in range(start + 1, state.line):
            if fence(state, line, end, True):
                self._html_cut.add(line)
                state.line = line
                state.tokens[-1].map = [start, line]
                break
        return True

    def _fence(self, state: StateBlock, start: int, end: int, silent: bool) -> bool:
        if not fence(state, start, end, silent):
            return False
        if silent:
            return True
        token = state.tokens.pop()
        after = state.line
        closed = token.content.count("\n") == after - start - 2
        if not closed and state.level == 0:
            self._open = self._numbers[start]
            return True
        info = token.info.strip(" \t")
        code, nested = self._code(state, start, after, closed), False
        if closed:
            closing = (
                (line, self._code(state, start, line + 1, closed=True))
                for line in _closing_lines(state, after, end, token.markup)
            )
            if longer := self._extensions.find(read_label(info).language, code, closing):
                after, code, nested = longer[0] + 1, longer[1], True
                state.line = after
        place = (self._numbers[start], self._numbers[after])
        html = start in self._html_cut
        self._found.append(Found(info, code, *place, closed, html, nested))
        return True

    def _code(self, state: StateBlock, start: int, after: int, closed: bool) -> str:
        """The original lines between fences, without what belongs to their containers."""
        indent = state.sCount[start]
        marks = {}  # of lines that have a quote's marks, behind which their text begins
        for line in range(start + 1, after):
            if state.bMarks[line] != self._starts[line]:
                mark = state.bMarks[line] - self._starts[line]
                marks[self._numbers[line]] = (mark, state.bsCount[line])
        last = self._numbers[after - 1] if closed else self._numbers[after]
        contents = self._lines.contents
        code = "".join(
            outdented(contents[number], indent, *marks.get(number, (0, 0))) + "\n"
            for number in range(self._numbers[start] + 1, last)
        )
        return code[:-1] if code and self._lines.cut_off(last) else code


def outdented(line: str, columns: int, mark: int = 0, before: int = 0) -> str:
    """A line from ``mark`` on, without up to ``columns`` columns of white space.

    ``before`` is the column it begins at, which tabs count from (CommonMark, section 2.2).
    """
    at, column = mark, 0
    while column < columns and line[at : at + 1] in (" ", "\t"):
        column += 4 - (column + before) % 4 if line[at] == "\t" else 1
        at += 1
    return " " * (column - columns) + line[at:]


def _closing_lines(state: StateBlock, line: int, end: int, markup: str) -> Iterator[int]:
    """Further lines in the same container that could close a fence, until one is outside."""
    for number in range(line, min(end, line + _MOST_AHEAD)):
        at = state.bMarks[number] + state.tShift[number]
        content = state.src[at : state.eMarks[number]].rstrip(" \t")
        if content and state.sCount[number] < state.blkIndent:
            return
        closes = content.startswith(markup) and not content.strip(markup[0])
        if closes and not state.is_code_block(number):
            yield number
