"""Images of VMs, from a client."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from mulligan.client.backends import Backend
from mulligan.client.files import Progress, local_error, read_local
from mulligan.errors import ApiError, ExecutionFailed
from mulligan.images.layouts import Layout
from mulligan.models import Image, ImageBuildRequest, ImageJob

LONGEST_WAIT_S = 20.0  # of one request
Say = Callable[[str], None]


class Images:
    """The part of a client that has to do with images, which all agents share.

    Over HTTP they are for administrators: others get a ``Forbidden``. A VM type that names an image
    has it as soon as it is there.
    """

    _backend: Backend

    async def list_images(self) -> list[Image]:
        """The images beside the host's own, by name."""
        return await self._backend.images.images()

    async def get_image(self, name: str) -> Image:
        """What an image has, and which VMs and VM types are of it.

        Raises:
            ImageNotFound: there is none.
        """
        return await self._backend.images.image(name)

    async def delete_image(self, name: str) -> None:
        """Removes an image that no VM and no VM type uses.

        Raises:
            ImageNotFound: there is none.
            ImageInUse: something uses it; the text says what.
        """
        await self._backend.images.remove(name)

    async def build_image(
        self,
        name: str,
        debian: str = "bookworm",
        packages: Sequence[str] = (),
        *,
        progress: Say | None = None,
    ) -> Image:
        """Makes an image of Debian packages, and returns when it is there.

        Cancelling this stops it.

        Args:
            name: what it is called from now on.
            debian: a release.
            packages: beside those that are essential.
            progress: told in a few words what is under way.

        Raises:
            ValidationFailed: something is no name.
            ConfigError: the host cannot build any.
            ExecutionFailed: it could not be built, or was stopped.
        """
        request = ImageBuildRequest(name=name, debian=debian, packages=list(packages))
        return await self._made(await self._backend.images.build(request), progress)

    async def import_image(
        self,
        name: str,
        local: str | Path,
        *,
        reference: str | None = None,
        sent: Progress | None = None,
        progress: Say | None = None,
    ) -> Image:
        """Makes an image of an archive on this machine, and returns when it is there.

        Cancelling this stops it.

        Args:
            name: what it is called from now on.
            local: an OCI layout, as a directory or a tar; what ``docker save`` wrote; or a tar of
                a root file system. A directory is sent as a tar that is made on the way; links
                in it are not followed.
            reference: which image is meant, where it has several: a tag.
            sent: called with the bytes sent so far, and how many there are, if that is known.
            progress: told in a few words what is under way.

        Raises:
            FileError: ``local`` cannot be read, or has a link in a file's place.
            ValidationFailed: it is no such archive, or one that is not taken in; the text says why.
            ExecutionFailed: it was stopped.
        """
        path = Path(local)
        try:
            opened = await asyncio.to_thread(_opened, path)
        except OSError as error:
            raise local_error(error, local) from None
        with opened:
            if isinstance(opened, Layout):
                size: int | None = opened.size
                content = _tar(opened, opened.size, sent, local)
            else:
                status = os.fstat(opened.fileno())
                size = status.st_size if stat.S_ISREG(status.st_mode) else None
                content = read_local(opened, size, sent, local)
            job = await self._backend.images.take(name, content, size, reference, _name(path))
        return await self._made(job, progress)

    async def list_image_jobs(self) -> list[ImageJob]:
        """The images that are being made, and the last that were, newest first."""
        return await self._backend.images.jobs()

    async def get_image_job(self, job_id: str, after: int = 0, wait_seconds: float = 0) -> ImageJob:
        """How an image that is being made goes.

        Args:
            job_id: of one.
            after: how many of its lines were seen; those after them come.
            wait_seconds: how long this waits for more to be said, or its end.

        Raises:
            ImageNotFound: there is none.
        """
        return await self._backend.images.follow(job_id, after, wait_seconds)

    async def cancel_image_job(self, job_id: str) -> ImageJob:
        """Stops making an image, and returns when nothing of it is left.

        Raises:
            ImageNotFound: there is none.
        """
        return await self._backend.images.cancel(job_id)

    async def _made(self, job: ImageJob, progress: Say | None) -> Image:
        """What comes of a job."""
        seen = 0
        try:
            while True:
                job = await self._backend.images.follow(job.id, seen, LONGEST_WAIT_S)
                if progress is not None:
                    for line in job.lines:
                        progress(line)
                seen = job.said
                if job.state != "running":
                    break
        except asyncio.CancelledError:
            await self._backend.images.cancel(job.id)
            raise
        if job.image is not None:
            return job.image
        if job.error is not None:
            raise job.error.exception()
        if job.state == "cancelled":
            raise ExecutionFailed("it was stopped")
        raise ApiError(f"the server says {job.state!r} of an image, and no more")


def _name(path: Path) -> str:
    return path.absolute().name  # which "." has, too


def _opened(path: Path) -> Layout | BinaryIO:
    return Layout(path) if path.is_dir() else path.open("rb")


async def _tar(
    layout: Layout, size: int, sent: Progress | None, local: str | Path
) -> AsyncIterator[bytes]:
    pieces, done = layout.tar(), 0
    while True:
        try:
            piece = await asyncio.to_thread(next, pieces, None)
        except OSError as error:
            raise local_error(error, local) from None
        if piece is None:
            return
        done += len(piece)
        yield piece
        if sent is not None:
            sent(done, size)
