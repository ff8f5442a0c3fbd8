"""Archives of Debian packages, for images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from mulligan.engine.images.importing import Importer
from mulligan.images import debian


def described(suite: str, packages: list[str]) -> str:
    """What an image is made of, in words."""
    return f"Debian {suite}" + (f" with {', '.join(packages)}" if packages else "")


def built(
    importer: Importer,
    name: str,
    suite: str,
    packages: list[str],
    mode: str,
    progress: Callable[[str], None],
    *,
    timeout_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> Path:
    """An archive of Debian packages; the log of it is kept, whatever becomes of it.

    Args:
        importer: whose turn it is.
        name: the image's, and the log's.
        suite, packages, mode, progress, timeout_s, stopped: see ``debian.build``.

    Raises:
        ConfigError, ExecutionFailed: see ``debian.build``.
    """
    directory = importer.directory()
    kept = log_of(importer, name)
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        return debian.build(
            suite, packages, mode, directory, progress, timeout_s=timeout_s, stopped=stopped
        )
    finally:
        with contextlib.suppress(FileNotFoundError):  # it did not come so far
            (directory / "build.log").replace(kept)


def log_of(importer: Importer, name: str) -> Path:
    """Where the log of a build is kept."""
    return importer.store.directory / "logs" / f"{name}.log"
