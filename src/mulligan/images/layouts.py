"""OCI image layouts that are directories, as an archive: the files that count, and no others.

Format: the OCI image layout (image-spec, image-layout.md); the archive is a tar (POSIX.1-2001,
pax), made as it is read, so that nothing is written for it. No link is followed below the
directory.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from mulligan.errors import ValidationFailed

FIRST = ("oci-layout", "index.json")
BLOBS = "blobs"
MOST_FILES = 10_000  # more are in no layout that is taken in
BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)
CHUNK = 1024 * 1024
_DIGESTS = {"sha256": re.compile("[0-9a-f]{64}"), "sha512": re.compile("[0-9a-f]{128}")}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Layout:
    """The files of a layout. Use as a context manager.

    Args:
        directory: of the layout.

    Attributes:
        files: their sizes, by their names in it.

    Raises:
        ValidationFailed: it is none.
        OSError: it cannot be read; a link in a file's place among others.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._exit = ExitStack()
        self._places: dict[str, int] = {}
        self.files: dict[str, int] = {}
        try:
            self._look()
        except BaseException:
            self._exit.close()
            raise

    def __enter__(self) -> Layout:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _look(self) -> None:
        top = self._opened(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self._places[""] = top
        for name in FIRST:
            self._add("", name)
        try:
            blobs = self._opened(os.open(BLOBS, _DIRECTORY, dir_fd=top))
        except FileNotFoundError:
            raise self._none(BLOBS) from None
        for algorithm, pattern in _DIGESTS.items():
            try:
                place = self._opened(os.open(algorithm, _DIRECTORY, dir_fd=blobs))
            except FileNotFoundError:
                continue
            above = f"{BLOBS}/{algorithm}/"
            self._places[above] = place
            with os.scandir(place) as entries:
                for entry in entries:
                    if pattern.fullmatch(entry.name):
                        self._add(above, entry.name)

    def _opened(self, descriptor: int) -> int:
        self._exit.callback(os.close, descriptor)
        return descriptor

    def _add(self, above: str, name: str) -> None:
        if len(self.files) >= MOST_FILES:
            raise ValidationFailed(f"{self._directory} has over {MOST_FILES} blobs", field="file")
        with self.open(above + name) as file:
            self.files[above + name] = os.fstat(file.fileno()).st_size

    def open(self, name: str) -> BinaryIO:
        """One of its files.

        Raises:
            ValidationFailed: it is not there, or is no file.
            OSError: it cannot be opened, or is a link.
        """
        above, _, last = name.rpartition("/")
        place = self._places[f"{above}/" if above else ""]
        try:
            file = os.fdopen(os.open(last, _FILE, dir_fd=place), "rb", buffering=0)
        except FileNotFoundError:
            raise self._none(name) from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise ValidationFailed(f"{self._directory / name} is no file", field="file")
        return file

    def _none(self, name: str) -> ValidationFailed:
        return ValidationFailed(
            f"{self._directory} is no OCI layout: it has no {name}",
            field="file",
            remedy="give a directory that has; of a root file system make a tar: "
            "tar -C DIRECTORY -cf FILE .",
        )

    @property
    def size(self) -> int:
        """How many bytes ``tar`` gives."""
        every = self.files.items()
        return sum(len(_header(*each)) + each[1] + _padding(each[1]) for each in every) + len(END)

    def tar(self) -> Iterator[bytes]:
        """The archive, in pieces.

        Raises:
            ValidationFailed: a file is not what it was any more.
            OSError: one cannot be read.
        """
        for name, size in sorted(self.files.items(), key=lambda each: each[0] not in FIRST):
            yield _header(name, size)
            with self.open(name) as file:
                left = size
                while left:
                    piece = file.read(min(CHUNK, left))
                    if not piece:
                        raise ValidationFailed(
                            f"{self._directory / name} became shorter while it was read",
                            field="file",
                        )
                    left -= len(piece)
                    yield piece
            yield b"\0" * _padding(size)
        yield END


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> int:
    return -size % BLOCK
