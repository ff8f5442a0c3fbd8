"""Files of VMs that are read and written piece by piece, with no more than a window under way."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator

from mulligan.engine.files import names as filenames
from mulligan.engine.files.transfers import WINDOW, Transfer
from mulligan.errors import FileBroken, FileError, FileTooLarge
from mulligan.guest import filework
from mulligan.models import FileInfo

CHUNK = filework.MOST


async def expect(
    transfer: Transfer, wanted: int, path: bytes, field: str = "path", source: bytes | None = None
) -> bytes:
    """The payload of the one message that can come now.

    Args:
        transfer: the conversation.
        wanted: its kind.
        path: what the work is about.
        field: the field that came in.
        source: with a move, where from.

    Raises:
        FileError: it failed.
    """
    kind, payload = await transfer.receive()
    if kind != wanted:
        raise failure(transfer, kind, payload, path, field, source)
    return payload


def failure(
    transfer: Transfer,
    kind: int,
    payload: bytes,
    path: bytes,
    field: str = "path",
    source: bytes | None = None,
) -> FileError:
    """The error for a message that is not the one that was waited for. See ``expect``."""
    if kind != filework.FAIL or len(payload) < filework.ERROR.size:
        return FileBroken("the VM answered something else than it was asked")
    (number,) = filework.ERROR.unpack_from(payload)
    text = transfer.clean(payload[filework.ERROR.size :].decode(errors="replace"))
    if source is not None and number not in (filework.IN_THE_WAY, errno.ENOTEMPTY):
        path, field = source, "source"
    return filenames.failure(number, text, path, field)


class FileReader:
    """A file that was opened for reading.

    Attributes:
        info: of what the path leads to.
        name: the path.
    """

    def __init__(self, transfer: Transfer, name: bytes, info: FileInfo) -> None:
        self.info = info
        self.name = name
        self._transfer = transfer

    def length_of(self, offset: int, length: int | None) -> int:
        """How many bytes there are to read.

        Raises:
            FileError: ``offset`` or ``length`` is below 0.
        """
        for name, value in (("offset", offset), ("length", length)):
            if value is not None and value < 0:
                raise FileError(f"{name} must not be below 0", field=name)
        left = max(0, self.info.size - offset)
        return left if length is None else min(left, length)

    async def read(self, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of the file, or a part of it. Once only.

        Raises:
            FileBroken: the file became shorter meanwhile, or the VM ended or was taken back.
        """
        left = self.length_of(offset, length)
        if not left:
            return
        transfer = self._transfer
        await transfer.send(filework.GO, filework.RANGE.pack(offset, left))
        granted = given = 0
        while left:
            if granted - given <= WINDOW // 2:
                granted = given + WINDOW
                await transfer.send(filework.CREDIT, filework.NUMBER.pack(granted))
            data = await expect(transfer, filework.DATA, self.name)
            if not 0 < len(data) <= left:
                raise FileBroken("the VM sent what it was not asked for")
            left -= len(data)
            given += len(data)
            yield data
        await expect(transfer, filework.DONE, self.name)
        await transfer.over()


class FileWriter:
    """A file that is being written.

    Args:
        transfer: the conversation.
        name: the path.
        most: how large it may be, in bytes.
        kept: the snapshot of the VM before.

    Attributes:
        committed: what it became, since ``commit``.
    """

    def __init__(self, transfer: Transfer, name: bytes, most: int, kept: str | None) -> None:
        self.committed: FileInfo | None = None
        self._transfer = transfer
        self._name = name
        self._most = most
        self._kept = kept
        self._sent = 0
        self._taken = 0

    async def begin(self) -> None:
        """Waits until there is a file to write to.

        Raises:
            FileError: there can be none.
        """
        self._note(*await self._transfer.receive())

    async def write(self, data: bytes) -> None:
        """Adds to the file, no faster than the VM writes it.

        Raises:
            FileTooLarge: it would be over ``max_file_bytes``.
            FileDiskFull: the VM's disk takes no more.
            FileBroken: the VM ended or was taken back.
        """
        if self._sent + len(data) > self._most:
            raise FileTooLarge(
                f"the file is over {self._most} bytes; nothing of it was kept",
                field="body",
                remedy="send less, or raise files.max_file_bytes (MULLIGAN_FILES__MAX_FILE_BYTES)",
            )
        for start in range(0, len(data), CHUNK):
            while (message := self._transfer.heard()) is not None:
                self._note(*message)
            while self._sent - self._taken >= WINDOW:
                self._note(*await self._transfer.receive())
            chunk = data[start : start + CHUNK]
            self._sent += len(chunk)
            await self._transfer.send(filework.DATA, chunk)

    async def commit(self) -> FileInfo:
        """Puts the file in its place, in one step.

        Raises:
            FileError: as ``write``; nothing changed.
        """
        await self._transfer.send(filework.END, filework.NUMBER.pack(self._sent))
        while True:
            kind, payload = await self._transfer.receive()
            if kind == filework.RECORD:
                break
            self._note(kind, payload)
        await self._transfer.over()
        found = filenames.info(payload, self._name)
        self.committed = found.model_copy(update={"snapshot_before": self._kept})
        return self.committed

    def _note(self, kind: int, payload: bytes) -> None:
        """Takes how much was written."""
        if kind != filework.TAKEN or len(payload) != filework.NUMBER.size:
            raise failure(self._transfer, kind, payload, self._name)
        (taken,) = filework.NUMBER.unpack(payload)
        if not self._taken <= taken <= self._sent:
            raise FileBroken("the VM took what it was not sent")
        self._taken = taken
