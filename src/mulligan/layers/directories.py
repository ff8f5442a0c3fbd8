"""Directories VMs write to, made and removed by the host, and small files replaced as a whole."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from mulligan.errors import ConfigError

PASS_THROUGH = 0o711  # to enter, not to list


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


def remove_tree(path: Path) -> None:
    """Removes a tree of a VM, whatever its programs made of it; follows no link.

    Directories may be locked (no permissions) and nested deeper than paths and recursion reach:
    each is opened up, moved to the top and emptied there. Nothing else may write to the tree.

    Raises:
        OSError: something could not be removed; what was is gone.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return
    path.chmod(0o700)
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _empty(top, top)
        while names := os.listdir(top):  # noqa: PTH208  (a descriptor, no path)
            for name in names:
                directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    _empty(directory, top)
                finally:
                    os.close(directory)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _empty(directory: int, top: int) -> None:
    """Unlinks the files of a directory and moves its directories up, opened, under new names."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        os.chmod(name, 0o700, dir_fd=directory)
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
