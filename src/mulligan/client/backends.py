"""What a client talks to: a server, or an engine in its own process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from mulligan.client.terminals import Opened
from mulligan.models import (
    Approval,
    ApprovalAnswer,
    BatchResponse,
    DiffResponse,
    ExecutionEvent,
    ExecutionStatus,
    FileChange,
    FileInfo,
    FileList,
    ForkRequest,
    ForkResponse,
    HistoryQueryRequest,
    HistoryQueryResponse,
    Identity,
    Image,
    ImageBuildRequest,
    ImageJob,
    MakeDirectoryRequest,
    MoveFileRequest,
    PackageSet,
    ParseExecuteRequest,
    ParseExecuteResponse,
    RollbackResponse,
    RollbackTo,
    Session,
    SessionCommand,
    SessionCreateRequest,
    SessionOutput,
    SessionRollback,
    SessionSnapshot,
    SessionSnapshotRequest,
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


class FilesBackend(Protocol):
    """Operations on files; see ``mulligan.engine.files.files.Files`` for what they mean."""

    async def stat(self, vm_id: str, path: str, *, escaped: bool) -> FileInfo: ...

    async def list(self, vm_id: str, path: str, *, limit: int, escaped: bool) -> FileList: ...

    def read(
        self, vm_id: str, path: str, offset: int, length: int | None, *, escaped: bool
    ) -> AbstractAsyncContextManager[Incoming]: ...

    async def write(
        self,
        vm_id: str,
        path: str,
        content: AsyncIterator[bytes],
        size: int | None,
        *,
        mode: str | None,
        parents: bool,
        escaped: bool,
    ) -> FileInfo: ...

    async def make_directory(self, vm_id: str, request: MakeDirectoryRequest) -> FileInfo: ...

    async def delete(
        self, vm_id: str, path: str, *, recursive: bool, escaped: bool
    ) -> FileChange: ...

    async def move(self, vm_id: str, request: MoveFileRequest) -> FileInfo: ...


class SessionsBackend(Protocol):
    """Operations on sessions, as ``mulligan.engine.requests.sessions.Sessions`` has them."""

    async def create(self, request: SessionCreateRequest) -> Session: ...

    async def execute(
        self, name: str, request: SessionCommand, agent_id: str | None
    ) -> SessionOutput: ...

    async def snapshot(
        self, name: str, request: SessionSnapshotRequest, agent_id: str | None
    ) -> SessionSnapshot: ...

    async def rollback(
        self, name: str, request: SessionRollback, agent_id: str | None
    ) -> RollbackResponse: ...

    async def info(self, name: str, agent_id: str | None) -> Session: ...

    async def list(self, agent_id: str | None) -> list[Session]: ...

    async def delete(self, name: str, agent_id: str | None) -> None: ...


class ImagesBackend(Protocol):
    """Operations on images, as ``mulligan.engine.images.jobs.ImageJobs`` has them."""

    async def images(self) -> list[Image]: ...

    async def image(self, name: str) -> Image: ...

    async def remove(self, name: str) -> None: ...

    async def build(self, request: ImageBuildRequest) -> ImageJob: ...

    async def take(
        self,
        name: str,
        content: AsyncIterator[bytes],
        size: int | None,
        reference: str | None,
        source: str,
    ) -> ImageJob: ...

    async def jobs(self) -> list[ImageJob]: ...

    async def follow(self, job_id: str, after: int, wait_s: float) -> ImageJob: ...

    async def cancel(self, job_id: str) -> ImageJob: ...


class Incoming(NamedTuple):
    """A file that is being read: how many bytes will come, and they."""

    size: int
    chunks: AsyncIterator[bytes]


class Doing(Protocol):
    """The operations that do something, each time they are asked for or once a key."""

    @property
    def sessions(self) -> SessionsBackend: ...

    async def execute(self, request: VmExecuteRequest) -> VmExecuteResponse: ...

    def stream(
        self, request: VmExecuteRequest, *, cancel_on_disconnect: bool
    ) -> AsyncGenerator[ExecutionEvent, None]: ...

    async def batch(self, requests: list[VmExecuteRequest]) -> BatchResponse: ...

    async def parse(self, request: ParseExecuteRequest) -> ParseExecuteResponse: ...

    async def create_vm(self, request: VmCreateRequest) -> VmInstance: ...

    async def snapshot(self, vm_id: str, request: SnapshotCreateRequest) -> Snapshot: ...

    async def rollback(self, vm_id: str, to: RollbackTo) -> RollbackResponse: ...

    async def fork(self, vm_id: str, request: ForkRequest) -> ForkResponse: ...

    async def stop_vm(self, vm_id: str) -> VmInstance: ...

    async def delete_vm(self, vm_id: str) -> None: ...

    async def delete_snapshot(self, vm_id: str, snapshot_id: str) -> None: ...


class Backend(Doing, Protocol):
    """The operations a client builds its methods from."""

    @property
    def files(self) -> FilesBackend: ...

    @property
    def images(self) -> ImagesBackend: ...

    def use_token(self, token: str) -> None: ...

    def keyed(self, key: str) -> Doing: ...

    def follow(self, execution_id: str, after: int) -> AsyncGenerator[ExecutionEvent, None]: ...

    async def execution(self, execution_id: str) -> ExecutionStatus: ...

    async def cancel(self, execution_id: str) -> ExecutionStatus: ...

    async def pool(self, agent_id: str) -> VmPoolResponse: ...

    async def get_vm(self, vm_id: str, wait_seconds: float = 0) -> VmInstance: ...

    async def list_vms(self, agent_id: str | None) -> list[VmInstance]: ...

    async def whoami(self) -> Identity: ...

    async def history(self, request: HistoryQueryRequest) -> HistoryQueryResponse: ...

    async def snapshots(self, vm_id: str) -> list[Snapshot]: ...

    async def diff(self, vm_id: str, old: str | None, new: str | None) -> DiffResponse: ...

    async def approvals(self, state: str | None, agent_id: str | None) -> list[Approval]: ...

    async def approval(self, approval_id: str) -> Approval: ...

    async def answer(self, approval_id: str, answer: ApprovalAnswer) -> Approval: ...

    async def packages(self) -> list[PackageSet]: ...

    async def warm(self, request: WarmRequest) -> PackageSet: ...

    async def delete_packages(self, set_id: str) -> None: ...

    def terminal(self, vm_id: str, request: TerminalRequest) -> Opened: ...

    async def healthy(self) -> bool: ...

    async def close(self) -> None: ...
