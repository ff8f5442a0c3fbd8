"""Sessions, from a client: VMs with a name and a shell that goes on from command to command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mulligan.client.hooks import Hooked
from mulligan.errors import SessionExists, VmExecutionError
from mulligan.models import (
    RollbackResponse,
    Session,
    SessionCommand,
    SessionCreateRequest,
    SessionOutput,
    SessionRollback,
    SessionSnapshot,
    SessionSnapshotRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    utc_now,
)

if TYPE_CHECKING:
    from mulligan.hooks.manager import HookManager

LANGUAGE = "bash"
KERNEL = "session"  # what an engine calls a session's shell


class Sessions(Hooked):
    """The part of a client that has to do with sessions.

    ``agent_id`` says whose a session is, where agents have sessions of one name. Every method that
    names one raises ``SessionNotFound`` where there is none.
    """

    async def create_session(
        self,
        name: str,
        vm_type: str | None = None,
        *,
        agent_id: str | None = None,
        memory_mb: int | None = None,
        vcpus: int | None = None,
        idempotency_key: str | None = None,
    ) -> Session:
        """Makes a session; its VM boots in the background.

        Args:
            name: unique among its agent's, of letters, digits and ``. _ : @ / + -``.
            vm_type: of its VM; None: the default one.
            agent_id: whose it is; by default the one in a name of the form ``agent-<id>-<number>``,
                else one of the session's own name.
            memory_mb: most memory, in MiB; at most its type's. ``notes`` say what is not held.
            vcpus: processors likewise.
            idempotency_key: as of ``execute_code``.

        Raises:
            ValidationFailed: an argument is wrong.
            SessionExists: the agent has one of that name.
        """
        request = SessionCreateRequest(
            name=name, vm_type=vm_type, memory_mb=memory_mb, vcpus=vcpus, agent_id=agent_id
        )
        return await self._doing(idempotency_key).sessions.create(request)

    async def get_or_create_session(
        self, name: str, vm_type: str | None = None, *, agent_id: str | None = None
    ) -> Session:
        """The session of that name, made where there is none.

        Raises:
            ValidationFailed: an argument is wrong.
        """
        try:
            return await self.create_session(name, vm_type, agent_id=agent_id)
        except SessionExists:
            return await self.get_session_info(name, agent_id)

    async def execute_in_session(
        self,
        name: str,
        command: str,
        *,
        agent_id: str | None = None,
        timeout_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> SessionOutput:
        """Runs a command in a session's shell, after those that came before it.

        Directory and variables go on from each to the next. Each is an execution, judged by gates
        (and the client's own hooks), in the history of the session's VM.

        Raises:
            VmExecutionError: it was refused, or could not be run. A command that fails or is
                stopped by its time limit is no error.
        """
        asked = SessionCommand(command=command, timeout_seconds=timeout_seconds)
        if self._hooks is None:
            return await self._command(name, asked, agent_id, idempotency_key)
        return await self._command_judged(self._hooks, name, asked, agent_id, idempotency_key)

    async def _command(
        self, name: str, asked: SessionCommand, agent_id: str | None, key: str | None
    ) -> SessionOutput:
        """Runs a command; where a person has to say yes first, the client's approver is asked."""
        sessions = self._doing(key).sessions
        try:
            return await sessions.execute(name, asked, agent_id)
        except VmExecutionError as error:
            approval = await self._approval(error)
            if approval is None:
                raise
        asked = asked.model_copy(update={"approval": approval})
        return await sessions.execute(name, asked, agent_id)  # a refusal has not used up the key

    async def _command_judged(
        self,
        hooks: HookManager,
        name: str,
        asked: SessionCommand,
        agent_id: str | None,
        key: str | None,
    ) -> SessionOutput:
        """A command between the client's hooks, which see it as the execution that it is."""
        session = await self._backend.sessions.info(name, agent_id)
        start, started_at = time.monotonic(), utc_now()
        request = VmExecuteRequest(
            agent_id=session.agent_id,
            vm_id=session.vm_id,
            language=LANGUAGE,
            code=asked.command,
            timeout_seconds=asked.timeout_seconds,
            kernel=KERNEL,
        )
        request, verdicts = await self._before(hooks, request)
        asked = asked.model_copy(update={"command": request.code})
        done = await self._command(name, asked, agent_id, key)
        response = VmExecuteResponse(
            execution_id=done.execution_id,
            vm_id=done.vm_id,
            exit_code=done.exit_code,
            stdout=done.output,
            stderr="",
            duration_ms=done.duration_ms,
            started_at=started_at,
            completed_at=utc_now(),
            error=done.error,
            outcome=done.outcome,
            truncated=done.truncated,
        )
        judged = await self._after(hooks, request, response, start, verdicts)
        texts = {"output": judged.stdout + judged.stderr, "error": judged.error}
        return done.model_copy(update=texts)

    async def snapshot_session(
        self,
        name: str,
        snapshot: str | None = None,
        *,
        agent_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> SessionSnapshot:
        """Keeps the state a session is in: files, and the directory and variables of its shell.

        Args:
            name: the session's.
            snapshot: a name for it.
            agent_id: see the class.
            idempotency_key: as of ``execute_code``.

        Raises:
            SnapshotFailed: the session is as it was.
        """
        request = SessionSnapshotRequest(name=snapshot)
        return await self._doing(idempotency_key).sessions.snapshot(name, request, agent_id)

    async def rollback_session(
        self,
        name: str,
        snapshot_id: str,
        *,
        agent_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> RollbackResponse:
        """Takes a session back to a snapshot; what runs in it is cancelled.

        Raises:
            SnapshotNotFound: the session has no such snapshot.
            RollbackFailed: the session is as it was.
        """
        request = SessionRollback(snapshot_id=snapshot_id)
        return await self._doing(idempotency_key).sessions.rollback(name, request, agent_id)

    async def get_session_info(self, name: str, agent_id: str | None = None) -> Session:
        """A session; ``commands`` counts those the history has."""
        return await self._backend.sessions.info(name, agent_id)

    async def list_sessions(self, agent_id: str | None = None) -> list[Session]:
        """All sessions, or those of an agent, oldest first."""
        return await self._backend.sessions.list(agent_id)

    async def close_session(self, name: str, agent_id: str | None = None) -> None:
        """Ends a session: its VM is removed with all that it wrote."""
        await self._backend.sessions.delete(name, agent_id)
