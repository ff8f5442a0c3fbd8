"""A server as what a client talks to."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from mulligan.client import streaming
from mulligan.client.http_files import HttpFiles
from mulligan.client.tokens import token_in_force
from mulligan.errors import (
    ApiError,
    ApprovalNotFound,
    ConnectionFailed,
    ExecutionNotFound,
    ExecutionTimeout,
    FileError,
    Forbidden,
    HistoryError,
    SnapshotNotFound,
    TooManyRequests,
    Unauthorized,
    VmExecutionError,
    VmNotAvailable,
    from_wire,
)
from mulligan.languages import LANGUAGES, canonical
from mulligan.models import (
    Approval,
    ApprovalAnswer,
    BatchRequest,
    BatchResponse,
    DiffResponse,
    ExecutionEvent,
    ExecutionStatus,
    ForkRequest,
    ForkResponse,
    HistoryQueryRequest,
    HistoryQueryResponse,
    ParseExecuteRequest,
    ParseExecuteResponse,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    SnapshotCreateRequest,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
    VmPoolResponse,
)

ANSWER_SLACK_S = 30.0  # for booting, queueing and the way back
HEALTH_TIMEOUT_S = 5.0
STATE_TIMEOUT_S = 600.0  # a copy of a large disk takes its time
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_INSTANCES = TypeAdapter(list[VmInstance])
_SNAPSHOTS = TypeAdapter(list[Snapshot])
_APPROVALS = TypeAdapter(list[Approval])
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
# Errors that have no name of their own on the wire, by that they go by and their status
_KINDS: dict[tuple[type[VmExecutionError], int], type[VmExecutionError]] = {
    (HistoryError, ExecutionNotFound.http_status): ExecutionNotFound,
    **{(ApiError, kind.http_status): kind for kind in (Unauthorized, Forbidden, TooManyRequests)},
    **{(FileError, kind.http_status): kind for kind in FileError.__subclasses__()},
}
Model = TypeVar("Model", bound=BaseModel)


class HttpBackend:
    """A Mulligan server, or any other that speaks its wire format.

    Args:
        base_url: such as ``http://localhost:8080``.
        timeout_ms: for executions that name no timeout of their own.
        auth_token: sent as a bearer token; None: the one in force (see ``client.tokens``), ""
            for none.
    """

    def __init__(self, base_url: str, timeout_ms: int, auth_token: str | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout_ms = timeout_ms
        token = token_in_force() if auth_token is None else auth_token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            base_url=self._base_url,
            headers=headers,
            timeout=ANSWER_SLACK_S,
            limits=httpx.Limits(max_connections=None),  # a stream has one for as long as it lasts
            # A proxy from the environment has no business between us and this machine.
            trust_env=urlsplit(self._base_url).hostname not in LOOPBACK,
        )

    @property
    def files(self) -> HttpFiles:
        return HttpFiles(self._http, self._send, _file_error_of, self._unreachable)

    async def execute(self, request: VmExecuteRequest) -> VmExecuteResponse:
        timeout = self._allowed_s(request) + ANSWER_SLACK_S
        response = await self._send("POST", "/api/llm/execute", request, timeout=timeout)
        return _parse(VmExecuteResponse, response)

    def _allowed_s(self, request: VmExecuteRequest) -> float:
        """How long an execution may take."""
        base_ms = (request.timeout_seconds or 0) * 1000 or self._timeout_ms
        language = LANGUAGES.get(canonical(request.language))
        return base_ms / 1000 * (language.timeout_multiplier if language else 1.0)

    def stream(
        self, request: VmExecuteRequest, *, cancel_on_disconnect: bool
    ) -> AsyncGenerator[ExecutionEvent, None]:
        return self._events(request, None, 0, cancel_on_disconnect=cancel_on_disconnect)

    def follow(self, execution_id: str, after: int) -> AsyncGenerator[ExecutionEvent, None]:
        return self._events(None, _execution(execution_id), after)

    async def _events(
        self,
        request: VmExecuteRequest | None,
        execution_id: str | None,
        after: int,
        *,
        cancel_on_disconnect: bool = False,
    ) -> AsyncGenerator[ExecutionEvent, None]:
        params = {"cancel_on_disconnect": "true"} if cancel_on_disconnect else {}

        def ask(known: str | None, seen: int) -> AbstractAsyncContextManager[httpx.Response]:
            timeout = httpx.Timeout(ANSWER_SLACK_S, read=streaming.SILENCE_S)
            headers = {"Accept": "text/event-stream"}
            if known is None and request is not None:
                return self._http.stream(
                    "POST",
                    "/api/llm/execute/stream",
                    params=params,
                    content=_body(request),
                    headers=headers | {"Content-Type": "application/json"},
                    timeout=timeout,
                )
            path = f"/api/executions/{_execution(known or '')}/events"
            headers["Last-Event-ID"] = str(seen)
            return self._http.stream("GET", path, params=params, headers=headers, timeout=timeout)

        try:
            listener = streaming.Listener(ask, _stream_error_of, execution_id, after)
            async with aclosing(listener.events()) as events:
                async for event in events:
                    yield event
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    async def execution(self, execution_id: str) -> ExecutionStatus:
        path = f"/api/executions/{_execution(execution_id)}"
        return _parse(ExecutionStatus, await self._send("GET", path))

    async def cancel(self, execution_id: str) -> ExecutionStatus:
        path = f"/api/executions/{_execution(execution_id)}/cancel"
        return _parse(ExecutionStatus, await self._send("POST", path))

    async def batch(self, requests: list[VmExecuteRequest]) -> BatchResponse:
        timeout = sum(self._allowed_s(each) + ANSWER_SLACK_S for each in requests)
        body = BatchRequest(requests=requests)
        response = await self._send("POST", "/api/llm/execute/batch", body, timeout=timeout)
        return _parse(BatchResponse, response)

    async def parse(self, request: ParseExecuteRequest) -> ParseExecuteResponse:
        response = await self._send("POST", "/api/llm/parse-execute", request, timeout=None)
        return _parse(ParseExecuteResponse, response)

    async def pool(self, agent_id: str) -> VmPoolResponse:
        path = f"/api/llm/vm-pool/{quote(agent_id, safe='')}"
        return _parse(VmPoolResponse, await self._send("GET", path))

    async def create_vm(self, request: VmCreateRequest) -> VmInstance:
        return _parse(VmInstance, await self._send("POST", "/api/vms", request))

    async def get_vm(self, vm_id: str) -> VmInstance:
        return _parse(VmInstance, await self._send("GET", f"/api/vms/{_segment(vm_id)}"))

    async def list_vms(self, agent_id: str | None) -> list[VmInstance]:
        params = {"agent_id": agent_id} if agent_id is not None else {}
        response = await self._send("GET", "/api/vms", params=params)
        try:
            return _INSTANCES.validate_json(response.content)
        except ValidationError as error:
            raise _unreadable(error) from None

    async def delete_vm(self, vm_id: str) -> None:
        await self._send("DELETE", f"/api/vms/{_segment(vm_id)}")

    async def history(self, request: HistoryQueryRequest) -> HistoryQueryResponse:
        asked = request.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        params = {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in asked.items()
            if name != "vm_id"
        }
        path = f"/api/vms/{_segment(request.vm_id)}/history"
        return _parse(HistoryQueryResponse, await self._send("GET", path, params=params))

    async def snapshots(self, vm_id: str) -> list[Snapshot]:
        response = await self._send("GET", f"/api/vms/{_segment(vm_id)}/snapshots")
        try:
            return _SNAPSHOTS.validate_json(response.content)
        except ValidationError as error:
            raise _unreadable(error) from None

    async def snapshot(self, vm_id: str, request: SnapshotCreateRequest) -> Snapshot:
        path = f"/api/vms/{_segment(vm_id)}/snapshots"
        return _parse(Snapshot, await self._send("POST", path, request, timeout=STATE_TIMEOUT_S))

    async def delete_snapshot(self, vm_id: str, snapshot_id: str) -> None:
        if not _ID.fullmatch(snapshot_id):
            raise SnapshotNotFound(snapshot_id[:100], field="snapshot_id")
        await self._send("DELETE", f"/api/vms/{_segment(vm_id)}/snapshots/{snapshot_id}")

    async def rollback(self, vm_id: str, to: RollbackTo) -> RollbackResponse:
        path = f"/api/vms/{_segment(vm_id)}/rollback"
        response = await self._send("POST", path, to, timeout=STATE_TIMEOUT_S)
        return _parse(RollbackResponse, response)

    async def fork(self, vm_id: str, request: ForkRequest) -> ForkResponse:
        path = f"/api/vms/{_segment(vm_id)}/fork"
        response = await self._send("POST", path, request, timeout=STATE_TIMEOUT_S)
        return _parse(ForkResponse, response)

    async def diff(self, vm_id: str, old: str | None, new: str | None) -> DiffResponse:
        params = {name: value for name, value in (("from", old), ("to", new)) if value is not None}
        path = f"/api/vms/{_segment(vm_id)}/diff"
        response = await self._send("GET", path, params=params, timeout=STATE_TIMEOUT_S)
        return _parse(DiffResponse, response)

    async def approvals(self, state: str | None, agent_id: str | None) -> list[Approval]:
        given = {"state": state, "agent_id": agent_id}
        params = {name: value for name, value in given.items() if value is not None}
        response = await self._send("GET", "/api/approvals", params=params)
        try:
            return _APPROVALS.validate_json(response.content)
        except ValidationError as error:
            raise _unreadable(error) from None

    async def approval(self, approval_id: str) -> Approval:
        return _parse(Approval, await self._send("GET", _approval(approval_id)))

    async def answer(self, approval_id: str, answer: ApprovalAnswer) -> Approval:
        return _parse(Approval, await self._send("POST", _approval(approval_id), answer))

    async def healthy(self) -> bool:
        try:
            response = await self._http.get("/health", timeout=HEALTH_TIMEOUT_S)
        except httpx.TimeoutException:
            raise ExecutionTimeout(int(HEALTH_TIMEOUT_S * 1000)) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        return response.is_success

    async def close(self) -> None:
        await self._http.aclose()

    async def _send(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        params: dict[str, str] | None = None,
        timeout: float | None = ANSWER_SLACK_S,
    ) -> httpx.Response:
        """Sends a request; an answer that is an error is raised as one."""
        try:
            response = await self._http.request(
                method,
                path,
                content=_body(body) if body is not None else None,
                headers={"Content-Type": "application/json"} if body is not None else None,
                params=params,
                timeout=timeout,
            )
        except httpx.TimeoutException:
            raise ExecutionTimeout(int((timeout or 0) * 1000)) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if not response.is_success:
            raise _error_of(response)
        return response

    def _unreachable(self, error: httpx.HTTPError) -> ConnectionFailed:
        reason = str(error) or type(error).__name__
        return ConnectionFailed(
            f"cannot reach {self._base_url}: {reason}",
            remedy="is the server running? start one with: mulligan serve",
        )


def _body(model: BaseModel) -> str:
    try:
        return model.model_dump_json()
    except ValueError as error:  # half a surrogate pair, which JSON cannot carry
        raise ApiError(f"the request is no text: {error}") from None


def _execution(execution_id: str) -> str:
    """``_segment`` for an execution's id.

    Raises:
        ExecutionNotFound: no execution has such an id.
    """
    if not _ID.fullmatch(execution_id):
        raise ExecutionNotFound(f"no execution {execution_id[:100]}", field="execution_id")
    return execution_id


def _approval(approval_id: str) -> str:
    """The path of an approval.

    Raises:
        ApprovalNotFound: no approval has such an id.
    """
    if not _ID.fullmatch(approval_id):
        raise ApprovalNotFound(approval_id[:100], field="approval_id")
    return f"/api/approvals/{approval_id}"


def _segment(vm_id: str) -> str:
    """An id as one segment of a path; what could be no id is not even asked for.

    Raises:
        VmNotAvailable: no VM has such an id.
    """
    if not _ID.fullmatch(vm_id):
        raise VmNotAvailable(vm_id[:100], field="vm_id")
    return vm_id


def _parse(model: type[Model], response: httpx.Response) -> Model:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise _unreadable(error) from None


def _unreadable(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return ApiError(f"Failed to parse response: {where}: {first['msg']}")


def _stream_error_of(response: httpx.Response) -> VmExecutionError:
    error = _error_of(response)
    unknown = (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED)
    if isinstance(error, ApiError) and response.status_code in unknown:
        return ApiError(
            f"the server does not stream executions (HTTP {response.status_code})",
            remedy="use a newer one, or execute_code",
        )
    return error


def _file_error_of(response: httpx.Response) -> VmExecutionError:
    error = _error_of(response)
    if isinstance(error, ApiError) and response.status_code == httpx.codes.NOT_FOUND:
        return ApiError(
            "the server has no files of VMs (HTTP 404)",
            remedy="use a newer one, or run a program that reads or writes them",
        )
    return error


def _error_of(response: httpx.Response) -> VmExecutionError:
    """The error an answer carries, in the wire format or as any server may say it."""
    try:
        body = response.json()
        error = from_wire(body["error"])
        kind = _KINDS.get((type(error), response.status_code), type(error))
        return kind(error.detail, field=body.get("field"), remedy=body.get("remedy"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(f"HTTP {response.status_code}: {response.text[:500]}")
