"""Operations with an idempotency key on an engine in the client's own process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic import BaseModel

from mulligan.client.direct_sessions import DirectSessions
from mulligan.engine.engine import Engine
from mulligan.engine.executions.joined import start_once
from mulligan.engine.requests.batch import run_batch
from mulligan.engine.requests.once import EXECUTE, NO_CONTENT, STREAM, Asked, Attempt
from mulligan.models import (
    BatchRequest,
    BatchResponse,
    ExecutionEvent,
    ForkRequest,
    ForkResponse,
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
)

Model = TypeVar("Model", bound=BaseModel)
Work = Callable[[Engine, Attempt], Coroutine[Any, Any, BaseModel]]
Removal = Callable[[Engine], Coroutine[Any, Any, None]]


class KeyedDirect:
    """What an engine does once a key; the same as over HTTP, whose keys these are, too.

    Args:
        open_: gives the engine, opened.
        key: the key.
    """

    def __init__(self, open_: Callable[[], Awaitable[Engine]], key: str) -> None:
        self._open = open_
        self._key = key

    async def _do(
        self, agent_id: str | None, operation: str, model: type[Model], work: Work, **subject: Any
    ) -> Model:
        engine = await self._open()
        asked = Asked(self._key, agent_id or "", operation, subject)
        return (await engine.once.do(asked, lambda attempt: work(engine, attempt))).read(model)

    async def _remove(self, operation: str, work: Removal, **subject: Any) -> None:
        engine = await self._open()
        asked = Asked(self._key, "", operation, subject)
        (await engine.once.do(asked, lambda _: work(engine), NO_CONTENT)).check()

    @property
    def sessions(self) -> DirectSessions:
        return DirectSessions(self._open, self._key)

    async def execute(self, request: VmExecuteRequest) -> VmExecuteResponse:
        def work(engine: Engine, attempt: Attempt) -> Coroutine[Any, Any, BaseModel]:
            return engine.execute(request, watcher=attempt)

        return await self._do(request.agent_id, EXECUTE, VmExecuteResponse, work, request=request)

    async def stream(
        self, request: VmExecuteRequest, *, cancel_on_disconnect: bool
    ) -> AsyncGenerator[ExecutionEvent, None]:
        engine = await self._open()
        asked = Asked(self._key, request.agent_id, STREAM, {"request": request})
        state, _ = await start_once(engine.once, engine.executions, asked, request)
        execution_id = state.execution_id
        try:
            async with aclosing(await engine.executions.listen(execution_id)) as events:
                async for event in events:
                    yield event.model(execution_id)
        finally:
            if cancel_on_disconnect:
                engine.executions.cancel_soon(execution_id, "its listener went away")

    async def batch(self, requests: list[VmExecuteRequest]) -> BatchResponse:
        return await self._do(
            None,
            "batch",
            BatchResponse,
            lambda engine, _: run_batch(requests, engine.execute, engine.list_vms),
            request=BatchRequest(requests=requests),
        )

    async def parse(self, request: ParseExecuteRequest) -> ParseExecuteResponse:
        return await self._do(
            request.agent_id,
            "parse-execute",
            ParseExecuteResponse,
            lambda engine, _: engine.answers.parse_and_execute(request),
            request=request,
        )

    async def create_vm(self, request: VmCreateRequest) -> VmInstance:
        return await self._do(
            request.agent_id,
            "VM",
            VmInstance,
            lambda engine, _: engine.create_vm(request),
            request=request,
        )

    async def snapshot(self, vm_id: str, request: SnapshotCreateRequest) -> Snapshot:
        return await self._do(
            None,
            "snapshot",
            Snapshot,
            lambda engine, _: engine.past.snapshot(vm_id, request),
            vm_id=vm_id,
            request=request,
        )

    async def rollback(self, vm_id: str, to: RollbackTo) -> RollbackResponse:
        return await self._do(
            None,
            "rollback",
            RollbackResponse,
            lambda engine, _: engine.past.rollback(vm_id, to),
            vm_id=vm_id,
            request=to,
        )

    async def fork(self, vm_id: str, request: ForkRequest) -> ForkResponse:
        return await self._do(
            None,
            "fork",
            ForkResponse,
            lambda engine, _: engine.past.fork(vm_id, request),
            vm_id=vm_id,
            request=request,
        )

    async def stop_vm(self, vm_id: str) -> VmInstance:
        async def work(engine: Engine, _: Attempt) -> VmInstance:
            return (await engine.fleet.stop(vm_id)).instance()

        return await self._do(None, "stop", VmInstance, work, vm_id=vm_id)

    async def delete_vm(self, vm_id: str) -> None:
        await self._remove("removal of a VM", lambda engine: engine.delete_vm(vm_id), vm_id=vm_id)

    async def delete_snapshot(self, vm_id: str, snapshot_id: str) -> None:
        await self._remove(
            "removal of a snapshot",
            lambda engine: engine.past.delete_snapshot(vm_id, snapshot_id),
            vm_id=vm_id,
            snapshot_id=snapshot_id,
        )
