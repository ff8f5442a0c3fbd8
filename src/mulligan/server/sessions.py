"""Routes of sessions: VMs with a name and a shell that goes on from command to command."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from mulligan.engine.requests.once import COMMAND
from mulligan.models import (
    RollbackResponse,
    Session,
    SessionCommand,
    SessionCreateRequest,
    SessionOutput,
    SessionRollback,
    SessionSnapshot,
    SessionSnapshotRequest,
)
from mulligan.server.access import CallerDependency
from mulligan.server.engines import EngineDependency
from mulligan.server.once import KeyDependency

# Names of agents may have slashes, and a session's may be made of one.
ONE = "/sessions/{name:path}"
Name = Annotated[str, Path(description="The session's name.")]
Owner = Annotated[str | None, Query(alias="agent_id", description="If given, the session is its.")]


def add_routes(app: FastAPI) -> None:
    """Adds them."""
    _add_lives(app)
    _add_work(app)
    _add_states(app)


def _add_lives(app: FastAPI) -> None:
    @app.post("/sessions", response_model=Session, status_code=201, summary="Make a session")
    async def create_session(request: SessionCreateRequest, key: KeyDependency) -> Response:
        """A session is a VM with a name, unique among its agent's, and a Bash that goes on.

        The agent is `agent_id`, else the token's, else the one in a name of the form
        `agent-<id>-<number>`, else one of the session's own name. `memory_mb` and `vcpus` are what
        its VM is held to, no more than its type has; `notes` say what is not held.
        """
        agent_id = key.caller.agent(request.agent_id)
        wanted = request.model_copy(update={"agent_id": agent_id})
        return await key.answer(
            agent_id,
            "session",
            {"request": wanted},
            lambda _: key.engine.sessions.create(wanted),
            note=lambda made: {"vm_id": made.vm_id, "agent_id": made.agent_id},
            status=201,
        )

    @app.get("/sessions", response_model=list[Session], summary="List sessions, oldest first")
    async def list_sessions(
        engine: EngineDependency, caller: CallerDependency, owner: Owner = None
    ) -> list[Session]:
        """Without `agent_id` they are the caller's, or all of them for an administrator."""
        return engine.sessions.all(caller.agent(owner))

    @app.get(f"{ONE}/info", response_model=Session, summary="Look at a session")
    async def session_info(
        name: Name, engine: EngineDependency, caller: CallerDependency, owner: Owner = None
    ) -> Session:
        """`commands` counts those the history has."""
        return await engine.sessions.info(name, caller.agent(owner))

    @app.delete(ONE, status_code=204, summary="End a session and remove all that it wrote")
    async def delete_session(name: Name, key: KeyDependency, owner: Owner = None) -> Response:
        """Its VM is removed, with its history and its snapshots."""
        agent_id = key.caller.agent(owner)
        return await key.answer(
            agent_id,
            "removal of a session",
            {"session": name},
            lambda _: key.engine.sessions.delete(name, agent_id),
            status=204,
        )


def _add_work(app: FastAPI) -> None:
    @app.post(
        f"{ONE}/execute", response_model=SessionOutput, summary="Run a command in a session's shell"
    )
    async def execute_in_session(
        name: Name, request: SessionCommand, key: KeyDependency, owner: Owner = None
    ) -> Response:
        """Commands run one after the other; directory and variables go on from each to the next.

        A command that fails is no error. Each is an execution: gates judge it, it is in the
        history of the session's VM, and can be taken back.
        """
        agent_id = key.caller.agent(owner)
        return await key.answer(
            agent_id,
            COMMAND,
            {"session": name, "request": request},
            lambda attempt: key.engine.sessions.execute(name, request, agent_id, attempt),
            note=lambda done: {"vm_id": done.vm_id, "execution_id": done.execution_id},
        )


def _add_states(app: FastAPI) -> None:
    @app.post(
        f"{ONE}/snapshots",
        response_model=SessionSnapshot,
        status_code=201,
        summary="Keep the state a session is in",
    )
    async def snapshot_session(
        name: Name,
        key: KeyDependency,
        request: SessionSnapshotRequest | None = None,
        owner: Owner = None,
    ) -> Response:
        """Files, and the directory and the variables of its shell."""
        wanted = request or SessionSnapshotRequest()
        agent_id = key.caller.agent(owner)
        return await key.answer(
            agent_id,
            "snapshot",
            {"session": name, "request": wanted},
            lambda _: key.engine.sessions.snapshot(name, wanted, agent_id),
            note=lambda made: {"snapshot_id": made.snapshot_id},
            status=201,
        )

    @app.post(
        f"{ONE}/rollback",
        response_model=RollbackResponse,
        summary="Take a session back to a snapshot: its files, its shell's variables and directory",
    )
    async def rollback_session(
        name: Name, request: SessionRollback, key: KeyDependency, owner: Owner = None
    ) -> Response:
        """What runs in it is cancelled."""
        agent_id = key.caller.agent(owner)
        key.caller.note(snapshot_id=request.snapshot_id)
        return await key.answer(
            agent_id,
            "rollback",
            {"session": name, "request": request},
            lambda _: key.engine.sessions.rollback(name, request.snapshot_id, agent_id),
        )
