"""Routes of the bytes of files, in and out. See docs/files.md."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from mulligan.engine.files.files import AT_ONCE
from mulligan.engine.requests.once import Attempt
from mulligan.errors import FileError, VmExecutionError
from mulligan.log import get_logger
from mulligan.models import (
    FileInfo,
    utc_now,
)
from mulligan.server import ranges
from mulligan.server.access import CallerDependency
from mulligan.server.answers import answer
from mulligan.server.bodies import BYTES, REQUEST_TIMEOUT, Body, too_slow
from mulligan.server.engines import EngineDependency
from mulligan.server.filequery import Escaped, Owner, Path, errors, noted
from mulligan.server.once import KeyDependency

log = get_logger()

RANGE_NOT_SATISFIABLE = 416
_UPLOAD = re.compile(r"/api/vms/[^/]+/files/?")
# Whatever a file holds, a browser is to save it and not to run it.
GUARDS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
    "Accept-Ranges": "bytes",
}


def is_upload(scope: Scope) -> bool:
    """Whether a request brings a file, whose size ``max_file_bytes`` bounds and nothing else."""
    return scope["method"] == "PUT" and _UPLOAD.fullmatch(scope["path"]) is not None


def add_routes(app: FastAPI) -> None:
    """Adds them."""
    _add_reading(app)
    _add_writing(app)


def _add_reading(app: FastAPI) -> None:
    content = {BYTES: {"schema": {"type": "string", "format": "binary"}}}

    @app.get(
        "/api/vms/{vm_id}/files",
        summary="The bytes of a file, or a range of them",
        response_class=Response,
        responses={
            200: {"content": content, "description": "The file"},
            206: {"content": content, "description": "The range that was asked for"},
            304: {"description": "It is as it was (If-None-Match)"},
            **errors(RANGE_NOT_SATISFIABLE),
        },
    )
    @app.head("/api/vms/{vm_id}/files", include_in_schema=False)
    async def read_file(
        vm_id: str,
        path: Path,
        request: Request,
        engine: EngineDependency,
        caller: CallerDependency,
        owner: Owner = None,
        escaped: Escaped = False,
    ) -> Response:
        """With `Range`, `If-Range` and `If-None-Match`, and in constant memory."""
        agent_id = noted(caller, engine, vm_id, owner, path=path)
        async with AsyncExitStack() as stack:
            opened = engine.files.open_read(vm_id, path, agent_id, escaped=escaped)
            reader = await stack.enter_async_context(opened)
            headers = _headers(reader.info)
            if ranges.is_known(request.headers, headers["ETag"]):
                return Response(status_code=304, headers=headers)
            try:
                status, part = _part(request, reader.info, headers)
            except ranges.NotSatisfiableError:
                return _no_such_range(reader.info.size)
            if request.method == "HEAD":
                return Response(status_code=status, headers=headers, media_type=BYTES)
            idle_s = engine.files.settings.idle_seconds
            return Download(reader.read(*part), stack.pop_all(), idle_s, status, headers)


def _headers(info: FileInfo) -> dict[str, str]:
    return {
        **GUARDS,
        "ETag": ranges.etag_of(info, utc_now()),
        "Last-Modified": ranges.last_modified(info),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(info.name, safe='')}",
    }


def _part(request: Request, info: FileInfo, headers: dict[str, str]) -> tuple[int, ranges.Part]:
    """The status of an answer, and what of the file is in it; ``headers`` are added to."""
    part = None
    if ranges.range_holds(request.headers, headers["ETag"], headers["Last-Modified"]):
        part = ranges.part_of(request.headers.get("range"), info.size)
    if part is None:
        headers["Content-Length"] = str(info.size)
        return 200, ranges.Part(0, info.size)
    headers["Content-Length"] = str(part.length)
    headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{info.size}"
    return 206, part


def _no_such_range(size: int) -> Response:
    error = FileError(
        f"the file has {size} bytes, and the range begins behind them",
        field="Range",
        remedy="ask for bytes that are there, or leave the header out",
    )
    response = answer(error, status=RANGE_NOT_SATISFIABLE)
    response.headers["Content-Range"] = f"bytes */{size}"
    return response


class Download(StreamingResponse):
    """A file on its way out; what it is read from is let go however this ends.

    Once it has begun an error has no other way to be told than by an end that comes too early.

    Args:
        content: the bytes.
        stack: lets go of them.
        idle_s: how long the client may take nothing.
        status: of the answer.
        headers: of the answer.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        stack: AsyncExitStack,
        idle_s: float,
        status: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(content, status, headers, BYTES)
        self._content = content
        self._stack = stack
        self._idle_s = idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def in_time(message: Message) -> None:
            async with asyncio.timeout(self._idle_s):
                await send(message)

        try:
            await super().__call__(scope, receive, in_time)
        except TimeoutError:
            log.warning("download_abandoned", path=scope["path"], idle_seconds=self._idle_s)
        except VmExecutionError as error:
            log.warning("download_broken", path=scope["path"], error=str(error))
        finally:
            await self._content.aclose()
            await self._stack.aclose()


def _add_writing(app: FastAPI) -> None:
    body = {
        "required": False,  # an empty file has none
        "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
    }

    @app.put(
        "/api/vms/{vm_id}/files",
        response_model=FileInfo,
        summary="Write a file, whole or not at all; the body is what will be in it",
        responses=errors(REQUEST_TIMEOUT, 413, 507),
        openapi_extra={"requestBody": body},
    )
    async def write_file(
        vm_id: str,
        path: Path,
        request: Request,
        key: KeyDependency,
        owner: Owner = None,
        mode: Annotated[str | None, Query(description="Permission bits in octal.")] = None,
        parents: Annotated[bool, Query(description="Make directories above it.")] = False,
        escaped: Escaped = False,
    ) -> Response:
        """It appears when all of it has come. `snapshot_before` undoes it."""
        agent_id = noted(key.caller, key.engine, vm_id, owner, path=path)
        files = key.engine.files
        content = Body(request, files.settings.idle_seconds, files.settings.max_file_bytes)
        asked = {"vm_id": vm_id, "path": path, "mode": mode, "parents": parents, "escaped": escaped}

        async def write(_: Attempt) -> FileInfo:
            size = content.size
            if size is not None and size <= AT_ONCE:
                data = b"".join([chunk async for chunk in content])
                return await files.write(
                    vm_id, path, data, agent_id, mode=mode, parents=parents, escaped=escaped
                )
            async with files.open_write(
                vm_id, path, agent_id, mode=mode, parents=parents, escaped=escaped, size=size
            ) as writer:
                async for chunk in content:
                    await writer.write(chunk)
                return await writer.commit()

        try:
            return await key.answer(agent_id, "file", asked, write, content=content)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except TimeoutError:
            return too_slow(FileError, files.settings.idle_seconds)
