"""Images of VMs, as they are shown and asked for."""

from __future__ import annotations

from pydantic import Field, StrictStr

from mulligan.models.base import U64, Request, Struct, UtcTime
from mulligan.models.execution import ErrorAnswer


class ImageProgram(Struct):
    """An interpreter or compiler of an image: its path there, and what it says its version is."""

    path: StrictStr = Field(pattern=r"^/")
    version: StrictStr


class Image(Struct):
    """An image beside the host's own.

    ``kind`` is "tar", "docker" or "oci", ``source`` what it was made of, in words; ``digest`` is of
    all that is in it. ``programs`` are by language; ``entries`` and ``bytes`` how much is in it,
    and what that takes on the disk; ``left_out`` what of the archive no image has, by kind. ``vms``
    are ids of VMs that are of it, ``vm_types`` the types that name it.
    """

    name: StrictStr
    digest: StrictStr
    kind: StrictStr
    source: StrictStr
    created_at: UtcTime
    programs: dict[StrictStr, ImageProgram]
    search: list[StrictStr] = Field(default_factory=list)
    env: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    shell: StrictStr = ""
    machine: StrictStr = ""
    entries: U64
    bytes: U64
    left_out: dict[StrictStr, U64] = Field(default_factory=dict)
    vms: list[StrictStr] = Field(default_factory=list)
    vm_types: list[StrictStr] = Field(default_factory=list)


class ImageBuildRequest(Request):
    """Have an image made of Debian packages: a release, and packages beside the essential ones."""

    name: StrictStr
    debian: StrictStr = "bookworm"
    packages: list[StrictStr] = Field(default_factory=list)


class ImageJob(Struct):
    """An image that is being made, or was.

    ``kind`` is "build" or "import", ``state`` one of "running", "done", "failed" and "cancelled".
    ``said`` is how many lines it has said of what it is at, and ``lines`` are those after the ones
    that were seen, as far as they are kept. ``image`` is there when it is done, ``error`` when it
    failed.
    """

    id: StrictStr
    name: StrictStr
    kind: StrictStr
    source: StrictStr
    state: StrictStr
    started_at: UtcTime
    ended_at: UtcTime | None = None
    said: U64 = 0
    lines: list[StrictStr] = Field(default_factory=list)
    image: Image | None = None
    error: ErrorAnswer | None = None
