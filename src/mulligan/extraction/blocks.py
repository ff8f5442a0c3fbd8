"""Fenced code blocks of a text: CommonMark 0.31, section 4.5, by markdown-it-py.

Two rules are our own (docs/extraction.md): a fence ends an HTML block that only a blank line would
end, and a fence inside a string of the code does not close it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, fence, html_block
from markdown_it.rules_block.html_block import HTML_SEQUENCES

from mulligan.extraction.labels import Label, read_label
from mulligan.extraction.lines import Lines, Skeleton, skeleton
from mulligan.extraction.nesting import Extensions

MOST_LEVELS = 40  # a list is two: itself and its item
MOST_STEPS = 40_000
MOST_LINES = 50_000  # that can begin or end something; a megabyte of answer has some 20,000
MOST_AHEAD = 2000  # lines looked at for a later closing fence
_LINE_SCAN = "the text's structure is too deep or too long"


@dataclass(frozen=True)
class Fence:
    """A fenced code block.

    Attributes:
        label: its info string, read.
        code: the text between the fences without the prefixes of its containers; every line ends
            with ``\\n``, whatever it ends with in the text; the text's last line only if it has an end.
        first_line, after_line: its lines, fences included; ``after_line`` is the one after it.
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
    first_line: int
    after_line: int
    start_pos: int
    end_pos: int
    code_start: int
    code_end: int
    closed: bool
    html: bool = False
    nested: bool = False
    scanned: bool = False


@dataclass(frozen=True)
class Structure:
    """The fences of a text, and the lines of its other code and of its raw HTML, as ranges."""

    fences: list[Fence]
    other: list[tuple[int, int]]


class _TooMuchError(Exception):
    """The text has more structure than is worth following."""


def structure(lines: Lines) -> Structure:
    """The blocks of a text, in its order.

    A text of over 40,000 blocks or 40 nested containers is no answer to anything. Its containers
    are not followed: fences are found line by line, and say so (``scanned``).
    """
    made = skeleton(lines)
    if len(made.lines) > MOST_LINES:
        return Structure(_scan(lines), [])
    return _Reader(lines, made).read()


class _Reader:
    """One text being read."""

    def __init__(self, lines: Lines, made: Skeleton) -> None:
        self._lines = lines
        self._numbers = [*made.numbers, len(lines.contents)]
        self._text = "".join(f"{line}\n" for line in made.lines)
        self._starts = [0]
        for line in made.lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._extensions = Extensions()
        self._html_cut: set[int] = set()
        self._steps = 0
        self._found: list[Fence] = []

    def read(self) -> Structure:
        parser = MarkdownIt("commonmark", {"maxNesting": 10 * MOST_LEVELS})
        # Inline structure finds no code blocks; what a link's definition is changes none.
        parser.disable(["inline", "text_join", "reference"])
        ruler = parser.block.ruler
        ruler.before("code", "budget", self._count)
        ruler.at("fence", self._fence, {"alt": ["paragraph", "reference", "blockquote", "list"]})
        ruler.at("html_block", self._html, {"alt": ["paragraph", "reference", "blockquote"]})
        try:
            tokens = parser.parse(self._text)
        except _TooMuchError:
            return Structure(_scan(self._lines), [])
        other = [
            (self._numbers[token.map[0]], self._numbers[token.map[1]])
            for token in tokens
            if token.type in ("code_block", "html_block") and token.map is not None
        ]
        return Structure(self._found, other)

    def _count(self, state: StateBlock, _start: int, _end: int, silent: bool) -> bool:
        """A rule that matches nothing and is asked about every block."""
        self._steps += not silent
        if self._steps > MOST_STEPS or state.level > MOST_LEVELS:
            raise _TooMuchError(_LINE_SCAN)
        return False

    def _html(self, state: StateBlock, start: int, end: int, silent: bool) -> bool:
        if not html_block(state, start, end, silent):
            return False
        first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
        if silent or any(sequence[0].search(first) for sequence in HTML_SEQUENCES[:5]):
            return True  # comments, scripts and the like go on to their own end
        for line in range(start + 1, state.line):
            if fence(state, line, end, True):
                self._html_cut.add(line)
                state.line = line
                token = state.tokens[-1]
                token.map = [start, line]
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
        label = read_label(token.info.strip())
        code = self._code(state, start, after, closed)
        nested = False
        if closed:
            closing = (
                (line, self._code(state, start, line + 1, closed=True))
                for line in _closing_lines(state, after, end, token.markup)
            )
            if longer := self._extensions.find(label.language, code, closing):
                after, code = longer[0] + 1, longer[1]
                state.line, nested = after, True
        self._found.append(self._made(label, code, (start, after), closed, nested))
        return True

    def _made(
        self, label: Label, code: str, place: tuple[int, int], closed: bool, nested: bool
    ) -> Fence:
        lines = self._lines
        first, after = self._numbers[place[0]], self._numbers[place[1]]
        last = after - 1 if closed else after
        return Fence(
            label=label,
            code=code,
            first_line=first,
            after_line=after,
            start_pos=lines.starts[first],
            end_pos=lines.end(after - 1),
            code_start=lines.starts[first + 1],
            code_end=max(lines.starts[last], lines.starts[first + 1]),
            closed=closed,
            html=place[0] in self._html_cut,
            nested=nested,
        )

    def _code(self, state: StateBlock, start: int, after: int, closed: bool) -> str:
        """The original lines between fences, without what belongs to their containers."""
        indent = state.sCount[start]
        marks = {}  # of lines that have a quote's marks, behind which their text begins
        for line in range(start + 1, after):
            if state.bMarks[line] != self._starts[line]:
                mark = state.bMarks[line] - self._starts[line]
                marks[self._numbers[line]] = (mark, state.bsCount[line])
        contents = self._lines.contents
        last = self._numbers[after - 1] if closed else self._numbers[after]
        numbers = range(self._numbers[start] + 1, last)
        if not indent and not marks:
            code = "".join(f"{contents[number]}\n" for number in numbers)
        else:
            code = "".join(
                _outdented(contents[number], indent, *marks.get(number, (0, 0))) + "\n"
                for number in numbers
            )
        return code[:-1] if self._lines.cut_off(last) and numbers else code


def _outdented(line: str, columns: int, mark: int, before: int) -> str:
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
    for number in range(line, min(end, line + MOST_AHEAD)):
        at = state.bMarks[number] + state.tShift[number]
        content = state.src[at : state.eMarks[number]].rstrip(" \t")
        if content and state.sCount[number] < state.blkIndent:
            return
        closes = content.startswith(markup) and not content.strip(markup[0])
        if closes and not state.is_code_block(number):
            yield number


def _scan(lines: Lines) -> list[Fence]:
    """Fences by their lines alone, prefixed by whatever looks like containers."""
    found: list[Fence] = []
    opening: tuple[int, str, str] | None = None

    def close(after: int, closed: bool) -> None:
        assert opening is not None
        first, _, info = opening
        last = after - 1 if closed else after
        code = "".join(f"{content}\n" for content in lines.contents[first + 1 : last])
        found.append(
            Fence(
                label=read_label(info),
                code=code[:-1] if code and lines.cut_off(last) else code,
                first_line=first,
                after_line=after,
                start_pos=lines.starts[first],
                end_pos=lines.end(after - 1),
                code_start=lines.starts[first + 1],
                code_end=max(lines.starts[last], lines.starts[first + 1]),
                closed=closed,
                scanned=True,
            )
        )

    for number, line in enumerate(lines.contents):
        rest = line.lstrip(" \t>-+*.)0123456789")
        if not rest.startswith(("```", "~~~")):
            continue
        info = rest.lstrip(rest[0])
        marker = rest[: len(rest) - len(info)]
        if opening is None:
            if marker[0] == "~" or "`" not in info:
                opening = (number, marker, info.strip(" \t"))
        elif marker.startswith(opening[1]) and not info.strip(" \t"):
            close(number + 1, closed=True)
            opening = None
    if opening is not None:
        close(len(lines.contents), closed=False)
    return found
