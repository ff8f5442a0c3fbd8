"""Regular expressions over bytes by RE2: time linear in the text, whoever wrote the expression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import re2

_MEMORY = 64 << 20  # of one expression: its program and the automaton it becomes


class Match(Protocol):
    """The part of ``re.Match`` that is used."""

    def start(self, group: int | str = 0) -> int: ...
    def end(self, group: int | str = 0) -> int: ...
    def span(self, group: int | str = 0) -> tuple[int, int]: ...


class Expression(Protocol):
    """The part of ``re.Pattern`` that is used."""

    @property
    def groupindex(self) -> dict[bytes, int]: ...
    def search(self, text: bytes, pos: int = 0, endpos: int | None = None) -> Match | None: ...
    def match(self, text: bytes, pos: int = 0, endpos: int | None = None) -> Match | None: ...


error = re2.error


def options(*, within_lines: bool = False, any_case: bool = False) -> re2.Options:
    """Options for bytes; ``within_lines``: no match holds a line feed."""
    chosen = re2.Options()
    chosen.encoding = re2.Options.Encoding.LATIN1
    chosen.max_mem = _MEMORY
    chosen.log_errors = False
    chosen.never_nl = within_lines
    chosen.case_sensitive = not any_case
    return chosen


def compile_bytes(
    pattern: bytes, *, within_lines: bool = False, any_case: bool = False
) -> Expression:
    """Compile; raises ``error`` where the pattern is none, or far too large."""
    chosen = options(within_lines=within_lines, any_case=any_case)
    compiled: Expression = re2._Regexp(pattern, chosen)  # noqa: SLF001  (re2.compile keeps them)
    return compiled


def literals(words: Iterable[bytes]) -> re2.Set:
    """A set of literal words in any case; ``Match`` tells which are in a text."""
    found = re2.Set.SearchSet(options(any_case=True))
    for word in words:
        found.Add(re2.escape(word))
    found.Compile()
    return found
