"""Requests to a server, and what is said where it is old, something else, or gone.

What is sent again: everything, where no connection was made, since nothing was sent; GETs, where
one was lost; and what has an idempotency key (see ``client.repeats``). Nothing else ever is: code
may not run twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from mulligan.client.repeats import KEY, key_header, repeated
from mulligan.client.tokens import token_in_force
from mulligan.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    ExecutionFailed,
    ExecutionNotFound,
    ExecutionTimeout,
    FileError,
    Forbidden,
    HistoryError,
    ImageInUse,
    ImageNotFound,
    PackagesNotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    ValidationFailed,
    VmBusy,
    VmExecutionError,
    VmNotAvailable,
    from_wire,
)
from mulligan.version import __version__

ANSWER_SLACK_S = 30.0  # for booting, queueing and the way back
CONNECT_S = 5.0
HEALTH_TIMEOUT_S = 5.0
ATTEMPTS = 3
FIRST_WAIT_S = 0.1
IDLE_S = 4.0  # less than servers keep a connection that is not used, so none is gone when we use it
MOST_ANSWER_BYTES = 1024 * 1024 * 1024
MOST_SHOWN = 500
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
NO_ROUTE: dict[int, str] = {  # in the words of Mulligan's own servers
    httpx.codes.NOT_FOUND: "Not Found",
    httpx.codes.METHOD_NOT_ALLOWED: "Method Not Allowed",
}
UNKNOWN_FIELD = "Extra inputs are not permitted"
# Errors that have no name of their own on the wire, by that they go by and their status
_KINDS: dict[tuple[type[VmExecutionError], int], type[VmExecutionError]] = {
    (HistoryError, ExecutionNotFound.http_status): ExecutionNotFound,
    (ValidationFailed, ImageInUse.http_status): ImageInUse,
    (VmNotAvailable, VmBusy.http_status): VmBusy,
    **{(ApiError, kind.http_status): kind for kind in (Unauthorized, Forbidden, TooManyRequests)},
    (ExecutionFailed, Unavailable.http_status): Unavailable,
    **{(FileError, kind.http_status): kind for kind in FileError.__subclasses__()},
}
# What was not found, where the path tells more than the error.
_MISSING: dict[str, type[VmExecutionError]] = {
    "/api/image": ImageNotFound,
    "/api/packages": PackagesNotFound,
}
Model = TypeVar("Model", bound=BaseModel)


class Transport:
    """Connections to one server, which are used again.

    Args:
        base_url: such as ``http://localhost:8080``.
        auth_token: sent as a bearer token; None: the one in force (see ``client.tokens``), ""
            for none.

    Raises:
        ConfigError: ``base_url`` is no URL of a server.
    """

    def __init__(self, base_url: str, auth_token: str | None = None) -> None:
        self.base_url = _checked(base_url)
        self.http = httpx.AsyncClient(
            base_url=self.base_url,
            timeout=httpx.Timeout(ANSWER_SLACK_S, connect=CONNECT_S),
            # A stream has a connection for as long as it lasts.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=IDLE_S),
            # A proxy from the environment has no business between us and this machine.
            trust_env=urlsplit(self.base_url).hostname not in LOOPBACK,
        )
        token = token_in_force() if auth_token is None else auth_token
        if token:
            self.use_token(token)

    def use_token(self, token: str) -> None:
        """Sends a bearer token from now on."""
        self.http.headers["Authorization"] = f"Bearer {token}"

    async def close(self) -> None:
        """Closes all connections."""
        await self.http.aclose()

    async def send(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        params: dict[str, str] | None = None,
        timeout: float | None = ANSWER_SLACK_S,
        key: str | None = None,
    ) -> httpx.Response:
        """Sends a request and reads its answer, in ``timeout`` seconds at the most.

        Raises:
            ConnectionFailed: the server could not be reached, or was lost.
            ExecutionTimeout: it did not answer in time.
            VmExecutionError: what it answered; an ``ApiError`` where that is nothing of ours.
        """
        headers = trace_headers() | key_header(key)
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = self.http.build_request(
            method,
            path,
            content=body_of(body) if body is not None else None,
            headers=headers,
            params=params,
            timeout=httpx.Timeout(timeout, connect=CONNECT_S),
        )
        try:
            async with asyncio.timeout(None if timeout is None else timeout + CONNECT_S):
                response = await self._send(request)
        except (httpx.TimeoutException, TimeoutError) as error:
            raise self.lost(error, method, timeout) from None
        except httpx.HTTPError as error:
            raise self.lost(error, method) from None
        if not response.is_success:
            raise await self.error_of(response)
        return response

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Sends a request, again where that is safe."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._once(request)
            except httpx.TimeoutException:
                raise
            except httpx.TransportError as error:
                if KEY in request.headers and not isinstance(error, NOT_SENT):
                    return await repeated(self.http, lambda: self._once(request), error)
                safe = request.method == "GET" or isinstance(error, NOT_SENT)
                if not safe or attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(FIRST_WAIT_S * attempt)
        raise AssertionError

    async def _once(self, request: httpx.Request) -> httpx.Response:
        """Sends a request; of what is no answer of ours no more is read than can be shown."""
        response = await self.http.send(request, stream=True)
        try:
            most = MOST_ANSWER_BYTES if _may_be_json(response) else MOST_SHOWN * 4
            pieces, size = [], 0
            async for piece in response.aiter_bytes():
                size += len(piece)
                pieces.append(piece)
                if size > most:
                    break
        finally:
            await response.aclose()
        content = b"".join(pieces)
        if size > most and most == MOST_ANSWER_BYTES:
            raise ApiError(f"the answer is over {most} bytes")
        headers = httpx.Headers(response.headers)
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            headers.pop(name, None)  # they are of what was read already
        return httpx.Response(
            response.status_code, headers=headers, content=content, request=request
        )

    def lost(
        self, error: Exception, method: str = "GET", timeout: float | None = None
    ) -> VmExecutionError:
        """The error to raise for one of the connection's."""
        if isinstance(error, httpx.TimeoutException | TimeoutError) and timeout is not None:
            if not isinstance(error, NOT_SENT):
                return ExecutionTimeout(
                    int(timeout * 1000),
                    remedy=None
                    if method == "GET"
                    else "it goes on where the server does; look into the history",
                )
            error = TimeoutError(f"no connection within {CONNECT_S:.0f} s")
        reason = str(error) or type(error).__name__
        if isinstance(error, (*NOT_SENT, TimeoutError)):
            return ConnectionFailed(
                f"cannot reach {self.base_url}: {reason}", remedy=self._remedy(reason)
            )
        if method == "GET":
            remedy = "is the server running? its log may say why"
        else:
            remedy = "it may have been done; look before you ask for it again"
        return ConnectionFailed(f"lost the connection to {self.base_url}: {reason}", remedy=remedy)

    def _remedy(self, reason: str) -> str:
        if "SSL" in reason or "TLS" in reason:
            return "does the server speak TLS? use http:// for one that does not"
        if "Name or service" in reason or "resolution" in reason or "nodename" in reason:
            return "there is no host of that name; look at api_base_url"
        return "is the server running? start one with: mulligan serve"

    async def error_of(self, response: httpx.Response) -> VmExecutionError:
        """The error an answer carries, in the wire format or as any server may say it."""
        error = wire_error(response)
        asked = f"{response.request.method} {response.request.url.path}"
        if error is None:
            return ApiError(
                f"HTTP {response.status_code}: {response.text[:MOST_SHOWN]}",
                remedy=f"is {self.base_url} a Mulligan server? something else may answer there",
            )
        if isinstance(error, ApiError) and error.detail == NO_ROUTE.get(response.status_code):
            return ApiError(
                f"the server has no {asked} (HTTP {response.status_code})",
                remedy=await self._upgrade(),
            )
        if isinstance(error, ValidationFailed) and str(error.detail).endswith(UNKNOWN_FIELD):
            return ValidationFailed(
                f"the server does not know the field {error.field}",
                field=error.field,
                remedy=await self._upgrade(),
            )
        return error

    async def _upgrade(self) -> str:
        version = await self.version()
        its = f"it is version {version}" if version else "its version is not known"
        return f"{its}, this client is {__version__}; use a server that is no older"

    async def version(self) -> str | None:
        """The server's version, if it says so."""
        with contextlib.suppress(httpx.HTTPError, ValueError, VmExecutionError):
            request = self.http.build_request("GET", "/health", timeout=HEALTH_TIMEOUT_S)
            body = (await self._once(request)).json()
            if isinstance(body, dict) and isinstance(body.get("version"), str):
                return str(body["version"])[:50]
        return None

    async def healthy(self) -> bool:
        """Whether the server says that it is well.

        Raises:
            ConnectionFailed, ExecutionTimeout: it does not answer.
            ApiError: something else does.
        """
        request = self.http.build_request("GET", "/health", timeout=HEALTH_TIMEOUT_S)
        try:
            response = await self._send(request)
        except httpx.HTTPError as error:
            raise self.lost(error, "GET", HEALTH_TIMEOUT_S) from None
        if not _may_be_json(response):
            raise await self.error_of(response)
        return response.is_success

    def parse(self, model: type[Model], response: httpx.Response) -> Model:
        """An answer as what it should be.

        Raises:
            ApiError: it is not.
        """
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise self.unreadable(response, error) from None

    def unreadable(self, response: httpx.Response, error: ValidationError) -> ApiError:
        """The error for an answer that is not what it should be."""
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        kind = response.headers.get("content-type", "")[:50]
        what = first["msg"] if _may_be_json(response) else f"it is {kind}, not JSON"
        return ApiError(
            f"Failed to parse response: {where}: {what}",
            remedy=f"is {self.base_url} a Mulligan server? something else may answer there",
        )


def _checked(base_url: str) -> str:
    with contextlib.suppress(ValueError, httpx.InvalidURL):
        url = urlsplit(base_url)
        _ = url.port
        if url.scheme in ("http", "https") and url.hostname:
            httpx.URL(base_url)
            return base_url.rstrip("/")
    raise ConfigError(
        f"api_base_url is {base_url[:200]!r}, which is no URL of a server",
        field="api_base_url",
        remedy="use one such as http://localhost:8080",
    )


def _may_be_json(response: httpx.Response) -> bool:
    """False for what says that it is something else."""
    kind = response.headers.get("content-type", "application/json")
    return "json" in kind.partition(";")[0].lower()


def body_of(model: BaseModel) -> str:
    """A model as the body of a request.

    What is None is left out: a server that is older than a field minds it where it is used only.

    Raises:
        ApiError: it holds half a surrogate pair, which JSON cannot carry.
    """
    try:
        return model.model_dump_json(exclude_none=True)
    except ValueError as error:
        raise ApiError(f"the request is no text: {error}") from None


def wire_error(response: httpx.Response) -> VmExecutionError | None:
    """The error an answer carries in the wire format; None where it is in no such form."""
    try:
        body = response.json()
        error = from_wire(body["error"])
        kind = _KINDS.get((type(error), response.status_code), type(error))
        if kind is ValidationFailed and response.status_code == httpx.codes.NOT_FOUND:
            path = response.request.url.path
            kind = next((each for at, each in _MISSING.items() if path.startswith(at)), kind)
        return kind(error.detail, field=body.get("field"), remedy=body.get("remedy"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def trace_headers() -> dict[str, str]:
    """``traceparent`` of the span this is called in, where the program has such spans."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        TraceContextTextMapPropagator().inject(headers)
    return headers
