"""One process at a time serves a data directory, and says where it can be reached."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mulligan.errors import ConfigError
from mulligan.layers.directories import make_directory, not_writable

POLL_S = 0.05
LOOKS = 5
LOOK_S = 0.01


@dataclass(frozen=True)
class Holder:
    """The process that has the lock.

    Attributes:
        pid: its number.
        url: where it serves, or None where it does not.
    """

    pid: int
    url: str | None


class InUse(ConfigError):  # noqa: N818  (like its siblings)
    """Another process has the data directory."""


class DirectoryLock:
    """An exclusive lock on a data directory, released by ``release`` or by the process's end."""

    def __init__(self, directory: Path, url: str | None = None) -> None:
        """Takes the lock.

        Args:
            directory: made if it is missing.
            url: where this process will serve, told to others who ask.

        Raises:
            InUse: another process has it; the text names it.
            ConfigError: the directory cannot be made.
        """
        make_directory(directory)
        path = directory / "lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise not_writable(directory, error.strerror) from None
        if not self._try():
            os.close(self._descriptor)
            other = holder(directory)
            who = f"process {other.pid}" if other else "another process"
            serving = f" (serving {other.url})" if other and other.url else ""
            raise InUse(
                f"data directory {directory} is in use by {who}{serving}",
                field="data_dir",
                remedy="stop it, use it over HTTP (--server; in Python server=), or choose another "
                "data directory (--data-dir, MULLIGAN_DATA_DIR)",
            )
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)

    def _try(self) -> bool:
        """Takes the lock, if nobody holds it for longer than a look at who does takes."""
        for _ in range(LOOKS):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(LOOK_S)
        return False

    def release(self) -> None:
        """Lets others have the directory. May be repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


async def take(
    directory: Path, wait_s: float, on_wait: Callable[[Holder | None], None]
) -> DirectoryLock:
    """Takes the lock, waiting for a process that has it but does not serve.

    Args:
        directory: the data directory.
        wait_s: for how long at the most, in seconds.
        on_wait: called once if it has to wait.

    Raises:
        InUse: it is still held, or held by a server.
        ConfigError: the directory cannot be made.
    """
    deadline = time.monotonic() + wait_s
    told = False
    while True:
        try:
            return DirectoryLock(directory)
        except InUse:
            other = holder(directory)
            if (other and other.url) or time.monotonic() > deadline:
                raise
            if not told:
                on_wait(other)
                told = True
            await asyncio.sleep(POLL_S)


def holder(directory: Path) -> Holder | None:
    """Who has the lock of a directory, as far as can be told."""
    try:
        path = directory / "lock"
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = json.load(file)
                return Holder(int(said["pid"]), said["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None
