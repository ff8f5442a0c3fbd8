"""Images through a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from mulligan.client.transport import ANSWER_SLACK_S, CONNECT_S, Transport
from mulligan.errors import ImageNotFound
from mulligan.models import Image, ImageBuildRequest, ImageJob

PATH = "/api/images"
JOBS = "/api/image-jobs"
REMOVE_S = 660.0  # a tree of a million files
SILENCE_S = 180.0
_IMAGES = TypeAdapter(list[Image])
_JOBS = TypeAdapter(list[ImageJob])


class HttpImages:
    """See ``ImagesBackend``.

    Args:
        transport: to the server.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._send = transport.send
        self._parse = transport.parse

    async def images(self) -> list[Image]:
        response = await self._send("GET", PATH)
        try:
            return _IMAGES.validate_json(response.content)
        except ValidationError as error:
            raise self._transport.unreadable(response, error) from None

    async def image(self, name: str) -> Image:
        return self._parse(Image, await self._send("GET", _of(name)))

    async def remove(self, name: str) -> None:
        await self._send("DELETE", _of(name), timeout=REMOVE_S)

    async def build(self, request: ImageBuildRequest) -> ImageJob:
        return self._parse(ImageJob, await self._send("POST", PATH, request))

    async def take(
        self,
        name: str,
        content: AsyncIterator[bytes],
        size: int | None,
        reference: str | None,
        source: str,
    ) -> ImageJob:
        params = {"source": source} | ({"reference": reference} if reference is not None else {})
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        try:
            response = await self._transport.http.put(
                _of(name),
                params=params,
                content=content,
                headers=headers,
                timeout=httpx.Timeout(
                    ANSWER_SLACK_S, connect=CONNECT_S, read=SILENCE_S, write=SILENCE_S
                ),
            )
        except httpx.HTTPError as error:
            raise self._transport.lost(error, "PUT") from None
        if not response.is_success:
            raise await self._transport.error_of(response)
        return self._parse(ImageJob, response)

    async def jobs(self) -> list[ImageJob]:
        response = await self._send("GET", JOBS)
        try:
            return _JOBS.validate_json(response.content)
        except ValidationError as error:
            raise self._transport.unreadable(response, error) from None

    async def follow(self, job_id: str, after: int, wait_s: float) -> ImageJob:
        params = {"after": str(after)} | ({"wait_seconds": f"{wait_s:.3f}"} if wait_s else {})
        timeout = wait_s + ANSWER_SLACK_S
        response = await self._send("GET", _job(job_id), params=params, timeout=timeout)
        return self._parse(ImageJob, response)

    async def cancel(self, job_id: str) -> ImageJob:
        response = await self._send("POST", f"{_job(job_id)}/cancel", timeout=REMOVE_S)
        return self._parse(ImageJob, response)


def _of(name: str) -> str:
    """The path of an image; what is no name is asked for, and there is none."""
    if not name or "/" in name or name in (".", ".."):
        raise ImageNotFound(f"no image {name[:100]!r}", field="name")
    return f"{PATH}/{quote(name[:300], safe='')}"


def _job(job_id: str) -> str:
    if not job_id.replace("-", "").isalnum() or not job_id.isascii():
        raise ImageNotFound(f"no image is made as {job_id[:100]}", field="job_id")
    return f"{JOBS}/{job_id}"
