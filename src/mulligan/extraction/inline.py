"""Commands that an answer has on a line of their own, outside any code block."""

from __future__ import annotations

import re
import shlex
from bisect import bisect_right
from dataclasses import dataclass

from mulligan.extraction.grammars import parse

_MOST_LINE = 2000
_MOST_FOUND = 100
_SECONDS = 0.02
# What comes before it may only be marks of quotes and lists, a prompt, or backticks.
_LINE = re.compile(
    r"^(?P<prefix>[ \t>]{0,40}(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)"
    r"(?P<ticks>`{0,2})(?P<prompt>\$ )?"
    r"(?P<command>(?:python(?:3(?:\.\d+)?)?|node|bash|sh|rustc|cargo)[ \t][^\n]+)$",
    re.MULTILINE,
)
_PROGRAM = re.compile(
    r"(?:python[\d.]*|bash|sh)[ \t]+(?:-[A-Za-bd-z]+[ \t]+)*-c[ \t]+\S"
    r"|node[ \t]+(?:-e|-p|--eval|--print)[ \t]+\S"
)
_SCRIPT = re.compile(
    r"(?:python[\d.]*[ \t]+(?:-[A-Za-z]+[ \t]+)*(?:-m[ \t]+[A-Za-z_][\w.]*|[\w./~-]+\.py)"
    r"|node[ \t]+[\w./~-]+\.[mc]?js|(?:bash|sh)[ \t]+(?:-[A-Za-z]+[ \t]+)*[\w./~-]+\.sh"
    r"|rustc[ \t]+[\w./~-]+\.rs|cargo[ \t]+(?:run|build|test|check|bench))(?=[ \t]|$)"
)
_PROSE = re.compile(r"[A-Za-z][a-z]*[,;:]?")


@dataclass(frozen=True)
class Inline:
    """A command: what a shell would be given, and its characters in the text."""

    command: str
    start_pos: int
    end_pos: int


def inline_commands(text: str, code: list[tuple[int, int]]) -> list[Inline]:
    """Commands on lines of their own.

    Taken are interpreters with a program on the line (``python3 -c "…"``, ``node -e``,
    ``bash -c``), with a script or module, and ``cargo run`` and its like; between backticks, behind
    ``$``, or bare if a shell could read the line and nothing on it reads like a sentence.

    Args:
        text: the answer; lines may end with a CR.
        code: places that are code already, in order.
    """
    begins = [begin for begin, _ in code]
    found: list[Inline] = []
    for line in _LINE.finditer(text.replace("\r", "\n")):
        if len(found) >= _MOST_FOUND:
            break
        start, end = line.span("command")
        place = bisect_right(begins, start) - 1
        if end - start > _MOST_LINE or (place >= 0 and start < code[place][1]):
            continue
        command = text[start:end].rstrip(" \t")
        bare = not line["ticks"] and not line["prompt"]
        if line["ticks"]:
            if not command.endswith(line["ticks"]):
                continue
            command = command[: -len(line["ticks"])].rstrip(" ")
        if _is_command(command, bare):
            found.append(Inline(command, start, start + len(command)))
    return found


def _is_command(command: str, bare: bool) -> bool:
    program = _PROGRAM.match(command)
    script = None if program else _SCRIPT.match(command)
    if not (program or script) or "`" in command:
        return False
    try:
        words = shlex.split(command)
    except ValueError:  # a quote is open
        return False
    if bare and program and _quoted(command):
        return _clean(command)
    rest = [] if script is None else command[script.end() :].split()
    if bare and (not script or command.endswith((".", ",", ":", "?", "!", ";"))):
        return False
    # `python setup.py and then wait`: more than two bare words in a row are a sentence.
    if bare and sum(bool(_PROSE.fullmatch(word)) for word in rest) > 1:
        return False
    return len(words) > 1 and _clean(command)


def _quoted(command: str) -> bool:
    """Whether the program on the line is in quotes, as a shell needs it, and ends the line."""
    return bool(re.search(r"(?:-c|-e|-p|--eval|--print)[ \t]+\$?['\"]", command)) and not re.search(
        r"['\"][ \t]+(?:[a-z]+[ \t]+){2,}[a-z]+[.:]?$", command
    )


def _clean(command: str) -> bool:
    tree = parse(command, "bash", _SECONDS)
    return tree is not None and not tree.root_node.has_error
