"""Files of a VM, as they are listed and told of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictBool, StrictStr

from mulligan.models.base import U64, Request, Struct, UtcTime

FileType = Literal[
    "file", "directory", "symlink", "fifo", "socket", "block_device", "character_device", "unknown"
]


class FileInfo(Struct):
    r"""One name in a VM.

    Attributes:
        name: its last part; "/" for the root.
        path: absolute in the VM, as it was asked for: links in it are not resolved.
        escaped: whether ``name``, ``path`` and ``target`` are written with escapes, because one of
            them is no UTF-8: a byte that is none is ``\xff``, a backslash ``\\``. Ask for the file
            with ``escaped`` set to use such a path.
        size: in bytes; of a link, of the text of its target.
        mode: permission bits in octal, such as "0644".
        target: of a link, its text; nothing says that there is such a file.
        snapshot_before: of an answer to a change, the snapshot a rollback takes the VM to in order
            to undo this and the changes through these calls right before it; None where none was
            kept.
    """

    name: StrictStr
    path: StrictStr
    type: FileType
    size: U64
    mode: StrictStr
    mtime: UtcTime
    target: StrictStr | None = None
    escaped: StrictBool = False
    snapshot_before: StrictStr | None = None


class FileList(Struct):
    """What is in a directory, by name. ``truncated``: there is more than was to be listed."""

    path: StrictStr
    entries: list[FileInfo]
    truncated: StrictBool = False


class MakeDirectoryRequest(Request):
    """A directory to be made; with ``parents`` those above it, too, and it may be there already."""

    path: StrictStr
    parents: StrictBool = False
    escaped: StrictBool = False


class MoveFileRequest(Request):
    """Something to be called otherwise: ``target`` is its whole new path."""

    source: StrictStr
    target: StrictStr
    overwrite: StrictBool = False
    parents: StrictBool = False
    escaped: StrictBool = False


class FileChange(Struct):
    """What was changed; see ``FileInfo.snapshot_before``."""

    path: StrictStr
    snapshot_before: StrictStr | None = Field(default=None)
