"""History, snapshots, rollback, fork and diff."""

from __future__ import annotations

from pydantic import Field, StrictBool, StrictStr

from mulligan.models.base import I32, U64, Request, Struct, UtcTime
from mulligan.models.execution import VmInstance
from mulligan.models.network import NetworkConnection
from mulligan.models.verdicts import Verdict


class CommandHistoryEntry(Struct):
    """One execution as history keeps it.

    ``snapshot_id`` is the snapshot made after it, if one was; ``snapshot_before`` the state it
    started from. ``outcome`` is "running" until it has ended, and "lost" where the server was
    killed under it. ``change_bytes`` is what its changes to the disk take; null where that was not
    measured yet, or others changed the disk meanwhile. ``packages`` are those
    its requirements came to, each with its exact version. ``network`` is what it reached, or tried.
    """

    id: StrictStr
    vm_id: StrictStr
    agent_id: StrictStr
    command: StrictStr
    language: StrictStr
    snapshot_id: StrictStr | None = None
    success: StrictBool
    exit_code: I32
    stdout: StrictStr
    stderr: StrictStr
    executed_at: UtcTime
    duration_ms: U64
    # Additions
    proposed_command: StrictStr | None = None
    outcome: StrictStr = "success"
    error: StrictStr | None = None
    kernel: StrictStr | None = None
    verdicts: list[Verdict] = Field(default_factory=list)
    approval: StrictStr | None = None
    stdin_sha256: StrictStr | None = None
    truncated: StrictBool = False
    stdout_bytes: U64 = 0
    stderr_bytes: U64 = 0
    completed_at: UtcTime | None = None
    cpu_ms: U64 = 0
    max_rss_kb: U64 = 0
    snapshot_before: StrictStr | None = None
    snapshot_after: StrictStr | None = None
    change_bytes: U64 | None = None
    packages: list[StrictStr] = Field(default_factory=list)
    network: list[NetworkConnection] = Field(default_factory=list)


class HistoryQueryRequest(Request):
    """Which rows of a VM's history are wanted, newest first."""

    vm_id: StrictStr
    agent_id: StrictStr | None = None
    limit: U64 | None = None
    failures_only: StrictBool = False
    start_date: UtcTime | None = None
    end_date: UtcTime | None = None
    # Additions
    search: StrictStr | None = None
    language: StrictStr | None = None
    kernel: StrictStr | None = None
    offset: U64 = 0


class HistoryQueryResponse(Struct):
    """Rows of history; ``total`` counts all that match, shown or not."""

    vm_id: StrictStr
    entries: list[CommandHistoryEntry]
    total: U64


class KernelState(Struct):
    """A kernel's part in a snapshot, or in what a rollback brought back.

    ``memory`` is "kept" (its variables return), "lost" (they were there once: too old, or the VM
    was restarted since) or "not kept" (kernels of this language never have it kept). ``notes``
    say what does not come along even then, such as threads and open files.
    """

    name: StrictStr
    language: StrictStr
    memory: StrictStr
    notes: list[StrictStr] = Field(default_factory=list)


class RollbackRequest(Request):
    """Take a VM back to a snapshot."""

    vm_id: StrictStr
    snapshot_id: StrictStr
    create_pre_rollback_snapshot: StrictBool


class RollbackResponse(Struct):
    """What a rollback did.

    ``undone_executions`` are those whose effects are gone, newest first, of the last 100 that were
    let run; what an earlier rollback took back is not among them.
    """

    vm_id: StrictStr
    restored_snapshot_id: StrictStr
    pre_rollback_snapshot_id: StrictStr | None = None
    rolled_back_at: UtcTime
    success: StrictBool
    error: StrictStr | None = None
    # Additions
    kernels: list[KernelState] = Field(default_factory=list)
    cancelled_executions: list[StrictStr] = Field(default_factory=list)
    undone_executions: list[StrictStr] = Field(default_factory=list)


class RollbackTo(Request):
    """Where to take a VM back to: one of a snapshot, before an execution, after the last success.

    With none of them: to before the VM's last execution.
    """

    snapshot_id: StrictStr | None = None
    execution_id: StrictStr | None = None
    last_success: StrictBool = False
    create_pre_rollback_snapshot: StrictBool = False


class SnapshotCreateRequest(Request):
    """Keep the state a VM is in."""

    name: StrictStr | None = None
    description: StrictStr | None = None


class Snapshot(Struct):
    """A state of a VM that can be gone back to.

    ``kind`` is "manual", "execution" (made after one, as ``snapshot_on_execution`` or
    ``snapshot_on_failure`` ask), "restore_point" (made before one), "files" (made before
    files were changed from outside) or "pre_rollback".
    ``size_bytes`` is what it takes on the host: its disk beyond the image, and ``memory_bytes`` of
    memory that is kept with it. ``own_bytes`` is what of both no VM and no other snapshot needs,
    and removing it would free; null where it was not measured.
    ``whole_memory``: going back to it, as things are when this is asked, brings back all that ran
    in the VM (then all ``kernels`` are "kept"); false where it was never kept, or is void by now.
    """

    id: StrictStr
    vm_id: StrictStr
    agent_id: StrictStr
    name: StrictStr | None = None
    description: StrictStr | None = None
    kind: StrictStr = "manual"
    created_at: UtcTime
    execution_id: StrictStr | None = None
    size_bytes: U64 | None = None
    own_bytes: U64 | None = None
    memory_bytes: U64 | None = None
    kernels: list[KernelState] = Field(default_factory=list)
    whole_memory: StrictBool = False


class ForkRequest(Request):
    """Make ``count`` new VMs that go on from a VM's present, or from one of its past states."""

    count: I32 = 1
    snapshot_id: StrictStr | None = None
    execution_id: StrictStr | None = None


class ForkResponse(Struct):
    """The VMs a fork made."""

    vm_id: StrictStr
    snapshot_id: StrictStr
    vms: list[VmInstance]
    notes: list[StrictStr] = Field(default_factory=list)


class DiffEntry(Struct):
    """One path that differs. Modes are octal texts such as "0644"; sizes are in bytes.

    ``change`` is "added", "changed", "removed"; ``kind`` (of the newer side, of the older one for
    what was removed) is "file", "directory", "symlink", "fifo", "socket" or "device".
    """

    path: StrictStr
    change: StrictStr
    kind: StrictStr
    old_size: U64 | None = None
    new_size: U64 | None = None
    old_mode: StrictStr | None = None
    new_mode: StrictStr | None = None
    text_diff: StrictStr | None = None


class DiffResponse(Struct):
    """What differs between two states of a VM, paths in order."""

    vm_id: StrictStr
    old_snapshot_id: StrictStr | None = None
    new_snapshot_id: StrictStr | None = None
    entries: list[DiffEntry]
    truncated: StrictBool = False
