"""Structured logs, through the standard library's ``mulligan`` logger.

A program that uses the library decides itself what becomes of them; ``mulligan serve`` writes
them to stderr, a JSON object a line.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

NAME = "mulligan"


class Logger:
    """The logger of Mulligan's own events; structlog is imported for the first that is wanted."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(NAME)
        self._structured: Any = None

    def info(self, event: str, **fields: object) -> None:
        """What is worth knowing."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What should not be, and was dealt with."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """What went wrong."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """A fault of ours, with where it is from."""
        self._log(logging.ERROR, event, {"exc_info": True} | fields)

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        if self._structured is None:
            self._structured = _structured(self._logger)
        self._structured.log(level, event, **fields)


def _structured(logger: logging.Logger) -> Any:
    import structlog  # noqa: PLC0415

    return structlog.wrap_logger(
        logger,
        processors=[
            structlog.contextvars.merge_contextvars,  # the id of the request it is done for
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def get_logger() -> Logger:
    """The logger of Mulligan's own events."""
    return Logger()


def to_stderr(level: str) -> None:
    """Writes events of at least ``level`` to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(NAME)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
