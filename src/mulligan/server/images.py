"""Routes of images, which all agents share: for administrators. See docs/images.md."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from mulligan.engine.requests.once import Attempt
from mulligan.errors import FileTooLarge, ValidationFailed
from mulligan.models import ErrorAnswer, Image, ImageBuildRequest, ImageJob
from mulligan.server.access import CallerDependency
from mulligan.server.answers import answer
from mulligan.server.bodies import BYTES, Body, too_slow
from mulligan.server.engines import EngineDependency
from mulligan.server.once import KeyDependency

LONGEST_WAIT_S = 60
MIB = 1024 * 1024
WHAT = "images"
_UPLOAD = re.compile(r"/api/images/[^/]+/?")
After = Annotated[
    int, Query(ge=0, description="How many of its lines were seen; those after them come.")
]
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=LONGEST_WAIT_S,
        description="Wait until more is said, or it has ended, but no longer than this.",
    ),
]


def is_upload(scope: Scope) -> bool:
    """Whether a request brings an archive, whose size ``images.max_mb`` bounds."""
    return scope["method"] == "PUT" and _UPLOAD.fullmatch(scope["path"]) is not None


def add_routes(app: FastAPI) -> None:
    """Adds them."""
    _add_images(app)
    _add_building(app)
    _add_importing(app)
    _add_jobs(app)


def _add_images(app: FastAPI) -> None:
    @app.get("/api/images", response_model=list[Image], summary="The images there are, by name")
    async def list_images(engine: EngineDependency, caller: CallerDependency) -> list[Image]:
        """Those beside the host's own, which VM types name."""
        caller.require_admin(WHAT)
        return await engine.image_jobs.images()

    @app.get("/api/images/{image}", response_model=Image, summary="What an image has")
    async def get_image(image: str, engine: EngineDependency, caller: CallerDependency) -> Image:
        """And which VMs and VM types are of it."""
        caller.require_admin(WHAT)
        return await engine.image_jobs.image(image)

    @app.delete(
        "/api/images/{image}",
        status_code=204,
        summary="Remove an image that no VM and no VM type uses",
        responses={409: {"model": ErrorAnswer}},
    )
    async def delete_image(image: str, key: KeyDependency) -> Response:
        """One that has several names loses this one."""
        key.caller.require_admin(WHAT)
        return await key.answer(
            None,
            "removal of an image",
            {"image": image},
            lambda _: key.engine.image_jobs.remove(image),
            status=204,
        )


def _add_building(app: FastAPI) -> None:
    @app.post(
        "/api/images",
        response_model=ImageJob,
        status_code=202,
        summary="Make an image of Debian packages",
    )
    async def build_image(request: ImageBuildRequest, key: KeyDependency) -> Response:
        """It takes a minute or so: follow its job. The server's host needs mmdebstrap."""
        key.caller.require_admin(WHAT)
        key.caller.note(image=request.name)

        async def build(_: Attempt) -> ImageJob:
            return key.engine.image_jobs.build(request)

        return await key.answer(None, "image", {"request": request}, build, status=202)


def _add_importing(app: FastAPI) -> None:
    body = {
        "required": True,
        "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
    }

    @app.put(
        "/api/images/{image}",
        response_model=ImageJob,
        status_code=202,
        summary="Make an image of an archive, which is the body",
        responses={status: {"model": ErrorAnswer} for status in (400, 408, 413)},
        openapi_extra={"requestBody": body},
    )
    async def import_image(
        image: str,
        request: Request,
        key: KeyDependency,
        reference: Annotated[
            str | None, Query(description="Which image is meant, where it has several: a tag.")
        ] = None,
        source: Annotated[str, Query(description="What it is, in words, to be shown.")] = "",
    ) -> Response:
        """An OCI layout, what `docker save` wrote, or a tar of a root file system.

        What has the name already loses it when the new one is there. Follow the job: unpacking
        begins when all of the body has come.
        """
        key.caller.require_admin(WHAT)
        settings = key.engine.settings
        idle_s = settings.files.idle_seconds
        archive = Body(request, idle_s, settings.images.max_mb * MIB)
        try:
            return await key.answer(
                None,
                "import",
                {"image": image, "reference": reference, "source": source},
                lambda _: key.engine.image_jobs.take(
                    image, archive, archive.size, reference, source
                ),
                status=202,
                content=archive,
            )
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except FileTooLarge as error:
            refused = answer(error)
            refused.headers["connection"] = "close"  # what is still to come is not read
            return refused
        except TimeoutError:
            return too_slow(ValidationFailed, idle_s)


def _add_jobs(app: FastAPI) -> None:
    @app.get(
        "/api/image-jobs",
        response_model=list[ImageJob],
        summary="The images that are being made, and the last that were, newest first",
    )
    async def list_image_jobs(engine: EngineDependency, caller: CallerDependency) -> list[ImageJob]:
        """Without what they say."""
        caller.require_admin(WHAT)
        return engine.image_jobs.list()

    @app.get(
        "/api/image-jobs/{job_id}",
        response_model=ImageJob,
        summary="How an image that is being made goes",
    )
    async def get_image_job(
        job_id: str,
        engine: EngineDependency,
        caller: CallerDependency,
        after: After = 0,
        wait_seconds: Wait = 0.0,
    ) -> ImageJob:
        """Ask again with `after` set to its `said`, and `wait_seconds`, to follow it."""
        caller.require_admin(WHAT)
        return await engine.image_jobs.follow(job_id, after, wait_seconds)

    @app.post(
        "/api/image-jobs/{job_id}/cancel",
        response_model=ImageJob,
        summary="Stop making an image",
    )
    async def cancel_image_job(job_id: str, key: KeyDependency) -> Response:
        """Answers when nothing of it is left. One that has ended stays as it is."""
        key.caller.require_admin(WHAT)
        return await key.answer(
            None,
            "cancel of an image",
            {"job_id": job_id},
            lambda _: key.engine.image_jobs.cancel(job_id),
        )
