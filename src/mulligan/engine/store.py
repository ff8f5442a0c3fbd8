"""VMs on disk: one directory each, whole or not at all.

::

    <data_dir>/lock              held by the process that serves this directory
    <data_dir>/vms/<id>/vm.json  the record, the server's
    <data_dir>/vms/<id>/disk/    the VM's own, shown to its agent alone
        upper/  work/            what its programs wrote, and overlayfs' scratch
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError

from mulligan.errors import ConfigError
from mulligan.models import UtcTime

PASS_THROUGH = 0o711  # to enter, not to list
NEW = ".new-"
GONE = ".gone-"


class VmRecord(BaseModel):
    """What is kept of a VM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: StrictStr
    name: StrictStr
    agent_id: StrictStr
    vm_type: StrictStr
    driver: StrictStr
    created_at: UtcTime


def new_id(prefix: str) -> str:
    """An id nobody can guess, such as ``vm-3f9c…``."""
    return f"{prefix}-{secrets.token_hex(8)}"


class VmStore:
    """The directory of VMs.

    Args:
        directory: made if it is missing.
        owner: uid and gid VMs' programs have on the host.
    """

    def __init__(self, directory: Path, owner: tuple[int, int]) -> None:
        self._directory = directory
        self._owner = owner
        make_directory(directory)

    def load(self) -> tuple[list[VmRecord], list[str]]:
        """All VMs, oldest first, and a line for each directory that could not be read.

        Also finishes what was interrupted: half-made VMs and half-deleted ones are removed.
        """
        records, complaints = [], []
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith((NEW, GONE)):
                try:
                    remove_tree(path)
                except OSError as error:
                    complaints.append(f"{path} is left over and cannot be removed: {error}")
                continue
            try:
                records.append(VmRecord.model_validate_json((path / "vm.json").read_bytes()))
            except (OSError, ValidationError) as error:
                reason = str(error).splitlines()[0]
                complaints.append(f"{path} is no readable VM and was left alone: {reason}")
        return sorted(records, key=lambda record: record.created_at), complaints

    def create(self, record: VmRecord) -> None:
        """Makes a VM's directory."""
        staging = self._directory / f"{NEW}{record.id}"
        try:
            make_directory(staging)
            disk = staging / "disk"
            for path in (disk, disk / "upper", disk / "work"):
                path.mkdir(mode=0o700)
                self._give(path)
            # The root directory of the VM's programs takes its mode from here.
            (disk / "upper").chmod(0o755)
            (staging / "vm.json").write_text(record.model_dump_json(indent=2))
            staging.rename(self._directory / record.id)
        except BaseException:
            if staging.exists():
                remove_tree(staging)
            raise

    def disk(self, vm_id: str) -> Path:
        """The directory a VM sees as /vm."""
        return self._directory / vm_id / "disk"

    def delete(self, vm_id: str) -> None:
        """Removes a VM and everything it wrote; it is gone for good once this has begun."""
        gone = self._directory / f"{GONE}{vm_id}"
        (self._directory / vm_id).rename(gone)
        remove_tree(gone)

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, *self._owner)


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
