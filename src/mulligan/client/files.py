"""Files of VMs, from a client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from mulligan.client.backends import Backend
from mulligan.errors import FileBroken, FileError, FileTooLarge
from mulligan.models import FileChange, FileInfo, FileList, MakeDirectoryRequest, MoveFileRequest

MOST_IN_MEMORY = 256 * 1024 * 1024
CHUNK = 1024 * 1024
LISTED = 1000
Progress = Callable[[int, int | None], None]


class Files:
    """The part of a client that has to do with files.

    Paths are absolute in the VM, or relative to its workspace; links are followed there and lead
    nowhere else. With ``escaped`` a path is written as ``FileInfo`` writes those that are no
    UTF-8. Every method raises ``VmNotAvailable`` where there is no such VM, and ``FileError`` or
    one of its subclasses where it cannot be done.
    """

    _backend: Backend

    async def list_files(
        self, vm_id: str, path: str = ".", *, limit: int = LISTED, escaped: bool = False
    ) -> FileList:
        """What is in a directory, by name; of more than ``limit`` names some.

        Raises:
            FileMissing, FileConflict: there is no such directory.
        """
        return await self._backend.files.list(vm_id, path, limit=limit, escaped=escaped)

    async def stat_file(self, vm_id: str, path: str, *, escaped: bool = False) -> FileInfo:
        """What a name is; a link is not followed.

        Raises:
            FileMissing: there is none.
        """
        return await self._backend.files.stat(vm_id, path, escaped=escaped)

    async def read_file(
        self,
        vm_id: str,
        path: str,
        offset: int = 0,
        length: int | None = None,
        *,
        escaped: bool = False,
    ) -> bytes:
        """What is in a file, or a part of it.

        Raises:
            FileMissing, FileConflict: there is no such regular file.
            FileTooLarge: it is over 256 MiB; ``download`` and ``stream_file`` take any size.
        """
        opened = self._backend.files.read(vm_id, path, offset, length, escaped=escaped)
        async with opened as (size, chunks):
            if size > MOST_IN_MEMORY:
                raise FileTooLarge(
                    f"{path[:200]} has {size} bytes to read, over {MOST_IN_MEMORY}",
                    field="length",
                    remedy="read it in parts with offset and length, or download it",
                )
            return b"".join([chunk async for chunk in _bounded(chunks, size)])

    async def stream_file(
        self,
        vm_id: str,
        path: str,
        offset: int = 0,
        length: int | None = None,
        *,
        escaped: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """``read_file`` piece by piece, of any size. Close the iterator where it is left early."""
        opened = self._backend.files.read(vm_id, path, offset, length, escaped=escaped)
        async with opened as (size, chunks):
            async for chunk in _bounded(chunks, size):
                yield chunk

    async def write_file(
        self,
        vm_id: str,
        path: str,
        data: bytes | str,
        *,
        mode: str | None = None,
        parents: bool = False,
        escaped: bool = False,
    ) -> FileInfo:
        """Writes a file whole, in one step: nobody sees a part of it.

        Args:
            vm_id: the VM.
            path: of the file.
            data: what will be in it; text becomes UTF-8.
            mode: permission bits in octal; None for those of the file that is there, else 0644.
            parents: whether directories above it are made.
            escaped: see the class.

        Raises:
            FileDiskFull, FileTooLarge: it is too large; nothing changed.
            FileMissing, FileConflict, FileForbidden: there can be no such file.
        """
        content = data.encode() if isinstance(data, str) else data
        return await self._backend.files.write(
            vm_id, path, _pieces(content), len(content), mode=mode, parents=parents, escaped=escaped
        )

    async def make_directory(
        self, vm_id: str, path: str, *, parents: bool = False, escaped: bool = False
    ) -> FileInfo:
        """Makes a directory; with ``parents`` those above it, and it may be there already.

        Raises:
            FileConflict: something is there.
        """
        request = MakeDirectoryRequest(path=path, parents=parents, escaped=escaped)
        return await self._backend.files.make_directory(vm_id, request)

    async def delete_file(
        self, vm_id: str, path: str, *, recursive: bool = False, escaped: bool = False
    ) -> FileChange:
        """Removes a file, a link or an empty directory; with ``recursive`` all that is in one.

        Raises:
            FileMissing, FileConflict: there is none, or it is not empty.
        """
        return await self._backend.files.delete(vm_id, path, recursive=recursive, escaped=escaped)

    async def move_file(
        self,
        vm_id: str,
        source: str,
        target: str,
        *,
        overwrite: bool = False,
        parents: bool = False,
        escaped: bool = False,
    ) -> FileInfo:
        """Gives a file or directory another path; ``target`` is the whole of it.

        Raises:
            FileMissing, FileConflict: there is none, or something is at ``target``.
        """
        request = MoveFileRequest(
            source=source, target=target, overwrite=overwrite, parents=parents, escaped=escaped
        )
        return await self._backend.files.move(vm_id, request)

    async def upload(
        self,
        vm_id: str,
        local: str | Path,
        path: str,
        *,
        mode: str | None = None,
        parents: bool = False,
        escaped: bool = False,
        progress: Progress | None = None,
    ) -> FileInfo:
        """Copies a file of this machine into a VM, of any size, in little memory.

        Args:
            vm_id: the VM.
            local: the file here.
            path: of the file there.
            mode: see ``write_file``.
            parents: see there.
            escaped: see the class.
            progress: called with the bytes sent so far, and how many there are, if that is known.

        Raises:
            FileError: ``local`` cannot be read; others as ``write_file``.
        """
        try:
            file = await asyncio.to_thread(Path(local).open, "rb")
        except OSError as error:
            raise local_error(error, local) from None
        try:
            status = os.fstat(file.fileno())
            size = status.st_size if stat.S_ISREG(status.st_mode) else None
            content = read_local(file, size, progress, local)
            return await self._backend.files.write(
                vm_id, path, content, size, mode=mode, parents=parents, escaped=escaped
            )
        finally:
            file.close()

    async def download(
        self,
        vm_id: str,
        path: str,
        local: str | Path,
        *,
        escaped: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Copies a file of a VM to this machine, of any size, in little memory.

        What is at ``local`` is replaced when all of it is here, and not touched before.

        Returns:
            How many bytes it has.

        Raises:
            FileError: ``local`` cannot be written; others as ``read_file``.
        """
        target = Path(local)
        part = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
        opened = self._backend.files.read(vm_id, path, 0, None, escaped=escaped)
        async with opened as (size, chunks):
            try:
                with part.open("xb") as file:
                    done = 0
                    async for chunk in _bounded(chunks, size):
                        await asyncio.to_thread(file.write, chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, size)
                part.replace(target)
            except OSError as error:
                raise local_error(error, local) from None
            finally:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
        return size


async def _bounded(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The bytes of a file, which are as many as were announced.

    Raises:
        FileBroken: they are not.
    """
    left = size
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise FileBroken("it has other than the announced number of bytes")


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


async def read_local(
    file: BinaryIO, size: int | None, progress: Progress | None, local: str | Path
) -> AsyncIterator[bytes]:
    sent = 0
    while size is None or sent < size:
        most = CHUNK if size is None else min(CHUNK, size - sent)
        try:
            chunk = await asyncio.to_thread(file.read, most)
        except OSError as error:
            raise local_error(error, local) from None
        if not chunk:
            if size is not None:
                raise FileError(f"{local} became shorter while it was sent", field="local")
            return
        sent += len(chunk)
        yield chunk
        if progress is not None:
            progress(sent, size)


def local_error(error: OSError, local: str | Path) -> FileError:
    return FileError(f"{local} on this machine: {error.strerror or error}", field="local")
