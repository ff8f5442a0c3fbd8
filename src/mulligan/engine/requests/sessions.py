"""Sessions: VMs with a name and a shell that goes on from command to command.

A session is a VM whose record says so and has the session's name. Its commands are executions like
any other, in a Bash kernel: gates judge them, the history has them, each can be taken back.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Awaitable, Callable
from typing import Protocol

from mulligan.engine.executions.execution import Watcher
from mulligan.engine.fleet import Fleet
from mulligan.engine.past.past import Past
from mulligan.engine.requests.validation import MAX_NAME_LENGTH, check_agent_id
from mulligan.engine.vms.program import OutputCallback
from mulligan.engine.vms.vm import Vm
from mulligan.errors import SessionExists, SessionNotFound, ValidationFailed, VmExecutionError
from mulligan.models import (
    HistoryQueryRequest,
    RollbackResponse,
    RollbackTo,
    Session,
    SessionCommand,
    SessionCreateRequest,
    SessionOutput,
    SessionSnapshot,
    SessionSnapshotRequest,
    SnapshotCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)

KERNEL = "session"
MOST = {"memory_mb": 2**40, "vcpus": 2**16}
LANGUAGE = "bash"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")
_AGENTS = re.compile(r"agent-(.+)-\d+", re.ASCII)


class Execute(Protocol):
    """``Engine.execute``."""

    async def __call__(
        self,
        request: VmExecuteRequest,
        on_output: OutputCallback | None = None,
        *,
        watcher: Watcher | None = None,
    ) -> VmExecuteResponse: ...


class Sessions:
    """The sessions of an engine; ``agent_id`` restricts a call to that agent's."""

    def __init__(
        self,
        fleet: Fleet,
        past: Past,
        execute: Execute,
        delete: Callable[[str], Awaitable[None]],
        default_type: str,
    ) -> None:
        self._fleet = fleet
        self._past = past
        self._execute = execute
        self._delete = delete
        self._default_type = default_type
        self._making: set[tuple[str, str]] = set()

    async def create(self, request: SessionCreateRequest) -> Session:
        """Makes a session; its VM boots in the background.

        Raises:
            ValidationFailed: a field is wrong.
            SessionExists: the agent has one of that name.
        """
        name = request.name
        if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
            raise ValidationFailed(
                f"name must be 1 to {MAX_NAME_LENGTH} letters, digits or . _ : @ / + -",
                field="name",
            )
        for field, most in MOST.items():
            value = getattr(request, field)
            if value is not None and not 1 <= value <= most:
                raise ValidationFailed(f"{field} must be from 1 to {most}", field=field)
        agent_id = request.agent_id if request.agent_id is not None else agent_of(name)
        check_agent_id(agent_id)
        place = (agent_id, name)
        if place in self._making or self._named(name, agent_id):
            raise SessionExists(name, field="name", remedy="use it, or choose another name")
        self._making.add(place)
        try:
            vm_type = request.vm_type or self._default_type
            wanted, notes = self._fleet.fitting(vm_type, {n: getattr(request, n) for n in MOST})
            vm = await self._fleet.create(agent_id, name, wanted, session=True)
        finally:
            self._making.discard(place)
        self._fleet.boot_soon(vm)
        return _session(vm, notes=notes + _not_held(vm, request))

    async def execute(
        self,
        name: str,
        request: SessionCommand,
        agent_id: str | None = None,
        watcher: Watcher | None = None,
    ) -> SessionOutput:
        """Runs a command in a session's shell, after those that came before it.

        Raises:
            SessionNotFound: there is no such session.
            VmExecutionError: see ``Engine.execute``.
        """
        vm = self._find(name, agent_id)
        decoders = {
            stream: codecs.getincrementaldecoder("utf-8")("replace")
            for stream in ("stdout", "stderr")
        }
        printed: list[str] = []
        wanted = VmExecuteRequest(
            agent_id=vm.record.agent_id,
            language=LANGUAGE,
            code=request.command,
            vm_id=vm.record.id,
            timeout_seconds=request.timeout_seconds,
            kernel=KERNEL,
            approval=request.approval,
        )

        def on_output(stream: str, data: bytes) -> None:
            printed.append(decoders[stream].decode(data))

        try:
            done = await self._execute(wanted, on_output, watcher=watcher)
        except VmExecutionError as error:
            if error.field == "code":
                error.field = "command"
            raise
        printed += [decoder.decode(b"", final=True) for decoder in decoders.values()]
        return output_of(done, "".join(printed))

    async def snapshot(
        self, name: str, request: SessionSnapshotRequest, agent_id: str | None = None
    ) -> SessionSnapshot:
        """Keeps the state a session is in.

        Raises:
            SessionNotFound: there is no such session.
            SnapshotFailed: the session is as it was.
        """
        vm = self._find(name, agent_id)
        wanted = SnapshotCreateRequest(name=request.name)
        made = await self._past.snapshot(vm.record.id, wanted)
        return SessionSnapshot(snapshot_id=made.id, name=made.name, created_at=made.created_at)

    async def rollback(
        self, name: str, snapshot_id: str, agent_id: str | None = None
    ) -> RollbackResponse:
        """Takes a session back to a snapshot; what runs in it is cancelled.

        Raises:
            SessionNotFound, SnapshotNotFound: there is no such session, or snapshot of it.
            RollbackFailed: the session is as it was.
        """
        vm = self._find(name, agent_id)
        return await self._past.rollback(vm.record.id, RollbackTo(snapshot_id=snapshot_id))

    async def info(self, name: str, agent_id: str | None = None) -> Session:
        """A session.

        Raises:
            SessionNotFound: there is no such session.
        """
        vm = self._find(name, agent_id)
        if not self._past.enabled:
            return _session(vm)
        asked = HistoryQueryRequest(vm_id=vm.record.id, kernel=KERNEL, limit=1)
        return _session(vm, commands=(await self._past.history(asked)).total)

    def all(self, agent_id: str | None = None) -> list[Session]:
        """All sessions, or those of an agent, oldest first."""
        return [_session(vm) for vm in self._fleet.of(agent_id) if vm.record.session]

    async def delete(self, name: str, agent_id: str | None = None) -> None:
        """Ends a session: its VM is removed with all that it wrote.

        Raises:
            SessionNotFound: there is no such session.
        """
        await self._delete(self._find(name, agent_id).record.id)

    def _named(self, name: str, agent_id: str | None) -> list[Vm]:
        return [
            vm for vm in self._fleet.of(agent_id) if vm.record.session and vm.record.name == name
        ]

    def _find(self, name: str, agent_id: str | None) -> Vm:
        found = self._named(name, agent_id)
        if not found:
            raise SessionNotFound(name[:100], field="name", remedy="make it with POST /sessions")
        if len(found) > 1:
            agents = ", ".join(vm.record.agent_id for vm in found[:10])
            raise ValidationFailed(
                f"several agents have a session {name}: {agents}",
                field="agent_id",
                remedy="say which with ?agent_id=",
            )
        return found[0]


def output_of(done: VmExecuteResponse, printed: str | None = None) -> SessionOutput:
    """An execution as a session's command; without what it printed as it came, stdout first."""
    return SessionOutput(
        output=done.stdout + done.stderr if printed is None else printed,
        exit_code=done.exit_code,
        execution_id=done.execution_id,
        vm_id=done.vm_id,
        outcome=done.outcome,
        error=done.error,
        truncated=done.truncated,
        duration_ms=done.duration_ms,
    )


def agent_of(name: str) -> str:
    """The agent of a session that names none."""
    found = _AGENTS.fullmatch(name)
    return found[1] if found else name


def _not_held(vm: Vm, request: SessionCreateRequest) -> list[str]:
    return [
        f"{name} was asked to be {value}: nothing on this host holds VMs to it"
        for name in MOST
        if (value := getattr(request, name)) is not None and _held(vm, name) is None
    ]


def _held(vm: Vm, name: str) -> int | None:
    """What a VM is held to, in whole units; None: to nothing."""
    limit = vm.limits.get(name)
    if limit is None or not limit.value or limit.held_by == "none":
        return None
    return math.ceil(limit.value)


def _session(vm: Vm, *, commands: int | None = None, notes: list[str] | None = None) -> Session:
    return Session(
        name=vm.record.name,
        vm_id=vm.record.id,
        agent_id=vm.record.agent_id,
        vm_type=vm.record.vm_type,
        status=vm.status,
        created_at=vm.record.created_at,
        last_activity=vm.last_activity,
        commands=commands,
        memory_mb=_held(vm, "memory_mb"),
        vcpus=_held(vm, "vcpus"),
        notes=notes or [],
    )
