"""Parses Python within bounds, also what only another interpreter would take."""

from __future__ import annotations

import ast
import re
import warnings
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.budget import TooHardError

if TYPE_CHECKING:
    from mulligan.policy.dangerous.budget import Budget

_FILE: Final = "<judged code>"
# What the parser has to say about the style of judged code is nobody's to hear. Once and for all:
# filters set for the time of a call are those of all threads.
warnings.filterwarnings("ignore", module="<judged")
_MOST_BRACKETS: Final = 80
_BRACKETS: Final = b"()[]{}"
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_BRACKETS))
_DEEP = re.compile(rb"[\[({]{%d}" % _MOST_BRACKETS)
_LONG_LINE: Final = 200
_RUNS = re.compile(
    rb"(?:[~+-][ \t]*){200}|(?:\bnot\s+){200}|(?:\blambda\s*:\s*){60}|(?:\.\w+){400}"
    rb"|(?:\*\*[\s\w.]+){400}"
)
_MAGIC = re.compile(r"^([ \t]*)(!|%|%%)(.*)$", re.MULTILINE)
_ASSIGNED_MAGIC = re.compile(r"^([ \t]*\w+\s*=\s*)!(.*)$", re.MULTILINE)
_PRINTED = re.compile(r"^([ \t]*)(print|exec)[ \t]+(?![=(.,:\])])(.+)$", re.MULTILINE)
_MOST_ATTEMPTS: Final = 12


def guard(data: bytes) -> None:
    """Refuses what the parser, which recurses, would go too deep for."""
    brackets = data.translate(None, _NO_BRACKETS)
    for _ in range(_MOST_BRACKETS):
        before = len(brackets)
        brackets = brackets.replace(b"()", b"").replace(b"[]", b"").replace(b"{}", b"")
        if len(brackets) == before:
            break
    else:
        raise TooHardError("is nested too deep to judge")
    long_line = max(map(len, data.split(b"\n"))) > _LONG_LINE
    if _DEEP.search(brackets) or (long_line and _RUNS.search(data)):
        raise TooHardError("is nested too deep to judge")


def parsed(text: str, budget: Budget) -> ast.Module:
    attempt = text.replace("\0", " ")
    for number in range(_MOST_ATTEMPTS):
        budget.step(len(attempt) // 64 + 1)
        try:
            return ast.parse(attempt, _FILE)
        except (RecursionError, MemoryError):
            raise TooHardError("is nested too deep to judge") from None
        except (SyntaxError, ValueError) as error:
            attempt = _other_dialects(attempt) if number == 0 else _without(attempt, error)
    return ast.Module(body=_lines_alone(text), type_ignores=[])


def _other_dialects(text: str) -> str:
    """IPython's magics and shell lines, and Python 2's statements, as calls."""

    def call(match: re.Match[str]) -> str:
        mark, rest = match[2], match[3]
        if mark == "!":
            return f"{match[1]}get_ipython().system({rest.lstrip('!')!r})"
        shell = re.match(r"%?(?:sx|system|bash|sh)\s+(.+)", rest)
        return f"{match[1]}get_ipython().system({shell[1]!r})" if shell else f"{match[1]}pass"

    text = _ASSIGNED_MAGIC.sub(lambda m: f"{m[1]}get_ipython().getoutput({m[2]!r})", text)
    text = _MAGIC.sub(call, text)
    text = _PRINTED.sub(lambda m: f"{m[1]}{m[2]}({m[3].rstrip(',; ')})", text)
    return re.sub(
        r"^([ \t]*except\s+[\w.]+)\s*,\s*(\w+)\s*:", r"\1 as \2:", text, flags=re.MULTILINE
    )


def _without(text: str, error: SyntaxError | ValueError) -> str:
    """The text with the line the parser stumbled over made empty."""
    line = (error.lineno if isinstance(error, SyntaxError) else 1) or 1
    lines = text.split("\n")
    at = min(line, len(lines)) - 1
    indent = re.match(r"[ \t]*", lines[at])
    lines[at] = f"{indent[0] if indent else ''}pass" if lines[at].strip() != "pass" else ""
    return "\n".join(lines)


def _lines_alone(text: str) -> list[ast.stmt]:
    """Each line that is a statement by itself."""
    found: list[ast.stmt] = []
    for number, line in enumerate(text.split("\n")[:2000]):
        try:
            statements = ast.parse(line.strip(), _FILE).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for statement in statements:
            ast.increment_lineno(statement, number)
        found.extend(statements)
    return found
