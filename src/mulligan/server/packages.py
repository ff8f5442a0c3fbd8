"""Routes of sets of packages, which all agents share: for administrators."""

from __future__ import annotations

from fastapi import FastAPI

from mulligan.models import ErrorAnswer, PackageSet, WarmRequest
from mulligan.server.access import CallerDependency
from mulligan.server.engines import EngineDependency


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
    async def warm_packages(
        request: WarmRequest, engine: EngineDependency, caller: CallerDependency
    ) -> PackageSet:
        """Answers when it is there. With `refresh` the index is asked anew."""
        caller.require_admin("sets of packages")
        return await engine.packages.warm(request)

    @app.delete(
        "/api/packages/{set_id}",
        status_code=204,
        summary="Remove a set of packages",
        responses={403: {"model": ErrorAnswer}, 404: {"model": ErrorAnswer}},
    )
    async def delete_packages(
        set_id: str, engine: EngineDependency, caller: CallerDependency
    ) -> None:
        """One that a running VM has used stays until that has stopped."""
        caller.require_admin("sets of packages")
        await engine.packages.remove(set_id)
