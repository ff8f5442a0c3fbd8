"""Paths in VMs: as they are asked for, as programs there have them, and what is said of them.

A path is bytes to the kernel and text to everybody else. A str may carry bytes that are no UTF-8 as
Python does (``surrogateescape``); JSON and terminals cannot, for them there is an escaped form.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from datetime import UTC, datetime, timedelta

from mulligan.errors import (
    FileBroken,
    FileConflict,
    FileDiskFull,
    FileError,
    FileForbidden,
    FileMissing,
)
from mulligan.guest import filework
from mulligan.images.host import WORKSPACE
from mulligan.models import FileInfo

MOST_PATH = 4096  # PATH_MAX of linux/limits.h, with its end
MOST_SHOWN = 200
MOST_NAME = 255  # NAME_MAX of linux/limits.h
_NO_NAMES = (b"", b".", b"..")
_ESCAPE = re.compile(r"\\(?:\\|x[89a-f][0-9a-f])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block_device",
    stat.S_IFCHR: "character_device",
}


def to_bytes(path: str, field: str = "path", *, escaped: bool = False) -> bytes:
    """A path for the kernel, absolute; where it begins otherwise it is one in the workspace.

    Args:
        path: as it was asked for.
        field: the field it came in.
        escaped: whether it is written as ``escape`` writes.

    Raises:
        FileError: it can be no path.
    """
    try:
        name = unescape(path) if escaped else path.encode("utf-8", "surrogateescape")
    except ValueError:
        raise FileError(
            f"{field} has what cannot be in a name", field=field, remedy="send it as UTF-8"
        ) from None
    if not name:
        raise FileError(f"{field} is empty", field=field, remedy="name a file or directory")
    if b"\0" in name:
        raise FileError(f"{field} has a NUL character", field=field, remedy="leave it out")
    if not name.startswith(b"/"):
        name = f"{WORKSPACE}/".encode() + name
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    name = b"/" + b"/".join(parts) + (b"/" if parts and name.endswith((b"/", b"/.")) else b"")
    if len(name) >= MOST_PATH:
        raise FileError(
            f"{field} is {len(name)} bytes long",
            field=field,
            remedy=f"the kernel takes paths of fewer than {MOST_PATH}",
        )
    return name


def escape(name: bytes) -> str:
    r"""A name as text anybody can read back: ``\xff`` for a byte that is no UTF-8, ``\\``."""
    return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def unescape(text: str) -> bytes:
    """What ``escape`` made the text of.

    Raises:
        ValueError: it made no such text.
    """
    if "\\" in _ESCAPE.sub("", text):
        raise ValueError("a backslash begins no escape")

    def byte(found: re.Match[str]) -> str:
        return "\\" if found[0] == "\\\\" else chr(0xDC00 + bytes.fromhex(found[0][2:])[0])

    return _ESCAPE.sub(byte, text).encode("utf-8", "surrogateescape")


def is_text(name: bytes) -> bool:
    """Whether a name is UTF-8."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def shown(path: bytes) -> str:
    """A path for an error: escaped where it must be, and not too long."""
    text = path.decode() if is_text(path) else escape(path)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def info(record: bytes, path: bytes, *, inside: bool = False) -> FileInfo:
    """A record of ``guest/filework.py`` as users see it.

    Args:
        record: as it came from the VM.
        path: of it or, with ``inside``, of the directory it is in.
        inside: see there.

    Raises:
        FileBroken: it is none.
    """
    try:
        mode, size, mtime, length = filework.NAME.unpack_from(record)
    except struct.error:
        raise FileBroken("the VM told of a file in no known form") from None
    name = record[filework.NAME.size : filework.NAME.size + length]
    target = record[filework.NAME.size + length :]
    if size > 2**63 - 1 or len(name) != length or len(target) > MOST_PATH or b"\0" in target:
        raise FileBroken("the VM told of a file that cannot be")
    if inside and (name in _NO_NAMES or len(name) > MOST_NAME or b"/" in name or b"\0" in name):
        raise FileBroken("the VM told of a file that cannot be")
    path = path.rstrip(b"/")
    if inside:
        path += b"/" + name
    else:
        name = path.rpartition(b"/")[2] or b"/"
    path = path or b"/"
    plain = all(map(is_text, (path, target)))
    text = bytes.decode if plain else escape
    return FileInfo(
        name=text(name),
        path=text(path),
        type=_TYPES.get(stat.S_IFMT(mode), "unknown"),
        size=size,
        mode=f"{stat.S_IMODE(mode):04o}",
        mtime=_time(mtime),
        target=text(target) if stat.S_ISLNK(mode) else None,
        escaped=not plain,
    )


def _time(nanoseconds: int) -> datetime:
    """A time, or the nearest there is a date for."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return _EPOCH


_OWN = {
    filework.REFUSED: "is no regular file but a {kind}",
    filework.IN_THE_WAY: "is there already",
    filework.IS_ROOT: "is the root of the VM and stays",
    filework.NOT_KEPT: "is gone with the program that can see it",
}
_FULL = {errno.EFBIG, errno.ENOSPC, errno.EDQUOT}
_REMEDIES = {
    errno.ENOENT: "list its directory to see what there is; writing with parents=true (--parents) "
    "makes directories that are missing",
    errno.EEXIST: "name another",
    errno.EISDIR: "name a file in it; files/list shows what is there",
    errno.ENOTDIR: "name a directory",
    **dict.fromkeys(_FULL, "remove files, or make a VM with a larger disk_mb"),
    errno.ENOTEMPTY: "with recursive=true it is removed with all that is in it",
    filework.REFUSED: "only regular files are read and written",
    filework.IN_THE_WAY: "with overwrite=true it is replaced",
    filework.IS_ROOT: "name something in it",
    filework.NOT_KEPT: "use a path in /workspace, or another that stays",
}
_CLASSES: dict[int, type[FileError]] = {
    errno.ENOENT: FileMissing,
    errno.EACCES: FileForbidden,
    errno.EPERM: FileForbidden,
    errno.EROFS: FileForbidden,
    **dict.fromkeys(_FULL, FileDiskFull),
    errno.ENAMETOOLONG: FileError,
    errno.EINVAL: FileError,
    errno.EIO: FileBroken,
    errno.ENOMEM: FileBroken,
    errno.EMFILE: FileBroken,
    errno.ENFILE: FileBroken,
}


def failure(number: int, text: str, path: bytes, field: str) -> FileError:
    """The error for what a VM says went wrong.

    Args:
        number: an error number of the kernel or of ``guest/filework.py``.
        text: what it says besides, without secrets.
        path: what it was about.
        field: the field that came in.
    """
    if number in _OWN:
        kind = _TYPES.get(int(text, 8), "unknown") if re.fullmatch(r"0o[0-7]{1,6}", text) else ""
        said = _OWN[number].format(kind=kind.replace("_", " "))
    elif number in _FULL:
        said = "the VM's disk is full, or the host's is; nothing of it was kept"
    elif number in errno.errorcode and number != errno.EIO:
        said = os.strerror(number).lower()
    else:
        said = text or "it could not be done"
    remedy = _REMEDIES.get(number)
    return _CLASSES.get(number, FileConflict)(f"{shown(path)}: {said}", field=field, remedy=remedy)
