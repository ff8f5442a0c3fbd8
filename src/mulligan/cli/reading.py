"""What commands read whole: the text of a file, or of what is piped into them, up to a bound."""

from __future__ import annotations

import sys
from pathlib import Path

from mulligan import settings as settings_module
from mulligan.cli.console import UsageError, size


def read_text(source: Path, field: str) -> str:
    """A file's text, or that of stdin for ``-``.

    Raises:
        UsageError: it cannot be read, is no UTF-8, or longer than any request may be.
    """
    most = settings_module.load().max_request_bytes
    try:
        if str(source) == "-":
            data = sys.stdin.buffer.read(most + 1)
        else:
            with source.open("rb") as file:
                data = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}", field=field) from None
    if len(data) > most:
        raise UsageError(
            f"{_called(source)} is longer than {size(most)}",
            field=field,
            remedy="have the program read a file: mulligan files put; or raise "
            "MULLIGAN_MAX_REQUEST_BYTES",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise UsageError(f"{_called(source)} is not UTF-8: {byte}", field=field) from None


def _called(source: Path) -> str:
    return "stdin" if str(source) == "-" else str(source)
