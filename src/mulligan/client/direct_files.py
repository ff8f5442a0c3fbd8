"""Files through the engine in the client's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

from mulligan.client.backends import Incoming
from mulligan.engine.engine import Engine
from mulligan.engine.files.files import AT_ONCE
from mulligan.models import FileChange, FileInfo, FileList, MakeDirectoryRequest, MoveFileRequest


class DirectFiles:
    """See ``FilesBackend``."""

    def __init__(self, engine: Callable[[], Awaitable[Engine]]) -> None:
        self._engine = engine

    async def stat(self, vm_id: str, path: str, *, escaped: bool) -> FileInfo:
        return await (await self._engine()).files.stat(vm_id, path, escaped=escaped)

    async def list(self, vm_id: str, path: str, *, limit: int, escaped: bool) -> FileList:
        return await (await self._engine()).files.list(vm_id, path, limit=limit, escaped=escaped)

    @asynccontextmanager
    async def read(
        self, vm_id: str, path: str, offset: int, length: int | None, *, escaped: bool
    ) -> AsyncIterator[Incoming]:
        files = (await self._engine()).files
        async with files.open_read(vm_id, path, escaped=escaped) as reader:
            size = reader.length_of(offset, length)
            async with aclosing(reader.read(offset, length)) as chunks:
                yield Incoming(size, chunks)

    async def write(
        self,
        vm_id: str,
        path: str,
        content: AsyncIterator[bytes],
        size: int | None,
        *,
        mode: str | None,
        parents: bool,
        escaped: bool,
    ) -> FileInfo:
        files = (await self._engine()).files
        if size is not None and size <= AT_ONCE:
            data = b"".join([chunk async for chunk in content])
            return await files.write(vm_id, path, data, mode=mode, parents=parents, escaped=escaped)
        async with files.open_write(
            vm_id, path, mode=mode, parents=parents, escaped=escaped, size=size
        ) as writer:
            async for chunk in content:
                await writer.write(chunk)
            return await writer.commit()

    async def make_directory(self, vm_id: str, request: MakeDirectoryRequest) -> FileInfo:
        files = (await self._engine()).files
        return await files.make_directory(
            vm_id, request.path, parents=request.parents, escaped=request.escaped
        )

    async def delete(self, vm_id: str, path: str, *, recursive: bool, escaped: bool) -> FileChange:
        files = (await self._engine()).files
        return await files.delete(vm_id, path, recursive=recursive, escaped=escaped)

    async def move(self, vm_id: str, request: MoveFileRequest) -> FileInfo:
        return await (await self._engine()).files.move(
            vm_id,
            request.source,
            request.target,
            overwrite=request.overwrite,
            parents=request.parents,
            escaped=request.escaped,
        )
