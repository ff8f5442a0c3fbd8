"""Which reader judges which language."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mulligan.policy.dangerous.values import Text, anything

if TYPE_CHECKING:
    from mulligan.policy.dangerous.findings import Source
    from mulligan.policy.dangerous.judgement import Judgement
    from mulligan.policy.dangerous.shell.state import State

_PROGRAMS = frozenset({"python", "javascript", "rust"})
KNOWN = frozenset({*_PROGRAMS, "bash"})


def load(language: str) -> None:
    """Imports a language's reader, so that no judgement's time goes into that."""
    name = f"program.{language}" if language in _PROGRAMS else "shell.walk"
    import_module(f"mulligan.policy.dangerous.{name}")
    if language in _PROGRAMS:
        import_module("mulligan.policy.dangerous.program.evaluate")


def walk(judgement: Judgement, source: Source, language: str, state: State | None = None) -> Text:
    """Judges a text in a language; gives what is known of the output of a shell's.

    A language's reader is imported when there is something to read in it.
    """
    if language == "bash":
        walker = import_module("mulligan.policy.dangerous.shell.walk")
        known: Text = walker.walk_shell(judgement, source, state)
        return known
    if language not in _PROGRAMS:
        import_module("mulligan.policy.dangerous.shell.foreign").scan(judgement, source)
    else:
        reader = import_module(f"mulligan.policy.dangerous.program.{language}")
        evaluate = import_module("mulligan.policy.dangerous.program.evaluate").evaluate
        evaluate(judgement, source, reader.read(source, judgement.budget), language)
    return anything()
