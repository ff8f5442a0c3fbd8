"""Images made for whoever asks over a face: one after the other, each as a job one can follow.

What is uploaded is kept in ``<data_dir>/images/uploads`` until its turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from mulligan.engine.images.building import built, described
from mulligan.engine.images.importing import MIB, Importer
from mulligan.engine.images.job import Job
from mulligan.engine.images.shelf import Shelf
from mulligan.engine.images.turns import finished
from mulligan.errors import (
    ConfigError,
    ExecutionFailed,
    FileTooLarge,
    ImageNotFound,
    InternalError,
    TooManyRequests,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.images import debian
from mulligan.images.store import check_name
from mulligan.layers.directories import make_directory, remove_tree
from mulligan.log import get_logger
from mulligan.models import ErrorAnswer, Image, ImageBuildRequest, ImageJob
from mulligan.printable import one_line
from mulligan.settings import Settings

log = get_logger()

MODE = "unshare"  # nothing that is asked for over a network runs as root
MOST_WAITING = 16
MOST_KEPT = 100
MOST_SOURCE = 200
PIECE = MIB
LOOK_BYTES = 64 * MIB
Make = Callable[[Importer, Job], Path]


class ImageJobs:
    """Makes images while an engine is open.

    Args:
        settings: of the data directory.
        let_go: has the engine let go of an image, by its digest, if no VM type names it.
    """

    def __init__(self, settings: Settings, let_go: Callable[[str], None]) -> None:
        self._settings = settings
        self._let_go = let_go
        self._jobs: dict[str, Job] = {}
        self._turn = asyncio.Lock()
        self._uploads = settings.data_dir / "images" / "uploads"
        self._shelf = Shelf(settings)
        self._closed = False

    async def open(self) -> None:
        """Removes what was uploaded to a server that was killed."""
        if self._uploads.exists():
            await asyncio.to_thread(remove_tree, self._uploads)

    # Images

    async def images(self) -> list[Image]:
        """See ``Shelf.all``."""
        return await asyncio.to_thread(self._shelf.all)

    async def image(self, name: str) -> Image:
        """See ``Shelf.get``."""
        return await asyncio.to_thread(self._shelf.get, name)

    async def remove(self, name: str) -> None:
        """Removes an image that no VM and no VM type uses; see ``Shelf.remove``.

        Raises:
            ImageNotFound: there is none of that name.
            ImageInUse: something uses it; the text says what.
        """
        image = await self.image(name)
        if not image.vms and not image.vm_types:
            self._let_go(image.digest)
        await asyncio.to_thread(self._shelf.remove, name)
        log.info("image_removed", name=name, digest=image.digest)

    # Jobs

    def build(self, request: ImageBuildRequest) -> ImageJob:
        """Begins to make an image of Debian packages.

        Raises:
            ValidationFailed: a name is none.
            ConfigError: this host has no mmdebstrap.
            TooManyRequests: so many wait already.
        """
        check_name(request.name)
        debian.check(request.debian, request.packages, MODE)
        debian.find_mmdebstrap()
        source = described(request.debian, request.packages)
        made = functools.partial(self._build, request)
        return self._start(Job(request.name, "build", source), made)

    def _build(self, request: ImageBuildRequest, importer: Importer, job: Job) -> Path:
        return built(
            importer,
            request.name,
            request.debian,
            request.packages,
            MODE,
            job.say,
            timeout_s=self._settings.images.timeout_seconds,
            stopped=job.wanted.is_set,
        )

    async def take(
        self,
        name: str,
        content: AsyncIterator[bytes],
        size: int | None = None,
        reference: str | None = None,
        source: str = "",
    ) -> ImageJob:
        """Receives an archive, and begins to make an image of it.

        Args:
            name: the image's.
            content: the archive.
            size: how many bytes it has, if that is known.
            reference: which image of several is meant.
            source: what it is, in words.

        Raises:
            ValidationFailed: the name is none, or nothing came.
            FileTooLarge: it has more bytes than an image may.
            ConfigError: there is no room for it.
            TooManyRequests: so many wait already.
        """
        check_name(name)
        self._check_room()
        await asyncio.to_thread(make_directory, self._uploads)
        place = self._uploads / secrets.token_hex(8)
        try:
            await self._receive(place, content, size)
            job = Job(name, "import", one_line(source, MOST_SOURCE) or "an archive", place)
            return self._start(job, lambda importer, _: _moved(importer, place), reference)
        except BaseException:
            await finished(place.unlink, missing_ok=True)
            raise

    async def _receive(self, place: Path, content: AsyncIterator[bytes], size: int | None) -> None:
        most = self._settings.images.max_mb * MIB
        received, looked, held = 0, -LOOK_BYTES, bytearray()
        with await asyncio.to_thread(place.open, "xb") as file:
            os.fchmod(file.fileno(), 0o600)
            async for piece in content:
                received += len(piece)
                if max(received, size or 0) > most:
                    raise FileTooLarge(
                        f"the archive is over {most} bytes",
                        field="images.max_mb",
                        remedy="raise it (MULLIGAN_IMAGES__MAX_MB)",
                    )
                if received - looked >= LOOK_BYTES:
                    looked = received
                    _check_free(place, max(0, (size or 0) - received), self._settings.min_free_mb)
                held += piece
                if len(held) >= PIECE:
                    await finished(file.write, held)
                    held = bytearray()
            await finished(file.write, held)
        if received == 0:
            raise ValidationFailed("there is no archive in the body", field="body")

    def _check_room(self) -> None:
        if self._closed:
            raise ExecutionFailed("Mulligan is shutting down")
        if sum(each.runs for each in self._jobs.values()) >= MOST_WAITING:
            raise TooManyRequests(
                f"{MOST_WAITING} images wait to be made", remedy="wait for one, or cancel one"
            )

    def _start(self, job: Job, make: Make, reference: str | None = None) -> ImageJob:
        self._check_room()
        for old in [each for each in self._jobs.values() if not each.runs][: -MOST_KEPT + 1]:
            del self._jobs[old.id]
        self._jobs[job.id] = job
        # In a context of its own: it belongs to nobody's request.
        work = self._run(job, make, reference)
        job.task = asyncio.create_task(work, context=contextvars.copy_context())
        return job.shown(0)

    async def _run(self, job: Job, make: Make, reference: str | None) -> None:
        try:
            if self._turn.locked():
                job.say("waiting for another image to be made")
            async with self._turn:
                image = await self._made(job, make, reference)
            job.end("done", image=image)
        except asyncio.CancelledError:
            job.end("cancelled")
        except VmExecutionError as error:
            job.end("cancelled" if job.wanted.is_set() else "failed", error=ErrorAnswer.of(error))
        except Exception as error:
            log.exception("image_not_made", name=job.state.name, exc_info=error)
            fault = InternalError("the server failed; its log has the details")
            job.end("failed", error=ErrorAnswer.of(fault))
        finally:
            await _tidied(job)

    async def _made(self, job: Job, make: Make, reference: str | None) -> Image:
        stopped = job.wanted.is_set
        stack = contextlib.ExitStack()

        def opened() -> Importer:
            return stack.enter_context(Importer(self._settings, job.say, stopped))

        try:
            importer = await finished(opened)
            archive = await finished(make, importer, job)
            name, source = job.state.name, job.state.source
            await importer.take(name, archive, source, reference)
        finally:
            await finished(stack.close)
        for digest in await finished(self._shelf.unused):
            self._let_go(digest)
        await finished(self._shelf.collect)
        return await self.image(name)

    def list(self) -> list[ImageJob]:
        """The jobs there are and the last that were, newest first."""
        return [each.state for each in reversed(self._jobs.values())]

    async def follow(self, job_id: str, after: int = 0, wait_s: float = 0) -> ImageJob:
        """A job, with the lines after so many.

        Args:
            job_id: the job.
            after: how many lines were seen.
            wait_s: how long this waits for more to be said, or its end.

        Raises:
            ImageNotFound: there is no such job.
        """
        return await self._job(job_id).news(after, wait_s)

    async def cancel(self, job_id: str) -> ImageJob:
        """Ends a job, and returns when it has ended. One that has ended stays as it is.

        Raises:
            ImageNotFound: there is no such job.
        """
        job = self._job(job_id)
        await _ended([job])
        return job.shown(0)

    def _job(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise ImageNotFound(
                f"no image is made as {job_id[:100]}",
                field="job_id",
                remedy="the last ones are known until the server ends",
            )
        return job

    async def close(self) -> None:
        """Ends what is being made. Nothing of it is left."""
        self._closed = True
        await _ended(list(self._jobs.values()))


async def _ended(jobs: list[Job]) -> None:
    tasks = {job.task for job in jobs if job.task is not None and job.runs}
    for job in jobs:
        job.wanted.set()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for job in jobs:
        if job.runs:  # it was ended before it began
            job.end("cancelled")
            await _tidied(job)


async def _tidied(job: Job) -> None:
    if job.upload is not None:
        await finished(job.upload.unlink, missing_ok=True)


def _moved(importer: Importer, upload: Path) -> Path:
    target = importer.directory() / "given"
    shutil.move(upload, target)
    return target


def _check_free(place: Path, more: int, min_free_mb: int) -> None:
    free = shutil.disk_usage(place.parent).free
    if free - more < min_free_mb * MIB:
        raise ConfigError(
            f"the archive would leave less than {min_free_mb} MB free (min_free_mb)",
            remedy="make room",
        )
