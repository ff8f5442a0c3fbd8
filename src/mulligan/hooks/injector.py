"""Adds imports that a Python program uses and has forgotten."""

from __future__ import annotations

import io
import itertools
import token
import tokenize
from collections.abc import Collection

from mulligan.hooks.interface import Hook
from mulligan.models.hooks import Allow, HookDecision, Modify, PreToolContext

# Modules of the standard library whose names are hardly ever anything else in a program.
MODULES = frozenset(
    {
        *("argparse", "ast", "asyncio", "base64", "bisect", "collections", "csv", "datetime"),
        *("functools", "glob", "hashlib", "heapq", "io", "itertools", "json", "logging", "math"),
        *("os", "pathlib", "random", "re", "shutil", "sqlite3", "statistics", "subprocess", "sys"),
        *("tempfile", "threading", "time", "typing", "urllib", "uuid"),
    }
)
_MOST_CHARS = 200_000
_LAYOUT = {token.NEWLINE, token.NL, token.COMMENT, token.INDENT, token.DEDENT, token.ENCODING}


class DependencyInjectorHook(Hook):
    """Puts a line of imports into Python programs that use modules they never import.

    A module is added if its name stands before a dot and nowhere without one: then nothing in the
    program binds it. Other languages, and what cannot be read as Python, are left as they are.

    Args:
        modules: those that may be added.
    """

    name = "dependency_injector"

    def __init__(self, modules: Collection[str] = MODULES) -> None:
        self._modules = frozenset(modules)

    def pre_tool(self, context: PreToolContext) -> HookDecision:
        """Modify where something is missing."""
        if context.language != "python" or len(context.code) > _MOST_CHARS:
            return Allow()
        try:
            lines = io.StringIO(context.code).readline
            tokens = list(tokenize.generate_tokens(lines))
        except (tokenize.TokenError, SyntaxError):
            return Allow()
        missing = self._missing(tokens)
        if not missing:
            return Allow()
        whole = context.code.splitlines(keepends=True)
        at = _first_line(tokens)
        if at >= len(whole) or not all(line.endswith("\n") for line in whole[:at]):
            return Allow()
        added = f"import {', '.join(missing)}"
        code = "".join([*whole[:at], added + "\n", *whole[at:]])
        return Modify(transformed_code=code, reason=f"added: {added}")

    def _missing(self, tokens: list[tokenize.TokenInfo]) -> list[str]:
        used: set[str] = set()
        bound: set[str] = set()
        before = ""
        for this, after in itertools.pairwise(tokens):
            if this.type == token.NAME and this.string in self._modules and before != ".":
                imports = before in {"import", "from", "as"}
                (bound if imports or after.string != "." else used).add(this.string)
            if this.type not in {token.NL, token.COMMENT}:
                before = this.string
        return sorted(used - bound)


def _first_line(tokens: list[tokenize.TokenInfo]) -> int:
    """Index of the line the first statement is on that may come after an import."""
    statement: list[tokenize.TokenInfo] = []
    for each in tokens:
        if each.type == token.NEWLINE:
            words = [each.string for each in statement]
            docstring = len(statement) == 1 and statement[0].type == token.STRING
            if not docstring and words[:2] != ["from", "__future__"]:
                break
            statement = []
        elif each.type not in _LAYOUT:
            statement.append(each)
    return statement[0].start[0] - 1 if statement else 0
