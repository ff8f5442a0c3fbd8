"""Files of a VM that is an object."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from mulligan.client.client import VmExecutionClient
from mulligan.client.files import LISTED, Progress
from mulligan.models import FileChange, FileInfo, FileList


class VmFiles:
    """The part of ``AsyncVm`` that has to do with files; see ``mulligan.client.files.Files``."""

    _client: VmExecutionClient

    async def _vm_id(self) -> str:
        raise NotImplementedError

    async def list_files(
        self, path: str = ".", *, limit: int = LISTED, escaped: bool = False
    ) -> FileList:
        """What is in a directory, by name; of more than ``limit`` names some.

        Raises:
            FileMissing, FileConflict: there is no such directory.
        """
        vm_id = await self._vm_id()
        return await self._client.list_files(vm_id, path, limit=limit, escaped=escaped)

    async def stat_file(self, path: str, *, escaped: bool = False) -> FileInfo:
        """What a name is; a link is not followed.

        Raises:
            FileMissing: there is none.
        """
        return await self._client.stat_file(await self._vm_id(), path, escaped=escaped)

    async def read_file(
        self, path: str, offset: int = 0, length: int | None = None, *, escaped: bool = False
    ) -> bytes:
        """What is in a file, or a part of it.

        Raises:
            FileMissing, FileConflict: there is no such regular file.
            FileTooLarge: it is over 256 MiB; ``download`` and ``stream_file`` take any size.
        """
        vm_id = await self._vm_id()
        return await self._client.read_file(vm_id, path, offset, length, escaped=escaped)

    async def stream_file(
        self, path: str, offset: int = 0, length: int | None = None, *, escaped: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """``read_file`` piece by piece, of any size. Close the iterator where it is left early."""
        vm_id = await self._vm_id()
        source = self._client.stream_file(vm_id, path, offset, length, escaped=escaped)
        async with aclosing(source) as chunks:
            async for chunk in chunks:
                yield chunk

    async def write_file(
        self,
        path: str,
        data: bytes | str,
        *,
        mode: str | None = None,
        parents: bool = False,
        escaped: bool = False,
    ) -> FileInfo:
        """Writes a file whole, in one step; see ``Files.write_file``.

        Raises:
            FileDiskFull, FileTooLarge: it is too large; nothing changed.
            FileMissing, FileConflict, FileForbidden: there can be no such file.
        """
        return await self._client.write_file(
            await self._vm_id(), path, data, mode=mode, parents=parents, escaped=escaped
        )

    async def make_directory(
        self, path: str, *, parents: bool = False, escaped: bool = False
    ) -> FileInfo:
        """Makes a directory; with ``parents`` those above it, and it may be there already.

        Raises:
            FileConflict: something is there.
        """
        vm_id = await self._vm_id()
        return await self._client.make_directory(vm_id, path, parents=parents, escaped=escaped)

    async def delete_file(
        self, path: str, *, recursive: bool = False, escaped: bool = False
    ) -> FileChange:
        """Removes a file, a link or an empty directory; with ``recursive`` all that is in one.

        Raises:
            FileMissing, FileConflict: there is none, or it is not empty.
        """
        vm_id = await self._vm_id()
        return await self._client.delete_file(vm_id, path, recursive=recursive, escaped=escaped)

    async def move_file(
        self,
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
        return await self._client.move_file(
            await self._vm_id(),
            source,
            target,
            overwrite=overwrite,
            parents=parents,
            escaped=escaped,
        )

    async def upload(
        self,
        local: str | Path,
        path: str,
        *,
        mode: str | None = None,
        parents: bool = False,
        escaped: bool = False,
        progress: Progress | None = None,
    ) -> FileInfo:
        """Copies a file of this machine into the VM; see ``Files.upload``.

        Raises:
            FileError: ``local`` cannot be read; others as ``write_file``.
        """
        return await self._client.upload(
            await self._vm_id(),
            local,
            path,
            mode=mode,
            parents=parents,
            escaped=escaped,
            progress=progress,
        )

    async def download(
        self,
        path: str,
        local: str | Path,
        *,
        escaped: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Copies a file of the VM to this machine; see ``Files.download``.

        Raises:
            FileError: ``local`` cannot be written; others as ``read_file``.
        """
        vm_id = await self._vm_id()
        return await self._client.download(vm_id, path, local, escaped=escaped, progress=progress)
