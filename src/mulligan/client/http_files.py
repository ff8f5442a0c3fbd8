"""Files through a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from mulligan.client.backends import Incoming
from mulligan.client.transport import CONNECT_S, Transport
from mulligan.errors import ApiError, FileError, VmNotAvailable
from mulligan.models import FileChange, FileInfo, FileList, MakeDirectoryRequest, MoveFileRequest

CHUNK = 256 * 1024
ANSWER_S = 30.0
TREE_S = 660.0  # a server removes and copies trees for up to ten minutes
SILENCE_S = 180.0  # it breaks off what makes no way before


class HttpFiles:
    """See ``FilesBackend``.

    Args:
        transport: to the server.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._http = transport.http
        self._send = transport.send
        self._parse = transport.parse

    async def stat(self, vm_id: str, path: str, *, escaped: bool) -> FileInfo:
        params = _params(path, escaped=escaped)
        return self._parse(FileInfo, await self._send("GET", f"{_of(vm_id)}/stat", params=params))

    async def list(self, vm_id: str, path: str, *, limit: int, escaped: bool) -> FileList:
        params = _params(path, escaped=escaped) | {"limit": str(limit)}
        return self._parse(FileList, await self._send("GET", f"{_of(vm_id)}/list", params=params))

    @asynccontextmanager
    async def read(
        self, vm_id: str, path: str, offset: int, length: int | None, *, escaped: bool
    ) -> AsyncIterator[Incoming]:
        for name, value in (("offset", offset), ("length", length)):
            if value is not None and value < 0:
                raise FileError(f"{name} must not be below 0", field=name)
        headers = {"Accept-Encoding": "identity"}
        if offset or length:
            last = "" if length is None else str(offset + max(length, 1) - 1)
            headers["Range"] = f"bytes={offset}-{last}"
        opened = self._http.stream(
            "GET",
            _of(vm_id),
            params=_params(path, escaped=escaped),
            headers=headers,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S, read=SILENCE_S),
        )
        try:
            async with opened as response:
                if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    yield Incoming(0, _nothing())
                    return
                if not response.is_success:
                    await response.aread()
                    raise await self._transport.error_of(response)
                wanted = httpx.codes.PARTIAL_CONTENT if "Range" in headers else httpx.codes.OK
                if response.status_code != wanted:
                    raise ApiError("the server sent another part of the file than was asked for")
                if length == 0:
                    yield Incoming(0, _nothing())
                    return
                size = int(response.headers.get("content-length", "0"))
                yield Incoming(size, response.aiter_raw(CHUNK))
        except httpx.HTTPError as error:
            raise self._transport.lost(error, "GET") from None

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
        params = _params(path, escaped=escaped)
        if mode is not None:
            params["mode"] = mode
        if parents:
            params["parents"] = "true"
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        try:
            response = await self._http.put(
                _of(vm_id),
                params=params,
                content=content,
                headers=headers,
                timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S, read=SILENCE_S, write=SILENCE_S),
            )
        except httpx.HTTPError as error:
            raise self._transport.lost(error, "PUT") from None
        if not response.is_success:
            raise await self._transport.error_of(response)
        return self._parse(FileInfo, response)

    async def make_directory(self, vm_id: str, request: MakeDirectoryRequest) -> FileInfo:
        return self._parse(FileInfo, await self._send("POST", f"{_of(vm_id)}/mkdir", request))

    async def delete(self, vm_id: str, path: str, *, recursive: bool, escaped: bool) -> FileChange:
        params = _params(path, escaped=escaped) | ({"recursive": "true"} if recursive else {})
        response = await self._send("DELETE", _of(vm_id), params=params, timeout=TREE_S)
        return self._parse(FileChange, response)

    async def move(self, vm_id: str, request: MoveFileRequest) -> FileInfo:
        response = await self._send("POST", f"{_of(vm_id)}/move", request, timeout=TREE_S)
        return self._parse(FileInfo, response)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _of(vm_id: str) -> str:
    """The path of a VM's files.

    Raises:
        VmNotAvailable: no VM has such an id.
    """
    if not vm_id.replace("-", "").replace("_", "").isalnum() or not vm_id.isascii():
        raise VmNotAvailable(vm_id[:100], field="vm_id")
    return f"/api/vms/{vm_id}/files"


def _params(path: str, *, escaped: bool) -> dict[str, str]:
    if not escaped:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise FileError(
                "path has what is no UTF-8",
                field="path",
                remedy="send its escaped form, with escaped=True",
            ) from None
    return {"path": path} | ({"escaped": "true"} if escaped else {})
