"""What a server tells of itself: the middleware that watches requests, /health and /metrics."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Literal

from fastapi import FastAPI, Request, Response
from pydantic import Field
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from mulligan.engine.census import CensusTaker
from mulligan.engine.engine import Engine
from mulligan.engine.health import Check, Health
from mulligan.errors import VmExecutionError
from mulligan.models import ErrorAnswer
from mulligan.models.base import Struct
from mulligan.server.access import CallerDependency
from mulligan.server.audit_log import AuditLog
from mulligan.server.metrics import OTHER, Metrics
from mulligan.server.tracing import Tracing
from mulligan.telemetry import Several, Sink, told_to
from mulligan.version import __version__

WEBSOCKET = "WEBSOCKET"
FEATURES = ("idempotency-keys",)  # what a client may rely on that older servers do not have
CLIENT_GONE = 499  # as nginx has it
FAULT = 500


class HealthAnswer(Struct):
    """Whether the server can do its work.

    "starting", "ok", "failing" (some check is not ok) or "stopping": it takes no new work.
    """

    status: Literal["starting", "ok", "failing", "stopping"]
    version: str = __version__
    languages: list[str] = Field(default_factory=list)
    features: list[str] = Field(default_factory=lambda: list(FEATURES))
    checks: dict[str, Check] = Field(default_factory=dict)


class Watch:
    """Everything that watches one server.

    Args:
        tracing: traces, if there are to be any.
    """

    def __init__(self, tracing: Tracing | None) -> None:
        self.metrics = Metrics()
        self.tracing = tracing
        self.health: Health | None = None
        self.census: CensusTaker | None = None
        self.audit: AuditLog | None = None
        self.sink: Sink = self.metrics

    def serves(self, engine: Engine) -> None:
        """The engine that is watched, before it opens."""
        self.health = Health(engine)
        self.census = CensusTaker(engine)
        others = (self.tracing,) if self.tracing is not None else ()
        self.sink = Several(self.metrics, self.health, *others)

    async def close(self) -> None:
        """Ends what it has begun; before its engine closes."""
        if self.health is not None:
            await self.health.close()
        if self.census is not None:
            await self.census.close()


class Watching:
    """Counts and times requests, and has what is done for them told to those who watch.

    Args:
        app: the application behind it.
        watch: who watches.
    """

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app = app
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        method = scope.get("method", WEBSOCKET)
        status = CLIENT_GONE

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and status == CLIENT_GONE:
                status = 403  # what becomes of a refused one
            await send(message)

        start = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(told_to(self._watch.sink))
            span = None
            if self._watch.tracing is not None:
                headers = {
                    name.decode("latin-1"): value.decode("latin-1")
                    for name, value in scope["headers"]
                    if name in (b"traceparent", b"tracestate")
                }
                span = stack.enter_context(self._watch.tracing.request(method, headers))
                stack.enter_context(bound_contextvars(trace_id=span.trace_id))
            try:
                await self._app(scope, receive, noted)
            except Exception:
                status = FAULT if status == CLIENT_GONE else status
                raise
            finally:
                route = route_of(scope)
                self._watch.metrics.request(method, route, status, time.perf_counter() - start)
                if span is not None:
                    span.answered(route, status)


def route_of(scope: Scope) -> str:
    """The route as it is declared; all paths that lead nowhere are one."""
    route: BaseRoute | None = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) and path else OTHER


def add_routes(app: FastAPI, watch: Watch) -> None:
    """Adds them."""

    @app.get(
        "/health",
        response_model=HealthAnswer,
        summary="Whether the server can do its work",
        responses={503: {"model": HealthAnswer, "description": "It cannot; the checks say why"}},
    )
    async def health(request: Request) -> Response:
        """Cheap, and asks for no token. What is wrong in detail is in the server's log."""
        found = await _health(request.app.state.engine, watch)
        status = 200 if found.status == "ok" else 503
        return Response(found.model_dump_json(), status_code=status, media_type="application/json")

    @app.get(
        "/metrics",
        summary="Metrics, as Prometheus reads them",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            403: {"model": ErrorAnswer},
        },
    )
    async def metrics(request: Request, caller: CallerDependency) -> Response:
        """For administrators: it tells what all agents do, if not which."""
        caller.require_admin("metrics")
        assert watch.census is not None
        try:
            census = await watch.census.take()
        except VmExecutionError:  # it is shutting down
            census = None
        body, kind = watch.metrics.text(census, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": kind})


async def _health(engine: Engine, watch: Watch) -> HealthAnswer:
    assert watch.health is not None
    try:
        checks = await watch.health.checks()
        if watch.audit is not None:
            lost = watch.audit.failure is not None
            detail = "it cannot be written; the log says why" if lost else "it is written"
            checks["audit_log"] = Check(ok=not lost, detail=detail)
        languages = engine.languages()
    except VmExecutionError:
        return HealthAnswer(status="stopping")
    well = all(check.ok for check in checks.values())
    return HealthAnswer(status="ok" if well else "failing", languages=languages, checks=checks)
