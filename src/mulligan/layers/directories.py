"""Directories VMs write to, made and removed by the host, and small files replaced as a whole."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mulligan.errors import ConfigError

PASS_THROUGH = 0o711  # to enter, not to list
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_directory(path: Path) -> None:
    """Makes a directory that others may pass through but not list.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) != PASS_THROUGH:
            path.chmod(PASS_THROUGH)
    except OSError as error:
        raise not_writable(path, error.strerror) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise not_writable(path, "no permission")


def not_writable(path: Path, why: str | None) -> ConfigError:
    """The error for a data directory that takes nothing."""
    return ConfigError(
        f"data directory {path} is not writable: {why}",
        field="data_dir",
        remedy="choose another with --data-dir or MULLIGAN_DATA_DIR, or give this user the right",
    )


@contextmanager
def inside(directory: Path | int, *names: str) -> Iterator[int]:
    """Goes down from a directory of the host's own into what a VM may write to; follows no link.

    A VM whose agent was taken over can have anything in the place of a directory there, at any
    moment. By paths, which follow links, the host would change what the VM cannot reach.

    Args:
        directory: where to begin, or a descriptor of it.
        names: what is in it, in that, and so on.

    Yields:
        A descriptor of the last directory (O_PATH), as ``dir_fd`` of calls or for ``itself``.

    Raises:
        OSError: one is missing, or something else: NotADirectoryError where it is a link.
    """
    descriptor = os.dup(directory) if isinstance(directory, int) else os.open(directory, _PLACE)
    try:
        for name in names:
            below = os.open(name, _PLACE, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def itself(descriptor: int) -> str:
    """A path that leads to an open directory and nowhere else, for calls that take no O_PATH."""
    return f"/proc/self/fd/{descriptor}"


def remove_tree(path: Path | str, directory: int | None = None) -> None:
    """Removes a tree of a VM, whatever its programs made of it; follows no link.

    Directories may be locked (no permissions) and nested deeper than paths and recursion reach:
    each is opened up, moved to the top and emptied there. Nothing else may write to the tree; where
    something does, nothing outside of it is touched.

    Args:
        path: the tree.
        directory: descriptor of the directory ``path`` is relative to.

    Raises:
        OSError: something could not be removed; what was is gone.
    """
    if not stat.S_ISDIR(os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode):
        os.unlink(path, dir_fd=directory)
        return
    top = _unlocked(path, directory)
    try:
        _empty(top, top)
        while names := os.listdir(top):  # noqa: PTH208  (a descriptor, no path)
            for name in names:
                below = os.open(name, _LISTED, dir_fd=top)
                try:
                    _empty(below, top)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path, dir_fd=directory)


def _unlocked(path: Path | str, directory: int | None) -> int:
    """A descriptor of a directory, no link, that this user may do anything to from now on."""
    place = os.open(path, _PLACE, dir_fd=directory)
    try:
        os.chmod(itself(place), 0o700)  # noqa: PTH101  (chmod(2) of a name follows links)
        return os.open(".", _LISTED, dir_fd=place)
    finally:
        os.close(place)


def _empty(directory: int, top: int) -> None:
    """Unlinks the files of a directory and moves its directories up, opened, under new names."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        os.close(_unlocked(name, directory))
        new = f".lifted-{secrets.token_hex(8)}"
        os.rename(name, new, src_dir_fd=directory, dst_dir_fd=top)


def replace_file(path: Path, text: str, *, durable: bool) -> None:
    """Writes a file so that readers, and a crash, find the old text or the new one.

    Args:
        path: the file.
        text: what it says from now on.
        durable: whether it also outlives a power cut.
    """
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with staging.open("w") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        staging.replace(path)
        if durable:
            sync_directory(path.parent)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Has the names in a directory outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
