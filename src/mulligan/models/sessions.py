"""Sessions: VMs with a name and a shell that goes on from command to command."""

from __future__ import annotations

from pydantic import Field, StrictBool, StrictStr

from mulligan.models.base import I32, U64, Request, Struct, UtcTime


class SessionCreateRequest(Request):
    """Make a session.

    ``agent_id`` is an addition. Without it the agent is read from a ``name`` of the form
    ``agent-<id>-<number>``; a session of any other name is an agent of its own, of that name.
    """

    name: StrictStr
    vm_type: StrictStr | None = None
    memory_mb: U64 | None = None
    vcpus: U64 | None = None
    # Additions
    agent_id: StrictStr | None = None


class Session(Struct):
    """A session as its users see it. ``commands`` counts those the history has.

    ``memory_mb`` and ``vcpus`` are what its VM is held to, in whole units; null: to nothing.
    ``notes`` say what of the request was not honoured.
    """

    name: StrictStr
    vm_id: StrictStr
    agent_id: StrictStr
    vm_type: StrictStr
    status: StrictStr
    created_at: UtcTime
    last_activity: UtcTime | None = None
    commands: U64 | None = None
    memory_mb: U64 | None = None
    vcpus: U64 | None = None
    notes: list[StrictStr] = Field(default_factory=list)


class SessionCommand(Request):
    """Run ``command`` in a session's shell. All but it are additions.

    ``approval`` as in ``VmExecuteRequest``.
    """

    command: StrictStr
    timeout_seconds: U64 | None = None
    approval: StrictStr | None = None


class SessionOutput(Struct):
    """What a command printed, both streams as they came.

    ``outcome`` and ``error`` as in ``VmExecuteResponse``.
    """

    output: StrictStr
    exit_code: I32
    execution_id: StrictStr
    vm_id: StrictStr
    outcome: StrictStr
    error: StrictStr | None = None
    truncated: StrictBool = False
    duration_ms: U64 = 0


class SessionSnapshotRequest(Request):
    """Keep the state a session is in."""

    name: StrictStr | None = None


class SessionSnapshot(Struct):
    """A state of a session that can be gone back to."""

    snapshot_id: StrictStr
    name: StrictStr | None = None
    created_at: UtcTime


class SessionRollback(Request):
    """Take a session back to a snapshot: its files, and its shell's variables and directory."""

    snapshot_id: StrictStr
