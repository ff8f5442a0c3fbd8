"""The token a client shows to a server: from a file or the environment, never from an argument.

What a process was started with is there for every user of its machine to see.
"""

from __future__ import annotations

import os
from pathlib import Path

from mulligan.errors import ConfigError

VARIABLE = "MULLIGAN_TOKEN"
FILE_VARIABLE = "MULLIGAN_TOKEN_FILE"
MOST_BYTES = 4096


def token_in_force() -> str | None:
    """What ``MULLIGAN_TOKEN`` says, else what is in the file ``MULLIGAN_TOKEN_FILE`` names.

    Raises:
        ConfigError: there is no token where one should be.
    """
    token = os.environ.get(VARIABLE)
    if token:
        return _checked(token, VARIABLE)
    path = os.environ.get(FILE_VARIABLE)
    return read_token(Path(path).expanduser(), FILE_VARIABLE) if path else None


def read_token(path: Path, field: str = "token_file") -> str:
    """The token in a file, which has nothing else in it but a line break.

    Raises:
        ConfigError: there is none; the text does not show what is there instead.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", field=field) from None
    return _checked(content.decode("latin-1"), field)


def _checked(text: str, field: str) -> str:
    """A token, as a header can carry it."""
    token = text.strip()
    if not token or len(token) >= MOST_BYTES or not all("!" <= char <= "~" for char in token):
        raise ConfigError(
            f"{field} holds no token",
            field=field,
            remedy="it is one line, as mulligan token create printed it",
        )
    return token
