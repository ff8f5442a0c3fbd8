"""Programs that are compiled and run from source the code itself wrote: C, Go, Java, Rust."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.values import Text

if TYPE_CHECKING:
    from mulligan.policy.dangerous.shell.invocation import Invocation
    from mulligan.policy.dangerous.shell.walk import Shell

_LANGUAGES: Final = {
    **dict.fromkeys(("gcc", "cc", "clang", "tcc", "g++", "c++", "clang++"), "c"),
    "go": "go",
    **dict.fromkeys(("java", "javac", "kotlinc", "scala"), "java"),
    "rustc": "rust",
}
_MOST_FILES: Final = 8


def _compiled(shell: Shell, invocation: Invocation) -> Text | None:
    """Judges the sources that are known: who compiles a program means to run it."""
    language = _LANGUAGES[invocation.name]
    words = [word for word in invocation.arguments[1:] if word.text[:1] != "-"]
    for word in words[:_MOST_FILES]:
        source = shell.judgement.files.get(shell.canonical(word))
        if source is not None:
            shell.judgement.runs(source, language, invocation.place)
    if invocation.stdin is not None and any(a.text == "-" for a in invocation.arguments[1:]):
        shell.judgement.runs(invocation.stdin, language, invocation.place)
    return None


STARTERS: Final[dict[str, Callable[[Shell, Invocation], Text | None]]] = dict.fromkeys(
    _LANGUAGES, _compiled
)
