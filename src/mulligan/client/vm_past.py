"""The past of a VM that is an object."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mulligan.client.client import VmExecutionClient
from mulligan.client.vm_running import Ran, execution_id
from mulligan.models import (
    DiffResponse,
    HistoryQueryRequest,
    HistoryQueryResponse,
    RollbackResponse,
    RollbackTo,
    Snapshot,
)

LAST_SUCCESS = "last_success"
EXECUTION_PREFIX = "exec-"


class VmPast:
    """The part of ``AsyncVm`` that has to do with what was."""

    _client: VmExecutionClient

    async def _vm_id(self) -> str:
        raise NotImplementedError

    async def snapshot(
        self,
        name: str | None = None,
        description: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Snapshot:
        """Keeps the state the VM is in.

        Raises:
            SnapshotFailed: the VM is as it was.
        """
        return await self._client.create_snapshot(
            await self._vm_id(), name, description, idempotency_key=idempotency_key
        )

    async def snapshots(self) -> list[Snapshot]:
        """The VM's snapshots, newest first."""
        return await self._client.list_snapshots(await self._vm_id())

    async def rollback(
        self,
        to: str | Snapshot | Ran | None = None,
        *,
        keep: bool = False,
        idempotency_key: str | None = None,
    ) -> RollbackResponse:
        """Takes the VM back; what runs in it is cancelled.

        Args:
            to: a snapshot or its id; an execution or its id, to go to before it; "last_success";
                None for before the last execution that changed something.
            keep: whether the present is kept as a snapshot first.
            idempotency_key: as of ``VmExecutionClient.execute_code``.

        Raises:
            SnapshotNotFound, RollbackFailed: the VM is as it was.
        """
        target: dict[str, Any] = {}
        if isinstance(to, Snapshot):
            target["snapshot_id"] = to.id
        elif to == LAST_SUCCESS:
            target["last_success"] = True
        elif isinstance(to, str) and not to.startswith(EXECUTION_PREFIX):
            target["snapshot_id"] = to
        elif to is not None:
            target["execution_id"] = execution_id(to)
        wanted = RollbackTo(create_pre_rollback_snapshot=keep, **target)
        return await self._client.rollback(
            await self._vm_id(), wanted, idempotency_key=idempotency_key
        )

    async def diff(
        self, old: str | Snapshot | None = None, new: str | Snapshot | None = None
    ) -> DiffResponse:
        """What differs between two snapshots; by default, what the last execution changed.

        Raises:
            SnapshotNotFound: the VM has no such snapshot.
        """
        return await self._client.diff(
            await self._vm_id(), snapshot_id_of(old), snapshot_id_of(new)
        )

    async def history(
        self,
        limit: int | None = None,
        *,
        offset: int = 0,
        failures_only: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        search: str | None = None,
        language: str | None = None,
    ) -> HistoryQueryResponse:
        """What was executed, newest first; ``total`` counts all that match.

        Raises:
            HistoryError: history is off, or cannot be read.
        """
        request = HistoryQueryRequest(
            vm_id=await self._vm_id(),
            limit=limit,
            offset=offset,
            failures_only=failures_only,
            start_date=start_date,
            end_date=end_date,
            search=search,
            language=language,
        )
        return await self._client.query_history(request)


def snapshot_id_of(snapshot: str | Snapshot | None) -> str | None:
    """The id of a snapshot."""
    return snapshot.id if isinstance(snapshot, Snapshot) else snapshot
