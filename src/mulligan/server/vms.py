"""Routes of VMs: made, listed, looked at, removed."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Response

from mulligan.engine.requests.once import Attempt
from mulligan.models import ErrorAnswer, Identity, VmCreateRequest, VmInstance, VmPoolResponse
from mulligan.server.access import CallerDependency
from mulligan.server.engines import EngineDependency
from mulligan.server.once import KeyDependency

Agent = Annotated[str | None, Query(description="If given, VMs have to be this agent's.")]

LONGEST_WAIT_S = 60
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=LONGEST_WAIT_S,
        description="If the VM boots, wait until it is up, but no longer than this.",
    ),
]


def add_routes(app: FastAPI) -> None:
    """Adds them."""

    _add_making(app)
    _add_looking(app)
    _add_ending(app)


def _add_making(app: FastAPI) -> None:
    @app.get(
        "/api/llm/vm-pool/{agent_id}",
        response_model=VmPoolResponse,
        summary="An agent's VMs: those that run something, and the others",
    )
    async def vm_pool(
        agent_id: str, engine: EngineDependency, caller: CallerDependency
    ) -> VmPoolResponse:
        """`pool_config` has the bounds of this server."""
        return engine.vm_pool(caller.agent(agent_id))

    @app.get("/api/whoami", response_model=Identity, summary="Whose token this is")
    async def whoami(caller: CallerDependency) -> Identity:
        """For clients that were given a token and do not know whose it is."""
        return Identity(kind=caller.kind, agent_id=caller.agent_id, token_id=caller.token_id)

    @app.post(
        "/api/vms", response_model=VmInstance, status_code=201, summary="Make a VM for an agent"
    )
    async def create_vm(request: VmCreateRequest, key: KeyDependency) -> Response:
        """Without `agent_id` the VM is for the token's agent, or for the one in `vm_name`."""
        agent_id = key.caller.agent(request.agent_id)
        wanted = request.model_copy(update={"agent_id": agent_id})
        return await key.answer(
            agent_id,
            "VM",
            {"request": wanted},
            lambda _: key.engine.create_vm(wanted, boot=True),
            note=lambda made: {"vm_id": made.id, "agent_id": made.agent_id},
            status=201,
        )


def _add_looking(app: FastAPI) -> None:
    @app.get("/api/vms", response_model=list[VmInstance], summary="List VMs, oldest first")
    async def list_vms(
        engine: EngineDependency, caller: CallerDependency, agent_id: Agent = None
    ) -> list[VmInstance]:
        """Without `agent_id` they are the caller's, or all of them for an administrator."""
        return engine.list_vms(caller.agent(agent_id))

    @app.get("/api/vms/{vm_id}", response_model=VmInstance, summary="Look at a VM")
    async def get_vm(
        vm_id: str,
        engine: EngineDependency,
        caller: CallerDependency,
        agent_id: Agent = None,
        wait_seconds: Wait = 0.0,
    ) -> VmInstance:
        """It takes executions when `status` is "ready" or "running", and boots for them when
        "stopped" or "hibernated". Sizes are in bytes.
        """
        if wait_seconds:
            await engine.fleet.wait(vm_id, caller.agent(agent_id), wait_seconds)
        return await engine.past.vm(vm_id, caller.agent(agent_id))


def _add_ending(app: FastAPI) -> None:
    @app.post(
        "/api/vms/{vm_id}/stop",
        response_model=VmInstance,
        summary="End a VM's processes until the next request",
        responses={409: {"model": ErrorAnswer}},
    )
    async def stop_vm(vm_id: str, key: KeyDependency, agent_id: Agent = None) -> Response:
        """Its disk stays, live interpreters and programs in the background do not.

        One in which something runs is not stopped (409).
        """
        owner = key.caller.agent(agent_id)

        async def stop(_: Attempt) -> VmInstance:
            return (await key.engine.fleet.stop(vm_id, owner)).instance()

        return await key.answer(owner, "stop", {"vm_id": vm_id}, stop)

    @app.delete(
        "/api/vms/{vm_id}", status_code=204, summary="Stop a VM and remove all that it wrote"
    )
    async def delete_vm(vm_id: str, key: KeyDependency, agent_id: Agent = None) -> Response:
        """What runs in it is ended; its history and its snapshots go with it."""
        owner = key.caller.agent(agent_id)
        return await key.answer(
            owner,
            "removal of a VM",
            {"vm_id": vm_id},
            lambda _: key.engine.delete_vm(vm_id, owner),
            status=204,
        )
