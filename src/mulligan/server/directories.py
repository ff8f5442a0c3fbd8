"""Routes of directories, and of files as names: list, look, make, move, remove."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Response

from mulligan.engine.files.files import MOST_LISTED, USUALLY_LISTED
from mulligan.models import (
    FileChange,
    FileInfo,
    FileList,
    MakeDirectoryRequest,
    MoveFileRequest,
)
from mulligan.server.access import CallerDependency
from mulligan.server.engines import EngineDependency
from mulligan.server.filequery import Escaped, Owner, Path, errors, noted
from mulligan.server.once import KeyDependency


def add_routes(app: FastAPI) -> None:
    """Adds them."""
    _add_looking(app)
    _add_making(app)
    _add_removing(app)


def _add_looking(app: FastAPI) -> None:
    @app.get(
        "/api/vms/{vm_id}/files/list",
        response_model=FileList,
        summary="What is in a directory, by name",
        responses=errors(),
    )
    async def list_files(
        vm_id: str,
        engine: EngineDependency,
        caller: CallerDependency,
        path: Path = ".",
        owner: Owner = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = USUALLY_LISTED,
        escaped: Escaped = False,
    ) -> FileList:
        """`truncated` says that there are more than `limit`."""
        agent_id = noted(caller, engine, vm_id, owner, path=path)
        return await engine.files.list(vm_id, path, agent_id, limit=limit, escaped=escaped)

    @app.get(
        "/api/vms/{vm_id}/files/stat",
        response_model=FileInfo,
        summary="What a name is; a link is not followed",
        responses=errors(),
    )
    async def stat_file(
        vm_id: str,
        path: Path,
        engine: EngineDependency,
        caller: CallerDependency,
        owner: Owner = None,
        escaped: Escaped = False,
    ) -> FileInfo:
        """What it links to is in `target`."""
        agent_id = noted(caller, engine, vm_id, owner, path=path)
        return await engine.files.stat(vm_id, path, agent_id, escaped=escaped)


def _add_making(app: FastAPI) -> None:
    @app.post(
        "/api/vms/{vm_id}/files/mkdir",
        response_model=FileInfo,
        summary="Make a directory",
        responses=errors(507),
    )
    async def make_directory(
        vm_id: str,
        request: MakeDirectoryRequest,
        key: KeyDependency,
        owner: Owner = None,
    ) -> Response:
        """`snapshot_before` is where a rollback takes the VM to undo it."""
        agent_id = noted(key.caller, key.engine, vm_id, owner, path=request.path)
        return await key.answer(
            agent_id,
            "directory",
            {"vm_id": vm_id, "request": request},
            lambda _: key.engine.files.make_directory(
                vm_id,
                request.path,
                agent_id,
                parents=request.parents,
                escaped=request.escaped,
            ),
        )

    @app.post(
        "/api/vms/{vm_id}/files/move",
        response_model=FileInfo,
        summary="Give a file or directory another path",
        responses=errors(507),
    )
    async def move_file(
        vm_id: str,
        request: MoveFileRequest,
        key: KeyDependency,
        owner: Owner = None,
    ) -> Response:
        """Nothing in the way is replaced, unless `overwrite`."""
        paths = {"source": request.source, "target": request.target}
        agent_id = noted(key.caller, key.engine, vm_id, owner, **paths)
        return await key.answer(
            agent_id,
            "move",
            {"vm_id": vm_id, "request": request},
            lambda _: key.engine.files.move(
                vm_id,
                request.source,
                request.target,
                agent_id,
                overwrite=request.overwrite,
                parents=request.parents,
                escaped=request.escaped,
            ),
        )


def _add_removing(app: FastAPI) -> None:
    @app.delete(
        "/api/vms/{vm_id}/files",
        response_model=FileChange,
        summary="Remove a file or directory",
        responses=errors(),
    )
    async def delete_file(
        vm_id: str,
        path: Path,
        key: KeyDependency,
        owner: Owner = None,
        recursive: Annotated[bool, Query(description="With all that is in it.")] = False,
        escaped: Escaped = False,
    ) -> Response:
        """A directory with something in it wants `recursive`."""
        agent_id = noted(key.caller, key.engine, vm_id, owner, path=path)
        options = {"recursive": recursive, "escaped": escaped}
        return await key.answer(
            agent_id,
            "removal",
            {"vm_id": vm_id, "path": path, **options},
            lambda _: key.engine.files.delete(vm_id, path, agent_id, **options),
        )
