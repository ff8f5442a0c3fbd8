"""Finding code in what a model answers, and judging how sure it is that it should run."""

from mulligan.extraction.extract import extract
from mulligan.extraction.intent import detect_execution_intent

__all__ = ["detect_execution_intent", "extract"]
