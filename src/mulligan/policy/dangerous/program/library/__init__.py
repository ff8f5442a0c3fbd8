"""What the standard libraries' functions do, as far as it matters here."""

from __future__ import annotations

from mulligan.policy.dangerous.program.library import javascript, python, rust
from mulligan.policy.dangerous.program.library.base import Called, Library

__all__ = ["Called", "Library", "of"]

_LIBRARIES = {
    "python": Library("python", python.FUNCTIONS, python.METHODS, python.NAMES, python.MODULES),
    "javascript": Library(
        "javascript", javascript.FUNCTIONS, javascript.METHODS, javascript.NAMES, javascript.MODULES
    ),
    "rust": Library("rust", rust.FUNCTIONS, rust.METHODS, rust.NAMES, rust.MODULES),
}


def of(language: str) -> Library:
    """A language's library."""
    return _LIBRARIES[language]
