"""Finding code in what a model answers, and judging how sure it is that it should run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mulligan.extraction.extract import extract
    from mulligan.extraction.intent import detect_execution_intent

__all__ = ["detect_execution_intent", "extract"]

# Imported when they are used: whoever checks syntax alone has no use for grammars and Markdown.
_HOMES = {
    "detect_execution_intent": "mulligan.extraction.intent",
    "extract": "mulligan.extraction.extract",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The module of one of them has its name: what was imported from it is put in its place.
    value = globals()[name] = getattr(import_module(home), name)
    return value
