"""Routes of the time machine: history, snapshots, rollback, fork, diff."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Response

from mulligan.models import (
    DiffResponse,
    ForkRequest,
    ForkResponse,
    HistoryQueryRequest,
    HistoryQueryResponse,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    SnapshotCreateRequest,
    UtcTime,
)
from mulligan.server.access import CallerDependency
from mulligan.server.engines import EngineDependency
from mulligan.server.once import Key, KeyDependency

U64_MAX = 2**64 - 1
Text = Annotated[str | None, Query()]
Time = Annotated[UtcTime | None, Query()]
Count = Annotated[int | None, Query(ge=0, le=U64_MAX)]
Owner = Annotated[str | None, Query(alias="agent_id", description="If given, the VM is its.")]


def add_routes(app: FastAPI) -> None:
    """Adds them."""
    _add_history(app)
    _add_snapshots(app)
    _add_changes(app)
    _add_forks(app)


def _add_history(app: FastAPI) -> None:
    @app.get(
        "/api/vms/{vm_id}/history",
        response_model=HistoryQueryResponse,
        summary="Executions of a VM, newest first; `total` counts all that match",
    )
    async def query_history(
        vm_id: str,
        engine: EngineDependency,
        caller: CallerDependency,
        agent_id: Text = None,
        limit: Count = None,
        offset: Annotated[int, Query(ge=0, le=U64_MAX)] = 0,
        failures_only: Annotated[bool, Query()] = False,
        start_date: Time = None,
        end_date: Time = None,
        search: Text = None,
        language: Text = None,
    ) -> HistoryQueryResponse:
        """Filters add up. Dates are those of the beginning, both included; `limit` is 100 if it is
        not given, and 1000 at most. Large outputs are shortened here.
        """
        request = HistoryQueryRequest(
            vm_id=vm_id,
            agent_id=caller.agent(agent_id),
            limit=limit,
            offset=offset,
            failures_only=failures_only,
            start_date=start_date,
            end_date=end_date,
            search=search,
            language=language,
        )
        return await engine.past.history(request, caller.agent_id)


def _add_snapshots(app: FastAPI) -> None:
    @app.post(
        "/api/vms/{vm_id}/snapshots",
        response_model=Snapshot,
        status_code=201,
        summary="Keep the state a VM is in",
    )
    async def create_snapshot(
        vm_id: str,
        key: KeyDependency,
        request: SnapshotCreateRequest | None = None,
        owner: Owner = None,
    ) -> Response:
        """Files, and the memory of kernels where that can be kept, without a byte being copied."""
        wanted = request or SnapshotCreateRequest()
        agent_id = key.caller.agent(owner)
        return await key.answer(
            agent_id,
            "snapshot",
            {"vm_id": vm_id, "request": wanted},
            lambda _: key.engine.past.snapshot(vm_id, wanted, agent_id),
            note=lambda made: {"snapshot_id": made.id},
            status=201,
        )

    @app.get(
        "/api/vms/{vm_id}/snapshots",
        response_model=list[Snapshot],
        summary="Snapshots of a VM, newest first",
    )
    async def list_snapshots(
        vm_id: str, engine: EngineDependency, caller: CallerDependency, owner: Owner = None
    ) -> list[Snapshot]:
        """Those made by hand, by settings, before executions and before rollbacks."""
        return await engine.past.snapshots(vm_id, caller.agent(owner))

    @app.delete(
        "/api/vms/{vm_id}/snapshots/{snapshot_id}",
        status_code=204,
        summary="Forget a snapshot; what others are built on stays",
    )
    async def delete_snapshot(
        vm_id: str, snapshot_id: str, key: KeyDependency, owner: Owner = None
    ) -> Response:
        """What no VM and no other snapshot needs is removed from the disk in the background."""
        agent_id = key.caller.agent(owner)
        return await key.answer(
            agent_id,
            "removal of a snapshot",
            {"vm_id": vm_id, "snapshot_id": snapshot_id},
            lambda _: key.engine.past.delete_snapshot(vm_id, snapshot_id, agent_id),
            status=204,
        )


def _add_changes(app: FastAPI) -> None:
    @app.post(
        "/api/vms/{vm_id}/rollback",
        response_model=RollbackResponse,
        summary="Take a VM back: to a snapshot, to before an execution, to the last success",
    )
    async def rollback(
        vm_id: str, key: KeyDependency, to: RollbackTo | None = None, owner: Owner = None
    ) -> Response:
        """Without a body: to before its last execution. What runs in it is cancelled."""
        return await _roll_back(key, vm_id, to or RollbackTo(), owner)

    @app.post(
        "/api/vms/{vm_id}/rollback/{snapshot_id}",
        response_model=RollbackResponse,
        summary="Take a VM back to a snapshot",
    )
    async def rollback_to(
        vm_id: str, snapshot_id: str, key: KeyDependency, owner: Owner = None
    ) -> Response:
        """Files, and the memory of kernels that was kept. What runs in it is cancelled."""
        return await _roll_back(key, vm_id, RollbackTo(snapshot_id=snapshot_id), owner)


async def _roll_back(key: Key, vm_id: str, to: RollbackTo, owner: str | None) -> Response:
    key.caller.note(snapshot_id=to.snapshot_id, execution_id=to.execution_id)
    agent_id = key.caller.agent(owner)
    return await key.answer(
        agent_id,
        "rollback",
        {"vm_id": vm_id, "request": to},
        lambda _: key.engine.past.rollback(vm_id, to, agent_id),
    )


def _add_forks(app: FastAPI) -> None:
    @app.post(
        "/api/vms/{vm_id}/fork",
        response_model=ForkResponse,
        status_code=201,
        summary="Make VMs that go on from a VM's present, or from one of its past states",
    )
    async def fork(
        vm_id: str,
        key: KeyDependency,
        request: ForkRequest | None = None,
        owner: Owner = None,
    ) -> Response:
        """They have the files, and share them until they write. Memory of kernels stays behind."""
        wanted = request or ForkRequest()
        key.caller.note(snapshot_id=wanted.snapshot_id, execution_id=wanted.execution_id)
        agent_id = key.caller.agent(owner)
        return await key.answer(
            agent_id,
            "fork",
            {"vm_id": vm_id, "request": wanted},
            lambda _: key.engine.past.fork(vm_id, wanted, agent_id),
            note=lambda done: {"forks": [each.id for each in done.vms]},
            status=201,
        )

    @app.get(
        "/api/vms/{vm_id}/diff",
        response_model=DiffResponse,
        summary="What differs between two snapshots, or since one",
    )
    async def diff(
        vm_id: str,
        engine: EngineDependency,
        caller: CallerDependency,
        old: Annotated[str | None, Query(alias="from")] = None,
        new: Annotated[str | None, Query(alias="to")] = None,
        owner: Owner = None,
    ) -> DiffResponse:
        """Without `from`: since before the last execution. Texts come with a unified diff."""
        return await engine.past.diff(vm_id, old, new, caller.agent(owner))
