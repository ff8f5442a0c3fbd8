"""The engine in the client's own process (``integration_mode = "direct"``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from mulligan.client import embedded
from mulligan.client.direct_files import DirectFiles
from mulligan.client.direct_images import DirectImages
from mulligan.client.direct_once import KeyedDirect
from mulligan.client.direct_sessions import DirectSessions
from mulligan.client.terminals import DirectTerminal, Terminal
from mulligan.engine.engine import Engine
from mulligan.engine.lock import DirectoryLock
from mulligan.engine.requests.batch import run_batch
from mulligan.errors import ConnectionFailed
from mulligan.models import (
    Approval,
    ApprovalAnswer,
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
from mulligan.settings import Settings


class DirectBackend:
    """The engine of a data directory, from the first operation until the client is closed."""

    def __init__(self, settings: Settings, lock: DirectoryLock | None = None) -> None:
        """Takes settings, and the lock of their data directory if the caller has it already."""
        self._settings = settings
        self._lock = lock
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def open(self) -> Engine:
        """The engine, opened."""
        async with self._opening:
            if self._closed:
                raise ConnectionFailed("the client is closed")
            if self._engine is None:
                lock, self._lock = self._lock, None  # the engine's from now on
                try:
                    self._engine = await embedded.acquire(self._settings, lock)
                except BaseException:
                    if lock is not None:
                        lock.release()
                    raise
            return self._engine

    @property
    def files(self) -> DirectFiles:
        return DirectFiles(self.open)

    @property
    def images(self) -> DirectImages:
        return DirectImages(self.open)

    @property
    def sessions(self) -> DirectSessions:
        return DirectSessions(self.open)

    def use_token(self, token: str) -> None:
        """There is nobody to show it to."""

    def keyed(self, key: str) -> KeyedDirect:
        """The same, doing with a key what does something."""
        return KeyedDirect(self.open, key)

    async def execute(self, request: VmExecuteRequest) -> VmExecuteResponse:
        return await (await self.open()).execute(request)

    async def stream(
        self, request: VmExecuteRequest, *, cancel_on_disconnect: bool
    ) -> AsyncGenerator[ExecutionEvent, None]:
        executions = (await self.open()).executions
        execution = await executions.start(request)
        try:
            async with aclosing(execution.events.listen()) as events:
                async for event in events:
                    yield event.model(execution.execution_id)
        finally:
            if cancel_on_disconnect:
                executions.cancel_soon(execution.execution_id, "its listener went away")

    async def follow(self, execution_id: str, after: int) -> AsyncGenerator[ExecutionEvent, None]:
        executions = (await self.open()).executions
        async with aclosing(await executions.listen(execution_id, after)) as events:
            async for event in events:
                yield event.model(execution_id)

    async def execution(self, execution_id: str) -> ExecutionStatus:
        return await (await self.open()).executions.status(execution_id)

    async def cancel(self, execution_id: str) -> ExecutionStatus:
        return await (await self.open()).executions.cancel(execution_id)

    async def batch(self, requests: list[VmExecuteRequest]) -> BatchResponse:
        engine = await self.open()
        return await run_batch(requests, engine.execute, engine.list_vms)

    async def parse(self, request: ParseExecuteRequest) -> ParseExecuteResponse:
        return await (await self.open()).answers.parse_and_execute(request)

    async def pool(self, agent_id: str) -> VmPoolResponse:
        return (await self.open()).vm_pool(agent_id)

    async def create_vm(self, request: VmCreateRequest) -> VmInstance:
        return await (await self.open()).create_vm(request)

    async def get_vm(self, vm_id: str, wait_seconds: float = 0) -> VmInstance:
        engine = await self.open()
        if wait_seconds:
            await engine.fleet.wait(vm_id, None, wait_seconds)
        return await engine.past.vm(vm_id)

    async def list_vms(self, agent_id: str | None) -> list[VmInstance]:
        return (await self.open()).list_vms(agent_id)

    async def stop_vm(self, vm_id: str) -> VmInstance:
        return (await (await self.open()).fleet.stop(vm_id)).instance()

    async def whoami(self) -> Identity:
        return Identity(kind="anyone")

    async def delete_vm(self, vm_id: str) -> None:
        await (await self.open()).delete_vm(vm_id)

    async def history(self, request: HistoryQueryRequest) -> HistoryQueryResponse:
        return await (await self.open()).past.history(request)

    async def snapshots(self, vm_id: str) -> list[Snapshot]:
        return await (await self.open()).past.snapshots(vm_id)

    async def snapshot(self, vm_id: str, request: SnapshotCreateRequest) -> Snapshot:
        return await (await self.open()).past.snapshot(vm_id, request)

    async def delete_snapshot(self, vm_id: str, snapshot_id: str) -> None:
        await (await self.open()).past.delete_snapshot(vm_id, snapshot_id)

    async def rollback(self, vm_id: str, to: RollbackTo) -> RollbackResponse:
        return await (await self.open()).past.rollback(vm_id, to)

    async def fork(self, vm_id: str, request: ForkRequest) -> ForkResponse:
        return await (await self.open()).past.fork(vm_id, request)

    async def diff(self, vm_id: str, old: str | None, new: str | None) -> DiffResponse:
        return await (await self.open()).past.diff(vm_id, old, new)

    async def approvals(self, state: str | None, agent_id: str | None) -> list[Approval]:
        return await (await self.open()).gates.questions(state, agent_id)

    async def approval(self, approval_id: str) -> Approval:
        return await (await self.open()).gates.question(approval_id)

    async def answer(self, approval_id: str, answer: ApprovalAnswer) -> Approval:
        return await (await self.open()).gates.answer(approval_id, answer)

    async def packages(self) -> list[PackageSet]:
        return (await self.open()).packages.list()

    async def warm(self, request: WarmRequest) -> PackageSet:
        return await (await self.open()).packages.warm(request)

    async def delete_packages(self, set_id: str) -> None:
        await (await self.open()).packages.remove(set_id)

    @asynccontextmanager
    async def terminal(self, vm_id: str, request: TerminalRequest) -> AsyncIterator[Terminal]:
        terminals = (await self.open()).terminals
        opened = await terminals.open(vm_id, request)
        try:
            yield DirectTerminal(opened)
        finally:
            await terminals.close_one(opened)

    async def healthy(self) -> bool:
        await self.open()
        return True

    async def close(self) -> None:
        async with self._opening:
            self._closed = True
            engine, self._engine = self._engine, None
            if engine is not None:
                await embedded.release(engine)
            elif self._lock is not None:
                self._lock.release()
