"""Output of programs as a model reads it: cleaned, and cut with a way to read on."""

from __future__ import annotations

import re
from typing import NamedTuple

from mulligan.printable import printable

MOST_SHOWN = 8000  # characters of an output that come back at once: about 2,000 tokens
MOST_LINES = 200  # of them
MOST_MESSAGE = 2000  # of a progress message
NEARBY = 1000  # characters, in which a cut looks for the end of a line
_COLOURS = re.compile(r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]")  # ECMA-48, 5.4: a control sequence


class Shown(NamedTuple):
    """The part of an output that comes back at once.

    Attributes:
        text: the beginning and the end of it, with a line in between that says what is missing.
        length: of the whole output, in characters.
        missing: the characters left out, as (from, to); None where nothing is.
    """

    text: str
    length: int
    missing: tuple[int, int] | None


def clean(text: str) -> str:
    """Output without what only moves cursors and changes colours.

    Control sequences go, a carriage return rewrites its line as it does on a terminal, other
    control characters become visible.
    """
    lines = _COLOURS.sub("", text).replace("\r\n", "\n").split("\n")
    return printable("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines))


def shown(text: str, execution_id: str, stream: str, most: int = MOST_SHOWN) -> Shown:
    """The beginning and the end of a cleaned output.

    Args:
        text: all of it.
        execution_id: whose it is.
        stream: which of its outputs.
        most: characters to show.
    """
    if len(text) <= most and text.count("\n") <= MOST_LINES:
        return Shown(text, len(text), None)
    start = line_end_before(text, most // 2)
    end = _line_start_after(text, len(text) - most // 2)
    start = min(start, _after_lines(text[:start], MOST_LINES // 2))
    end = max(end, _last_lines(text, MOST_LINES // 2))
    call = f'read_output(execution_id="{execution_id}", stream="{stream}", offset={start})'
    marker = f"[… {end - start} characters left out here; to read on: {call} …]"
    joined = f"{_with_newline(text[:start])}{marker}\n{text[end:]}"
    return Shown(joined, len(text), (start, end))


def _after_lines(text: str, lines: int) -> int:
    """The place after so many lines, or the end."""
    position = 0
    for _ in range(lines):
        found = text.find("\n", position)
        if found < 0:
            return len(text)
        position = found + 1
    return position


def _last_lines(text: str, lines: int) -> int:
    """Where the last so many lines begin."""
    position = len(text) - text.endswith("\n")
    for _ in range(lines):
        found = text.rfind("\n", 0, position)
        if found < 0:
            return 0
        position = found
    return position + 1


def line_end_before(text: str, position: int) -> int:
    """The place after the last line end before a position, if there is one nearby."""
    found = text.rfind("\n", max(0, position - NEARBY), position)
    return found + 1 if found >= 0 else position


def _line_start_after(text: str, position: int) -> int:
    found = text.find("\n", position - 1, position + NEARBY)
    return found + 1 if found >= 0 else position


def _with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def fenced(text: str) -> str:
    """Output between two lines that it cannot be mistaken for: it has no fence as long."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{_with_newline(text)}{fence}"


def first_line(text: str, most: int = 100) -> str:
    """The first line of a text that is not empty, shortened."""
    line = next((each.strip() for each in text.splitlines() if each.strip()), "")
    line = printable(line[: most + 1])
    return line if len(line) <= most and line == text.strip() else line[: most - 1] + "…"


def last_line(text: str, most: int = 100) -> str:
    """The last line of a text that is not empty, shortened; "(nothing)" where there is none."""
    line = next((each.strip() for each in reversed(text.splitlines()) if each.strip()), "(nothing)")
    return line if len(line) <= most else line[: most - 1] + "…"


def counted(number: int, what: str) -> str:
    """``3 files``, ``1 file``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
