"""Images of the engine in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from mulligan.engine.engine import Engine
from mulligan.models import Image, ImageBuildRequest, ImageJob


class DirectImages:
    """See ``ImagesBackend``.

    Args:
        opened: gives the engine.
    """

    def __init__(self, opened: Callable[[], Awaitable[Engine]]) -> None:
        self._opened = opened

    async def images(self) -> list[Image]:
        return await (await self._opened()).image_jobs.images()

    async def image(self, name: str) -> Image:
        return await (await self._opened()).image_jobs.image(name)

    async def remove(self, name: str) -> None:
        await (await self._opened()).image_jobs.remove(name)

    async def build(self, request: ImageBuildRequest) -> ImageJob:
        return (await self._opened()).image_jobs.build(request)

    async def take(
        self,
        name: str,
        content: AsyncIterator[bytes],
        size: int | None,
        reference: str | None,
        source: str,
    ) -> ImageJob:
        jobs = (await self._opened()).image_jobs
        return await jobs.take(name, content, size, reference, source)

    async def jobs(self) -> list[ImageJob]:
        return (await self._opened()).image_jobs.list()

    async def follow(self, job_id: str, after: int, wait_s: float) -> ImageJob:
        return await (await self._opened()).image_jobs.follow(job_id, after, wait_s)

    async def cancel(self, job_id: str) -> ImageJob:
        return await (await self._opened()).image_jobs.cancel(job_id)
