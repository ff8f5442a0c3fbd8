"""The HTTP application: routes over the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response

from mulligan.engine.engine import Engine
from mulligan.engine.lock import DirectoryLock
from mulligan.errors import VmExecutionError
from mulligan.models import (
    ParseExecuteRequest,
    ParseExecuteResponse,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.server import answers, approvals, executions, past, vms
from mulligan.server.access import CallerDependency
from mulligan.server.engines import EngineDependency
from mulligan.server.limits import BodyLimit, LocalOnly, TooLarge, refusal
from mulligan.settings import Settings
from mulligan.version import __version__

JSON = "application/json"


def create_app(settings: Settings, lock: DirectoryLock | None = None) -> FastAPI:
    """The application; its engine opens and closes with it.

    Args:
        settings: see ``mulligan.settings``.
        lock: of the data directory, if the caller has it already.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = Engine(settings, lock)
        try:
            await engine.open()
        except VmExecutionError as error:
            app.state.failure = error  # for whoever started the server to tell
            raise
        app.state.engine = engine
        try:
            yield
        finally:
            await engine.close()

    app = FastAPI(
        title="Mulligan",
        version=__version__,
        summary="Runs the code language models write, each agent in an isolated VM of its own.",
        lifespan=lifespan,
        docs_url=None,  # they load their scripts from elsewhere
        redoc_url=None,
    )
    answers.install(app)
    app.add_exception_handler(TooLarge, lambda *_: refusal(settings.max_request_bytes))
    app.add_middleware(BodyLimit, most=settings.max_request_bytes)
    app.add_middleware(LocalOnly, host=settings.host)
    _add_routes(app)
    vms.add_routes(app)
    executions.add_routes(app)
    approvals.add_routes(app)
    past.add_routes(app)
    return app


def _add_routes(app: FastAPI) -> None:
    @app.get("/health", summary="Whether the server is well")
    async def health(engine: EngineDependency) -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "languages": engine.languages()}

    @app.post(
        "/api/llm/execute",
        response_model=VmExecuteResponse,
        summary="Run code in a VM of an agent",
    )
    async def execute(
        request: VmExecuteRequest, engine: EngineDependency, caller: CallerDependency
    ) -> Response:
        caller.agent(request.agent_id)
        result = await engine.execute(request)
        return Response(result.model_dump_json(), media_type=JSON)

    @app.post(
        "/api/llm/parse-execute",
        response_model=ParseExecuteResponse,
        summary="Find the code in a model's answer and, if asked, run what is sure enough",
    )
    async def parse_execute(
        request: ParseExecuteRequest, engine: EngineDependency, caller: CallerDependency
    ) -> Response:
        caller.agent(request.agent_id)
        done = await engine.answers.parse_and_execute(request)
        return Response(done.model_dump_json(), media_type=JSON)
