"""Outputs too large for a row, a file each.

::

    <directory>/<xx>/<execution id>.stdout      xx: two hex digits of the id's hash
    <directory>/<xx>/<execution id>.stderr
"""

from __future__ import annotations

import os
import re
import secrets
from hashlib import sha256
from pathlib import Path

from mulligan.errors import ConfigError

STREAMS = ("stdout", "stderr")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)


def make_private(directory: Path) -> None:
    """Makes a directory for the server's user alone.

    Raises:
        ConfigError: it cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"history directory {directory} cannot be used: {error.strerror}",
            field="data_dir",
            remedy="choose another data directory, or give this user the right to write it",
        ) from None


class Outputs:
    """The files of outputs; readable by the server's user only.

    Args:
        directory: made when the first output is written.
        durable: whether a file is on the disk itself, and not only in the system's cache, before
            `write` returns.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory = directory
        self._durable = durable

    def path(self, execution_id: str, stream: str) -> Path:
        """Where an output is, or would be; inside the directory whatever the id is."""
        digest = sha256(execution_id.encode(errors="surrogatepass")).hexdigest()
        name = execution_id if _PLAIN.fullmatch(execution_id) else f"+{digest}"
        return self._directory / digest[:2] / f"{name}.{stream}"

    def write(self, execution_id: str, stream: str, text: str) -> None:
        """Writes an output, whole or not at all, over one that may be there.

        Raises:
            OSError: it could not be written; nothing of it is left.
        """
        path = self.path(execution_id, stream)
        self._make(path.parent)
        new = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode(errors="surrogatepass"))
                file.flush()
                if self._durable:
                    os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        if self._durable:
            _sync_directory(path.parent)

    def read(self, execution_id: str, stream: str) -> str:
        """An output, or a line in its place that says why there is none."""
        path = self.path(execution_id, stream)
        try:
            return path.read_bytes().decode(errors="surrogatepass")
        except FileNotFoundError:
            return f"[this output is missing: there is no file {path}]"
        except (OSError, UnicodeDecodeError) as error:
            return f"[this output cannot be read: {path}: {error}]"

    def remove(self, execution_id: str, stream: str) -> None:
        """Removes an output, if it is there.

        Raises:
            OSError: it could not be removed.
        """
        self.path(execution_id, stream).unlink(missing_ok=True)

    def remove_half_written(self, execution_id: str, stream: str) -> None:
        """Removes an output, and what a crash may have left while it was written.

        Raises:
            OSError: something could not be removed.
        """
        path = self.path(execution_id, stream)
        for found in (path, *path.parent.glob(f"{path.name}.new-*")):
            found.unlink(missing_ok=True)

    def _make(self, directory: Path) -> None:
        for path in (self._directory, directory):
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                continue
            if self._durable:
                _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
