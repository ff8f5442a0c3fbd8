"""The past, from a client: history, snapshots, rollback, fork, diff."""

from __future__ import annotations

from mulligan.client.approvals import Approvals
from mulligan.client.options import Options
from mulligan.errors import HistoryError, VmNotAvailable
from mulligan.models import (
    DiffResponse,
    ForkRequest,
    ForkResponse,
    HistoryQueryRequest,
    HistoryQueryResponse,
    RollbackRequest,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    SnapshotCreateRequest,
    VmExecutionConfig,
)


class Past(Approvals):
    """The part of a client that has to do with what was."""

    config: VmExecutionConfig
    _options: Options

    async def query_history(self, request: HistoryQueryRequest) -> HistoryQueryResponse:
        """Executions of a VM, newest first.

        Raises:
            VmNotAvailable: there is no such VM.
            HistoryError: history is off, or cannot be read.
        """
        self._history_is_on()
        return await self._backend.history(self._options.query(request))

    async def query_failures(
        self, vm_id: str, agent_id: str | None = None, limit: int | None = None
    ) -> HistoryQueryResponse:
        """``query_history`` for what failed."""
        return await self.query_history(
            HistoryQueryRequest(vm_id=vm_id, agent_id=agent_id, limit=limit, failures_only=True)
        )

    async def rollback_to_snapshot(
        self, request: RollbackRequest, *, idempotency_key: str | None = None
    ) -> RollbackResponse:
        """Takes a VM back to a snapshot; what runs in it is cancelled.

        Raises:
            SnapshotNotFound: the VM has no such snapshot.
            RollbackFailed: the VM is as it was.
        """
        self._history_is_on()
        to = RollbackTo(
            snapshot_id=request.snapshot_id,
            create_pre_rollback_snapshot=request.create_pre_rollback_snapshot,
        )
        return await self._doing(idempotency_key).rollback(request.vm_id, to)

    async def rollback_to_last_success(self, vm_id: str, agent_id: str) -> RollbackResponse:
        """Takes a VM back to what its last successful execution left, keeping the present, too.

        Raises:
            VmNotAvailable: the agent has no such VM.
            RollbackFailed: nothing succeeded; the VM is as it was.
        """
        self._history_is_on()
        if (await self._backend.get_vm(vm_id)).agent_id not in (agent_id, None):
            raise VmNotAvailable(vm_id[:100], field="vm_id")
        to = RollbackTo(last_success=True, create_pre_rollback_snapshot=True)
        return await self._backend.rollback(vm_id, to)

    async def get_last_successful_snapshot(self, vm_id: str, agent_id: str) -> str | None:
        """The snapshot made after the newest successful execution that has one, if any.

        None also where the client has no history.
        """
        if not self.config.history.enabled:
            return None
        request = HistoryQueryRequest(vm_id=vm_id, agent_id=agent_id, limit=1000)
        for entry in (await self.query_history(request)).entries:
            if entry.success and entry.snapshot_id is not None:
                return entry.snapshot_id
        return None

    async def rollback(
        self, vm_id: str, to: RollbackTo | None = None, *, idempotency_key: str | None = None
    ) -> RollbackResponse:
        """Takes a VM back; by default to before its last execution that changed something.

        Raises:
            SnapshotNotFound, RollbackFailed: the VM is as it was.
        """
        return await self._doing(idempotency_key).rollback(vm_id, to or RollbackTo())

    async def create_snapshot(
        self,
        vm_id: str,
        name: str | None = None,
        description: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Snapshot:
        """Keeps the state a VM is in.

        Raises:
            SnapshotFailed: the VM is as it was.
        """
        request = SnapshotCreateRequest(name=name, description=description)
        return await self._doing(idempotency_key).snapshot(vm_id, request)

    async def list_snapshots(self, vm_id: str) -> list[Snapshot]:
        """A VM's snapshots, newest first."""
        return await self._backend.snapshots(vm_id)

    async def delete_snapshot(
        self, vm_id: str, snapshot_id: str, *, idempotency_key: str | None = None
    ) -> None:
        """Forgets a snapshot; what others are built on stays.

        Raises:
            SnapshotNotFound: the VM has no such snapshot.
        """
        await self._doing(idempotency_key).delete_snapshot(vm_id, snapshot_id)

    async def fork(
        self,
        vm_id: str,
        count: int = 1,
        *,
        snapshot_id: str | None = None,
        execution_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> ForkResponse:
        """Makes VMs that go on from a VM's present, from a snapshot or from before an execution.

        Raises:
            ValidationFailed: ``count`` is out of range.
            SnapshotNotFound: the VM has no such snapshot.
        """
        request = ForkRequest(count=count, snapshot_id=snapshot_id, execution_id=execution_id)
        return await self._doing(idempotency_key).fork(vm_id, request)

    async def diff(
        self, vm_id: str, old: str | None = None, new: str | None = None
    ) -> DiffResponse:
        """What differs between two snapshots; by default, what the last execution changed.

        Raises:
            SnapshotNotFound: the VM has no such snapshot.
        """
        return await self._backend.diff(vm_id, old, new)

    def _history_is_on(self) -> None:
        if not self.config.history.enabled:
            raise HistoryError(
                "History tracking is not enabled", field="history.enabled", remedy="set it to true"
            )
