"""Structured logs, through the standard library's ``mulligan`` logger.

A program that uses the library decides itself what becomes of them; ``mulligan serve`` writes
them to stderr, a JSON object a line.
"""

from __future__ import annotations

import logging
import sys
from typing import cast

import structlog

NAME = "mulligan"


def get_logger() -> structlog.stdlib.BoundLogger:
    """The logger of Mulligan's own events."""
    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(
            logging.getLogger(NAME),
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.EventRenamer("event"),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        ),
    )


def to_stderr(level: str) -> None:
    """Writes events of at least ``level`` to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(NAME)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
