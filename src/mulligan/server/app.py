"""The HTTP application: routes over the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager

from fastapi import FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import Scope

from mulligan.engine.engine import Engine
from mulligan.engine.lock import DirectoryLock
from mulligan.engine.requests.once import EXECUTE
from mulligan.errors import VmExecutionError
from mulligan.history.tokens import TokenStore, open_tokens
from mulligan.models import (
    ParseExecuteRequest,
    ParseExecuteResponse,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.server import (
    answers,
    approvals,
    directories,
    executions,
    files,
    images,
    mcp,
    openapi,
    packages,
    past,
    sessions,
    terminals,
    tracing,
    vms,
    watching,
)
from mulligan.server.audit import Audit
from mulligan.server.audit_log import AuditLog
from mulligan.server.authentication import Authentication, Tokens
from mulligan.server.guards import Guards
from mulligan.server.limits import BodyLimit, LocalOnly, TooLarge, refusal
from mulligan.server.once import KeyDependency
from mulligan.server.rates import RateLimit
from mulligan.server.request_ids import RequestIds
from mulligan.server.watching import Watch, Watching
from mulligan.settings import Settings, is_loopback
from mulligan.telemetry import told_to
from mulligan.version import __version__

CORS_HEADERS = [
    "Authorization",
    "Idempotency-Key",
    "Last-Event-ID",
    "Mcp-Method",
    "Mcp-Name",
    "Mcp-Protocol-Version",
    "Mcp-Session-Id",
    "X-Request-Id",
]
CORS_ANSWERS = [
    "Content-Range",
    "ETag",
    "Idempotent-Replayed",
    "Mcp-Session-Id",
    "Retry-After",
    "X-Execution-Id",
    "X-Request-Id",
]


def create_app(
    settings: Settings, lock: DirectoryLock | None = None, traces: tracing.Tracing | None = None
) -> FastAPI:
    """The application; its engine opens and closes with it.

    Args:
        settings: see ``mulligan.settings``.
        lock: of the data directory, if the caller has it already.
        traces: in place of those the settings ask for; closed with the application.

    Raises:
        ConfigError: the settings ask for what is not installed.
    """
    watch = Watch(traces or tracing.of_settings(settings.tracing))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = Engine(settings, lock)
        watch.serves(engine)
        try:
            with told_to(watch.sink):
                await engine.open()
        except VmExecutionError as error:
            app.state.failure = error  # for whoever started the server to tell
            raise
        app.state.engine = engine
        try:
            with _tokens(settings) as store:
                app.state.tokens = Tokens(store, required=not is_loopback(settings.host))
                try:
                    yield
                finally:
                    await app.state.tokens.close()
        except VmExecutionError as error:
            app.state.failure = error
            raise
        finally:
            await watch.close()
            await mcp.close(app)
            await engine.close()
            if watch.tracing is not None:
                await asyncio.to_thread(watch.tracing.close)

    app = FastAPI(
        title="Mulligan",
        version=__version__,
        summary="Runs the code language models write, each agent in an isolated VM of its own.",
        lifespan=lifespan,
        docs_url=None,  # they load their scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
    )
    answers.install(app)
    app.add_exception_handler(TooLarge, lambda *_: refusal(settings.max_request_bytes))
    _guard(app, settings, watch)
    _add_routes(app)
    watching.add_routes(app, watch)
    mcp.add_routes(app, settings.mcp)
    return app


def _is_upload(scope: Scope) -> bool:
    return files.is_upload(scope) or images.is_upload(scope)


def _tokens(settings: Settings) -> AbstractContextManager[TokenStore]:
    return open_tokens(
        settings.data_dir / "history", url=settings.database_url, durability=settings.durability
    )


def _guard(app: FastAPI, settings: Settings, watch: Watch) -> None:
    """What a request goes through on its way to a route; the last one added is the first."""
    app.add_middleware(BodyLimit, most=settings.max_request_bytes, spared=_is_upload)
    app.add_middleware(RateLimit, limits=settings.limits)
    app.add_middleware(Authentication)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=CORS_HEADERS,
            expose_headers=CORS_ANSWERS,
        )
    app.add_middleware(
        LocalOnly,
        host=settings.host,
        allowed_hosts=settings.allowed_hosts,
        origins=settings.cors_origins,
    )
    if settings.audit.enabled:
        audit = settings.audit
        log = AuditLog(settings.data_dir, file_mb=audit.file_mb, files=audit.files)
        app.state.audit = log
        app.add_middleware(Audit, log=log)
        watch.audit = log
    app.add_middleware(Watching, watch=watch)
    app.add_middleware(Guards)
    app.add_middleware(RequestIds)


def _add_routes(app: FastAPI) -> None:
    _add_first(app)
    for module in (
        vms,
        executions,
        approvals,
        past,
        sessions,
        files,
        directories,
        terminals,
        packages,
        images,
    ):
        module.add_routes(app)
    openapi.install(app)


def _add_first(app: FastAPI) -> None:
    @app.post(
        "/api/llm/execute",
        response_model=VmExecuteResponse,
        summary="Run code in a VM of an agent",
    )
    async def execute(request: VmExecuteRequest, key: KeyDependency) -> Response:
        """Without `vm_id` it runs in the agent's first VM, which is made if there is none.

        A program that fails or runs into its time limit is no error: the answer says so.
        """
        key.caller.note(vm_id=request.vm_id, approval=request.approval)
        return await key.answer(
            request.agent_id,
            EXECUTE,
            {"request": request},
            lambda attempt: key.engine.execute(request, watcher=attempt),
            note=lambda done: {"vm_id": done.vm_id, "execution_id": done.execution_id},
        )

    @app.post(
        "/api/llm/parse-execute",
        response_model=ParseExecuteResponse,
        summary="Find the code in a model's answer and, if asked, run what is sure enough",
    )
    async def parse_execute(request: ParseExecuteRequest, key: KeyDependency) -> Response:
        """All blocks run in one VM, in order. What could not be run, or failed, is in `errors`."""
        return await key.answer(
            request.agent_id,
            "parse-execute",
            {"request": request},
            lambda _: key.engine.answers.parse_and_execute(request),
            note=lambda done: {
                "execution_id": [each.execution_id for each in done.execution_results]
            },
        )
