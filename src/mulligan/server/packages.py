"""Routes of sets of packages, which all agents share: for administrators."""

from __future__ import annotations

from fastapi import FastAPI, Response

from mulligan.models import ErrorAnswer, PackageSet, WarmRequest
from mulligan.server.access import CallerDependency
from mulligan.server.engines import EngineDependency
from mulligan.server.once import KeyDependency


def add_routes(app: FastAPI) -> None:
    """Adds them."""

    @app.get(
        "/api/packages",
        response_model=list[PackageSet],
        summary="The sets of packages there are, the one used last first",
        responses={403: {"model": ErrorAnswer}},
    )
    async def list_packages(engine: EngineDependency, caller: CallerDependency) -> list[PackageSet]:
        """What executions asked for with `requirements`, and what it came to."""
        caller.require_admin("sets of packages")
        return engine.packages.list()

    @app.post(
        "/api/packages",
        response_model=PackageSet,
        summary="Have a set of packages made before an execution needs it",
        responses={403: {"model": ErrorAnswer}},
    )
    async def warm_packages(request: WarmRequest, key: KeyDependency) -> Response:
        """Answers when it is there. With `refresh` the index is asked anew."""
        key.caller.require_admin("sets of packages")
        return await key.answer(
            None, "packages", {"request": request}, lambda _: key.engine.packages.warm(request)
        )

    @app.delete(
        "/api/packages/{set_id}",
        status_code=204,
        summary="Remove a set of packages",
        responses={403: {"model": ErrorAnswer}, 404: {"model": ErrorAnswer}},
    )
    async def delete_packages(set_id: str, key: KeyDependency) -> Response:
        """One that a running VM has used stays until that has stopped."""
        key.caller.require_admin("sets of packages")
        return await key.answer(
            None,
            "removal of packages",
            {"set_id": set_id},
            lambda _: key.engine.packages.remove(set_id),
            status=204,
        )
