"""Errors as HTTP answers: one JSON form for all of them.

::

    {"error": {"UnsupportedLanguage": "cobol"},      the enum form of the wire format
     "message": "Language not supported: cobol",     one line for a person
     "field": "language",                            what was wrong, or null
     "remedy": "use one of: python, bash",           what to do about it, or null
     "request_id": "req-7d1f0c42a86b9e35"}           that of the answer's X-Request-Id
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from mulligan.errors import (
    ApiError,
    InternalError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.log import get_logger
from mulligan.models import ErrorAnswer
from mulligan.server.request_ids import HEADER, request_id

log = get_logger()

POLICY_VIOLATION = 1008  # of RFC 6455


def told(error: VmExecutionError) -> ErrorAnswer:
    """The body of an error's answer, with the request's id."""
    return ErrorAnswer.of(error).model_copy(update={"request_id": request_id()})


def answer(error: VmExecutionError, status: int | None = None) -> JSONResponse:
    """The answer for an error."""
    headers = {}
    if isinstance(error, TooManyRequests | Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="mulligan"'
    return JSONResponse(told(error).model_dump(), status or error.http_status, headers)


async def refuse(
    error: VmExecutionError, scope: Scope, receive: Receive, send: Send, status: int | None = None
) -> None:
    """Answers a request, or one for a WebSocket, before it gets to a route.

    Args:
        error: why.
        scope, receive, send: see ASGI.
        status: of the answer; that of the error by default.
    """
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        await receive()
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    await answer(error, status)(scope, receive, send)


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VmExecutionError)
    return answer(error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    """A body that is no JSON is a 400, one that is not what the route takes a 422."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it cannot be parsed")
        return answer(
            ValidationFailed(f"the body is not valid JSON: {reason}", field="body"), status=400
        )
    marked = "json" in request.headers.get("Content-Type", "")
    if first["loc"] == ("body",) and first["type"] != "missing" and not marked:
        unsaid = ValidationFailed(
            "the body does not say that it is JSON",
            field="body",
            remedy="send it with Content-Type: application/json",
        )
        return answer(unsaid, status=422)
    return answer(of_invalid(first), status=422)


def of_invalid(first: Mapping[str, Any]) -> ValidationFailed:
    """One of pydantic's complaints as an error."""
    first_part, *rest = first["loc"] or ("body",)
    parts = rest if first_part in ("body", "query", "path", "header") else [first_part, *rest]
    field = ".".join(map(str, parts)) or "body"
    return ValidationFailed(f"{field}: {first['msg']}", field=field)


def _methods_at(request: Request) -> list[str]:
    """The methods a path takes, of all its routes; each route knows its own alone."""
    found: dict[str, set[str]] = {}
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found.setdefault(route.path, set()).update(route.methods or ())
    # Where a path may be read as several, the longest is the one that was meant.
    return sorted(found[max(found, key=len)]) if found else []


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.detail == "There was an error parsing the body":  # FastAPI's words for no UTF-8
        reason = "it is not UTF-8, or is nested too deeply"
        return answer(
            ValidationFailed(f"the body is not valid JSON: {reason}", field="body"), status=400
        )
    response = answer(ApiError(str(error.detail)), status=error.status_code)
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(_methods_at(request))
    return response


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the details go to the log, not to the client."""
    log.exception("fault", path=request.url.path, exc_info=error)
    response = answer(InternalError("the server failed; its log has the details"))
    if (known := request_id()) is not None:  # this answer passes nobody who would add it
        response.headers[HEADER] = known
    return response


def install(app: FastAPI) -> None:
    """Makes an app answer errors in this form."""
    app.add_exception_handler(VmExecutionError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)
