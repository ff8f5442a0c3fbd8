"""Which reader judges which language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mulligan.policy.dangerous.program import javascript, python, rust
from mulligan.policy.dangerous.program.evaluate import evaluate
from mulligan.policy.dangerous.shell import foreign
from mulligan.policy.dangerous.shell.walk import walk_shell
from mulligan.policy.dangerous.values import Text, anything

if TYPE_CHECKING:
    from mulligan.policy.dangerous.findings import Source
    from mulligan.policy.dangerous.judgement import Judgement
    from mulligan.policy.dangerous.shell.state import State

_READERS = {"python": python.read, "javascript": javascript.read, "rust": rust.read}
KNOWN = frozenset({*_READERS, "bash"})


def walk(judgement: Judgement, source: Source, language: str, state: State | None = None) -> Text:
    """Judges a text in a language; gives what is known of the output of a shell's."""
    if language == "bash":
        return walk_shell(judgement, source, state)
    reader = _READERS.get(language)
    if reader is None:
        foreign.scan(judgement, source)
    else:
        evaluate(judgement, source, reader(source, judgement.budget), language)
    return anything()
