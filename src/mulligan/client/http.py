"""A server as what a client talks to."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from mulligan.client import streaming
from mulligan.client.http_files import HttpFiles
from mulligan.client.http_images import HttpImages
from mulligan.client.http_sessions import HttpSessions
from mulligan.client.repeats import key_header, knows_keys
from mulligan.client.terminals import Opened
from mulligan.client.transport import (
    ANSWER_SLACK_S,
    CONNECT_S,
    NO_ROUTE,
    Transport,
    body_of,
    trace_headers,
)
from mulligan.errors import (
    ApiError,
    ApprovalNotFound,
    ExecutionNotFound,
    PackagesNotFound,
    SnapshotNotFound,
    VmExecutionError,
    VmNotAvailable,
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
    Identity,
    PackageSet,
    ParseExecuteRequest,
    ParseExecuteResponse,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    SnapshotCreateRequest,
    TerminalRequest,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
    VmPoolResponse,
    WarmRequest,
)

STATE_TIMEOUT_S = 600.0  # a copy of a large disk takes its time
_INSTANCES = TypeAdapter(list[VmInstance])
_SNAPSHOTS = TypeAdapter(list[Snapshot])
BUILD_S = 3600.0  # packages may be built first; the server ends what takes too long
_APPROVALS = TypeAdapter(list[Approval])
_PACKAGES = TypeAdapter(list[PackageSet])
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
Model = TypeVar("Model", bound=BaseModel)


class HttpBackend:
    """A Mulligan server, or any other that speaks its wire format.

    Args:
        base_url: such as ``http://localhost:8080``.
        timeout_ms: for executions that name no timeout of their own.
        auth_token: sent as a bearer token; None: the one in force (see ``client.tokens``), ""
            for none.
        transport: one there is, in place of one of its own.
        key: an idempotency key, sent with each request.
    """

    def __init__(
        self,
        base_url: str,
        timeout_ms: int,
        auth_token: str | None = None,
        *,
        transport: Transport | None = None,
        key: str | None = None,
    ) -> None:
        self._base_url = base_url
        self._timeout_ms = timeout_ms
        self._transport = transport or Transport(base_url, auth_token)
        self._key = key
        self._send = functools.partial(self._transport.send, key=key)
        self._parse = self._transport.parse

    def use_token(self, token: str) -> None:
        """See ``Transport``."""
        self._transport.use_token(token)

    def keyed(self, key: str) -> HttpBackend:
        """The same, sending an idempotency key with what does something."""
        return HttpBackend(self._base_url, self._timeout_ms, transport=self._transport, key=key)

    @property
    def files(self) -> HttpFiles:
        return HttpFiles(self._transport)

    @property
    def images(self) -> HttpImages:
        return HttpImages(self._transport)

    @property
    def sessions(self) -> HttpSessions:
        return HttpSessions(self._transport, self._timeout_ms, self._key)

    async def execute(self, request: VmExecuteRequest) -> VmExecuteResponse:
        timeout = self._allowed_s(request) + ANSWER_SLACK_S
        response = await self._send("POST", "/api/llm/execute", request, timeout=timeout)
        return self._parse(VmExecuteResponse, response)

    def _allowed_s(self, request: VmExecuteRequest) -> float:
        """How long an execution may take."""
        base_ms = (request.timeout_seconds or 0) * 1000 or self._timeout_ms
        language = LANGUAGES.get(canonical(request.language))
        built_s = BUILD_S if request.requirements else 0.0
        return base_ms / 1000 * (language.timeout_multiplier if language else 1.0) + built_s

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
        http = self._transport.http

        def ask(known: str | None, seen: int) -> AbstractAsyncContextManager[httpx.Response]:
            timeout = httpx.Timeout(ANSWER_SLACK_S, read=streaming.SILENCE_S, connect=CONNECT_S)
            headers = {"Accept": "text/event-stream"} | trace_headers()
            if known is None and request is not None:
                return http.stream(
                    "POST",
                    "/api/llm/execute/stream",
                    params=params,
                    content=body_of(request),
                    headers=headers | {"Content-Type": "application/json"} | key_header(self._key),
                    timeout=timeout,
                )
            path = f"/api/executions/{_execution(known or '')}/events"
            headers["Last-Event-ID"] = str(seen)
            return self._transport.http.stream(
                "GET", path, params=params, headers=headers, timeout=timeout
            )

        try:
            again = None if self._key is None else functools.partial(knows_keys, http)
            listener = streaming.Listener(ask, self._stream_error_of, execution_id, after, again)
            async with aclosing(listener.events()) as events:
                async for event in events:
                    yield event
        except httpx.HTTPError as error:
            raise self._transport.lost(error, "GET" if request is None else "POST") from None

    async def _stream_error_of(self, response: httpx.Response) -> VmExecutionError:
        error = await self._transport.error_of(response)
        if isinstance(error, ApiError) and response.status_code in NO_ROUTE:
            return ApiError(
                f"the server does not stream executions (HTTP {response.status_code})",
                remedy="use a newer one, or execute_code",
            )
        return error

    async def execution(self, execution_id: str) -> ExecutionStatus:
        path = f"/api/executions/{_execution(execution_id)}"
        return self._parse(ExecutionStatus, await self._send("GET", path))

    async def cancel(self, execution_id: str) -> ExecutionStatus:
        path = f"/api/executions/{_execution(execution_id)}/cancel"
        return self._parse(ExecutionStatus, await self._send("POST", path))

    async def batch(self, requests: list[VmExecuteRequest]) -> BatchResponse:
        timeout = sum(self._allowed_s(each) + ANSWER_SLACK_S for each in requests)
        body = BatchRequest(requests=requests)
        response = await self._send("POST", "/api/llm/execute/batch", body, timeout=timeout)
        return self._parse(BatchResponse, response)

    async def parse(self, request: ParseExecuteRequest) -> ParseExecuteResponse:
        response = await self._send("POST", "/api/llm/parse-execute", request, timeout=None)
        return self._parse(ParseExecuteResponse, response)

    async def pool(self, agent_id: str) -> VmPoolResponse:
        path = f"/api/llm/vm-pool/{quote(agent_id, safe='')}"
        return self._parse(VmPoolResponse, await self._send("GET", path))

    async def create_vm(self, request: VmCreateRequest) -> VmInstance:
        return self._parse(VmInstance, await self._send("POST", "/api/vms", request))

    async def get_vm(self, vm_id: str, wait_seconds: float = 0) -> VmInstance:
        params = {"wait_seconds": f"{wait_seconds:.3f}"} if wait_seconds else {}
        path = f"/api/vms/{_segment(vm_id)}"
        return self._parse(VmInstance, await self._send("GET", path, params=params))

    async def list_vms(self, agent_id: str | None) -> list[VmInstance]:
        params = {"agent_id": agent_id} if agent_id is not None else {}
        response = await self._send("GET", "/api/vms", params=params)
        return self._list(_INSTANCES, response)

    async def stop_vm(self, vm_id: str) -> VmInstance:
        path = f"/api/vms/{_segment(vm_id)}/stop"
        return self._parse(VmInstance, await self._send("POST", path))

    async def whoami(self) -> Identity:
        return self._parse(Identity, await self._send("GET", "/api/whoami"))

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
        return self._parse(HistoryQueryResponse, await self._send("GET", path, params=params))

    async def snapshots(self, vm_id: str) -> list[Snapshot]:
        response = await self._send("GET", f"/api/vms/{_segment(vm_id)}/snapshots")
        return self._list(_SNAPSHOTS, response)

    async def snapshot(self, vm_id: str, request: SnapshotCreateRequest) -> Snapshot:
        path = f"/api/vms/{_segment(vm_id)}/snapshots"
        return self._parse(
            Snapshot, await self._send("POST", path, request, timeout=STATE_TIMEOUT_S)
        )

    async def delete_snapshot(self, vm_id: str, snapshot_id: str) -> None:
        if not _ID.fullmatch(snapshot_id):
            raise SnapshotNotFound(snapshot_id[:100], field="snapshot_id")
        await self._send("DELETE", f"/api/vms/{_segment(vm_id)}/snapshots/{snapshot_id}")

    async def rollback(self, vm_id: str, to: RollbackTo) -> RollbackResponse:
        path = f"/api/vms/{_segment(vm_id)}/rollback"
        response = await self._send("POST", path, to, timeout=STATE_TIMEOUT_S)
        return self._parse(RollbackResponse, response)

    async def fork(self, vm_id: str, request: ForkRequest) -> ForkResponse:
        path = f"/api/vms/{_segment(vm_id)}/fork"
        response = await self._send("POST", path, request, timeout=STATE_TIMEOUT_S)
        return self._parse(ForkResponse, response)

    async def diff(self, vm_id: str, old: str | None, new: str | None) -> DiffResponse:
        params = {name: value for name, value in (("from", old), ("to", new)) if value is not None}
        path = f"/api/vms/{_segment(vm_id)}/diff"
        response = await self._send("GET", path, params=params, timeout=STATE_TIMEOUT_S)
        return self._parse(DiffResponse, response)

    async def approvals(self, state: str | None, agent_id: str | None) -> list[Approval]:
        given = {"state": state, "agent_id": agent_id}
        params = {name: value for name, value in given.items() if value is not None}
        response = await self._send("GET", "/api/approvals", params=params)
        return self._list(_APPROVALS, response)

    async def approval(self, approval_id: str) -> Approval:
        return self._parse(Approval, await self._send("GET", _approval(approval_id)))

    async def answer(self, approval_id: str, answer: ApprovalAnswer) -> Approval:
        return self._parse(Approval, await self._send("POST", _approval(approval_id), answer))

    async def packages(self) -> list[PackageSet]:
        return self._list(_PACKAGES, await self._send("GET", "/api/packages"))

    async def warm(self, request: WarmRequest) -> PackageSet:
        return self._parse(
            PackageSet, await self._send("POST", "/api/packages", request, timeout=BUILD_S)
        )

    async def delete_packages(self, set_id: str) -> None:
        if not _ID.fullmatch(set_id):
            raise PackagesNotFound(set_id[:100], field="set_id")
        await self._send("DELETE", f"/api/packages/{set_id}")

    def terminal(self, vm_id: str, request: TerminalRequest) -> Opened:
        from mulligan.client.websocket import open_terminal  # noqa: PLC0415  (few need it)

        return open_terminal(self._transport, _segment(vm_id), request)

    async def healthy(self) -> bool:
        return await self._transport.healthy()

    async def close(self) -> None:
        await self._transport.close()

    def _list(self, kind: TypeAdapter[list[Model]], response: httpx.Response) -> list[Model]:
        try:
            return kind.validate_json(response.content)
        except ValidationError as error:
            raise self._transport.unreadable(response, error) from None


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
