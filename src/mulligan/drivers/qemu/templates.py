"""Templates of microVMs: booted once, kept with a warm zygote, copied for each VM.

::

    <data_dir>/images/template-<shape>.json          what it was made with, and where it is
    <data_dir>/images/template-<shape>-<n>/memory    of the machine, with holes
    <data_dir>/images/template-<shape>-<n>/devices   the rest of it, as QEMU migrates it
    <data_dir>/images/template-<shape>-<n>/initrd    its first file system

QEMU leaves out memory that others share (``x-ignore-shared``), which is copied here: what shows a
VM its files looks into its memory, so no two VMs can have the same pages.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from mulligan.drivers.qemu import changes
from mulligan.drivers.qemu.changes import PAGE
from mulligan.errors import ConfigError

FORMAT = 1
MAKE = "mulligan microvm template"
PREFIX = "template-"
MEMORY, CHANGES, DEVICES, INITRD = "memory", "changes", "devices", "initrd"
MIB = 1024 * 1024
PROCESSOR = ("model name", "flags")
KEEP_SIZE, PUNCH_HOLE = 0x01, 0x02  # linux/falloc.h

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Stamp(BaseModel):
    """What a template was made with; a copy goes on with the very same, or not at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: StrictInt
    qemu: StrictStr
    kernel: StrictStr
    image: StrictStr
    processor: StrictStr
    machine: StrictStr
    tsc_khz: StrictInt | None

    def differences(self, now: Stamp) -> list[str]:
        """The names of what is another now; the counter's pace is a measurement, and goes on."""
        names = [name for name in Stamp.model_fields if name != "tsc_khz"]
        return [name for name in names if getattr(self, name) != getattr(now, name)]


class Pointer(BaseModel):
    """The template of a shape: its stamp, and its directory beside this file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: StrictStr = Field(pattern=r"^template-[A-Za-z0-9_-]+$")
    stamp: Stamp


@dataclass(frozen=True)
class Saved:
    """A machine that was saved."""

    directory: Path

    @property
    def devices(self) -> Path:
        """What QEMU said of its devices."""
        return self.directory / DEVICES

    def fill(self, memory: int) -> None:
        """Copies its memory into some that is new.

        Args:
            memory: see ``memory_of``.

        Raises:
            OSError: there is no room for it, or it is of another size.
        """
        with (self.directory / MEMORY).open("rb") as file:
            _copy(file.fileno(), memory, os.fstat(memory).st_size)
        if (self.directory / CHANGES).exists():
            changes.apply(self.directory / CHANGES, memory)


@dataclass(frozen=True)
class Template(Saved):
    """One that was found whole."""

    stamp: Stamp

    @property
    def initrd(self) -> Path:
        """What it was booted from; copies name it, and never read it."""
        return self.directory / INITRD


@contextmanager
def memory_of(size_mb: int) -> Iterator[int]:
    """A descriptor of empty memory, of that size in MiB."""
    made = os.memfd_create("microvm", os.MFD_CLOEXEC)
    try:
        os.ftruncate(made, size_mb * MIB)
        yield made
    finally:
        os.close(made)


def _copy(source: int, target: int, size: int) -> None:
    """Copies what is not a hole."""
    if os.fstat(source).st_size != size:
        raise OSError(errno.EINVAL, "the memory that was kept is of another size")
    for start, end in changes.filled(source, size):
        os.lseek(target, start, os.SEEK_SET)
        at = start
        while at < end:
            sent = os.sendfile(target, source, at, end - at)
            if sent == 0:
                raise OSError(errno.EIO, "the memory that was kept ended early")
            at += sent


def digest(*parts: object) -> str:
    """A name of some values that changes with any of them."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def processor() -> str:
    """What programs of an emulated machine may have found of this host's processor."""
    with Path("/proc/cpuinfo").open() as file:
        found: dict[str, str] = {}
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in PROCESSOR:
                found.setdefault(name.strip(), value.strip())
    return digest(found)


def find(images: Path, shape: str, now: Stamp) -> Template | None:
    """The template of a shape; None where there is none.

    Raises:
        ConfigError: it was made with something else, or is damaged; the text says what.
    """
    place = images / f"{PREFIX}{shape}.json"
    try:
        pointer = Pointer.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"the template {place} cannot be read: {why}", remedy=MAKE) from None
    directory = images / pointer.directory
    if not all((directory / name).is_file() for name in (MEMORY, DEVICES, INITRD)):
        raise ConfigError(f"the template {directory} is damaged", remedy=MAKE)
    if others := pointer.stamp.differences(now):
        raise ConfigError(
            f"the template {directory} was made with another {', '.join(others)}", remedy=MAKE
        )
    return Template(directory, pointer.stamp)


def staging(images: Path, shape: str) -> Path:
    """The directory of a template to be."""
    made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{shape}-", dir=images))
    made.chmod(0o711)
    return made


def keep(staged: Path, shape: str, stamp: Stamp, memory: int) -> Template:
    """Has a template be the one of its shape; the ones no VM could be a copy of any more go.

    Args:
        staged: see ``staging``; ``devices`` and ``initrd`` are there already.
        shape: of the VMs it is for.
        stamp: what it was made with.
        memory: descriptor of its machine's memory.
    """
    store(memory, staged / MEMORY)
    images = staged.parent
    pointer = images / f".{PREFIX}{shape}.new"
    pointer.write_text(Pointer(directory=staged.name, stamp=stamp).model_dump_json(indent=2))
    os.sync()  # once, for files of megabytes that others are to trust
    pointer.replace(images / f"{PREFIX}{shape}.json")
    _remove_others(images, shape, staged, stamp)
    return Template(staged, stamp)


def _remove_others(images: Path, shape: str, kept: Path, stamp: Stamp) -> None:
    """Removes templates nobody copies any more: of this shape, or made with another QEMU or
    kernel. VMs have read what they need of theirs when they are up."""
    for place in images.glob(f"{PREFIX}*.json"):
        try:
            pointer = Pointer.model_validate_json(place.read_bytes())
        except (OSError, ValidationError):
            continue  # another's to be told of, and made anew
        old = images / pointer.directory
        if (pointer.stamp.qemu, pointer.stamp.kernel) != (stamp.qemu, stamp.kernel):
            place.unlink()
            shutil.rmtree(old, ignore_errors=True)
    for path in images.glob(f"{PREFIX}{shape}-*"):
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)


def store(memory: int, path: Path) -> None:
    """Writes memory down, pages of zeros as holes. They are holes of the memory from then on, too.

    Args:
        memory: its descriptor; nothing writes to it meanwhile.
        path: of a file to be.

    Raises:
        OSError: there is no room for it; part of it may be there.
    """
    size = os.fstat(memory).st_size
    empty = bytes(PAGE)
    chunk = bytearray(changes.CHUNK)
    view = memoryview(chunk)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(target, size)
        for start, end in list(changes.filled(memory, size)):
            for place in range(start, end, len(chunk)):
                length = min(len(chunk), end - place)
                changes.read_at(memory, view[:length], place)
                at = 0
                while at < length:
                    until = at
                    is_empty = chunk[at : at + PAGE] == empty
                    while until < length and (chunk[until : until + PAGE] == empty) is is_empty:
                        until += PAGE
                    if is_empty:
                        _give_back(memory, place + at, min(until, length) - at)
                    else:
                        os.pwrite(target, view[at : min(until, length)], place + at)
                    at = until
    finally:
        os.close(target)


def _give_back(memory: int, start: int, length: int) -> None:
    """Has pages be a hole, which reads as zeros and takes no memory (fallocate(2))."""
    if _fallocate(memory, KEEP_SIZE | PUNCH_HOLE, start, length):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
