"""The structs of the wire format, with its names, defaults and JSON form.

Optional values may be null or absent and are written as null; times are RFC 3339 with an offset
and are held in UTC. Numbers and texts are not converted into each other: ``"5"`` is no integer.
Fields marked *Addition* are Mulligan's own; clients of the plain format neither send nor need
them. All models are frozen.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
)


def _number(value: object) -> object:
    """JSON has one kind of number, so 1 is a float too; true and "1" are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004  (pydantic reads ValueError)
    return value


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _rfc3339(value: object) -> object:
    """A time is a text of RFC 3339 with its offset, not a number of seconds."""
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC3339.fullmatch(value)):
        return value
    raise ValueError("must be an RFC 3339 time with an offset, such as 2025-01-02T03:04:05Z")


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


U32 = Annotated[StrictInt, Field(ge=0, le=2**32 - 1)]
U64 = Annotated[StrictInt, Field(ge=0, le=2**64 - 1)]
I32 = Annotated[StrictInt, Field(ge=-(2**31), le=2**31 - 1)]
F64 = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
UtcTime = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_utc)]


def utc_now() -> datetime:
    """The present, in the form the models hold times."""
    return datetime.now(UTC)


class _Struct(BaseModel):
    """What is read: unknown fields are passed over, so that a newer server can add some."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Request(BaseModel):
    """What is asked: an unknown field is a mistake the asker wants to hear of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HistoryConfig(_Struct):
    """History tracking and rollback."""

    enabled: StrictBool = True
    snapshot_on_execution: StrictBool = False
    snapshot_on_failure: StrictBool = True
    auto_rollback_on_failure: StrictBool = False
    max_history_entries: U64 = 100
    persist_history: StrictBool = True
    integration_mode: StrictStr = "http"


DEFAULT_LANGUAGES: tuple[str, ...] = ("python", "javascript", "bash", "rust")
DEFAULT_VM_TYPE = "focal-optimized"


class VmExecutionConfig(_Struct):
    """What a client needs to know: where to run code, and under which bounds."""

    enabled: StrictBool = False
    api_base_url: StrictStr = "http://localhost:8080"
    vm_pool_size: U32 = 1
    default_vm_type: StrictStr = DEFAULT_VM_TYPE
    execution_timeout_ms: U64 = 30000
    allowed_languages: list[StrictStr] = Field(default_factory=lambda: list(DEFAULT_LANGUAGES))
    auto_provision: StrictBool = True
    code_validation: StrictBool = True
    max_code_length: U64 = 10000
    history: HistoryConfig = Field(default_factory=HistoryConfig)


class CodeBlock(_Struct):
    """A block of code found in a model's answer."""

    language: StrictStr
    code: StrictStr
    execution_confidence: F64
    start_pos: U64
    end_pos: U64
    metadata: Any | None = None


class VmExecuteRequest(_Request):
    """Run ``code`` in a VM of ``agent_id``."""

    agent_id: StrictStr
    language: StrictStr
    code: StrictStr
    vm_id: StrictStr | None = None
    requirements: list[StrictStr] = Field(default_factory=list)
    timeout_seconds: U64 | None = None
    working_dir: StrictStr | None = None
    metadata: Any | None = None
    # Additions
    stdin: StrictStr | None = None
    env: dict[StrictStr, StrictStr] | None = None
    kernel: StrictStr | None = None


class DisplayData(_Struct):
    """A value or a picture a kernel's cell gave: base64 for binary types, text for the others."""

    mime_type: StrictStr
    data: StrictStr


class VmExecuteResponse(_Struct):
    """What came of an execution.

    ``exit_code`` is the program's own; 128 + n where signal n ended it, 124 where the time limit
    did (then ``error`` says so too).
    """

    execution_id: StrictStr
    vm_id: StrictStr
    exit_code: I32
    stdout: StrictStr
    stderr: StrictStr
    duration_ms: U64
    started_at: UtcTime
    completed_at: UtcTime
    error: StrictStr | None = None
    # Additions
    outcome: StrictStr = "success"
    truncated: StrictBool = False
    stdout_bytes: U64 = 0
    stderr_bytes: U64 = 0
    cpu_ms: U64 = 0
    max_rss_kb: U64 = 0
    background_processes: U64 = 0
    kernel: StrictStr | None = None
    result: StrictStr | None = None
    results: list[DisplayData] = Field(default_factory=list)
    snapshot_before: StrictStr | None = None
    snapshot_after: StrictStr | None = None
    rolled_back_to: StrictStr | None = None
    notes: list[StrictStr] = Field(default_factory=list)


class ParseExecuteRequest(_Request):
    """Find the code in a model's answer and, if asked, run it."""

    agent_id: StrictStr
    llm_response: StrictStr
    auto_execute: StrictBool
    auto_execute_threshold: F64
    vm_config: Any | None = None


class ParseExecuteResponse(_Struct):
    """The blocks found, what running them gave, and what went wrong."""

    code_blocks: list[CodeBlock]
    execution_results: list[VmExecuteResponse]
    errors: list[StrictStr]


class VmInstance(_Struct):
    """A VM as its users see it."""

    id: StrictStr
    name: StrictStr
    vm_type: StrictStr
    status: StrictStr
    ip_address: StrictStr | None = None
    created_at: UtcTime
    last_activity: UtcTime | None = None
    # Additions
    agent_id: StrictStr | None = None
    driver: StrictStr | None = None


class VmCreateRequest(_Request):
    """Make a VM; ``agent_id`` is an addition, and is read from an ``agent-<id>-vm`` name else."""

    vm_type: StrictStr = DEFAULT_VM_TYPE
    vm_name: StrictStr | None = None
    agent_id: StrictStr | None = None


class VmPoolResponse(_Struct):
    """The VMs of an agent."""

    agent_id: StrictStr
    available_vms: list[VmInstance]
    in_use_vms: list[VmInstance]
    pool_config: VmExecutionConfig


class ExecutionIntent(_Struct):
    """How much a text asks for its code to be run."""

    confidence: F64
    trigger_keywords: list[StrictStr]
    context_clues: list[StrictStr]
    suggested_action: StrictStr


class LanguageConfig(_Struct):
    """How a language is run."""

    name: StrictStr = "unknown"
    extension: StrictStr = "txt"
    execute_command: StrictStr = "cat"
    common_packages: list[StrictStr] = Field(default_factory=list)
    restrictions: list[StrictStr] = Field(default_factory=list)
    timeout_multiplier: F64 = 1.0


class Verdict(_Struct):
    """What a hook decided about an execution, and how long it took."""

    hook: StrictStr
    decision: StrictStr
    reason: StrictStr | None = None
    duration_ms: F64 = 0.0


class CommandHistoryEntry(_Struct):
    """One execution as history keeps it.

    ``snapshot_id`` is the snapshot made after it, if one was; ``snapshot_before`` the state it
    started from. ``outcome`` is "running" until it has ended, and "lost" where the server was
    killed under it.
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


class HistoryQueryRequest(_Request):
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


class HistoryQueryResponse(_Struct):
    """Rows of history; ``total`` counts all that match, shown or not."""

    vm_id: StrictStr
    entries: list[CommandHistoryEntry]
    total: U64


class KernelState(_Struct):
    """A kernel's part in a snapshot, or in what a rollback brought back.

    ``memory`` is "kept" (its variables return), "lost" (they were there once: too old, or the VM
    was restarted since) or "not kept" (kernels of this language never have it kept). ``notes``
    say what does not come along even then, such as threads and open files.
    """

    name: StrictStr
    language: StrictStr
    memory: StrictStr
    notes: list[StrictStr] = Field(default_factory=list)


class RollbackRequest(_Request):
    """Take a VM back to a snapshot."""

    vm_id: StrictStr
    snapshot_id: StrictStr
    create_pre_rollback_snapshot: StrictBool


class RollbackResponse(_Struct):
    """What a rollback did."""

    vm_id: StrictStr
    restored_snapshot_id: StrictStr
    pre_rollback_snapshot_id: StrictStr | None = None
    rolled_back_at: UtcTime
    success: StrictBool
    error: StrictStr | None = None
    # Additions
    kernels: list[KernelState] = Field(default_factory=list)
    cancelled_executions: list[StrictStr] = Field(default_factory=list)


class RollbackTo(_Request):
    """Where to take a VM back to: one of a snapshot, before an execution, after the last success.

    With none of them: to before the VM's last execution.
    """

    snapshot_id: StrictStr | None = None
    execution_id: StrictStr | None = None
    last_success: StrictBool = False
    create_pre_rollback_snapshot: StrictBool = False


class SnapshotCreateRequest(_Request):
    """Keep the state a VM is in."""

    name: StrictStr | None = None
    description: StrictStr | None = None


class Snapshot(_Struct):
    """A state of a VM that can be gone back to.

    ``kind`` is "manual", "execution" (made after one, as ``snapshot_on_execution`` or
    ``snapshot_on_failure`` ask), "restore_point" (made before one) or "pre_rollback".
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
    kernels: list[KernelState] = Field(default_factory=list)


class ForkRequest(_Request):
    """Make ``count`` new VMs that go on from a VM's present, or from one of its past states."""

    count: StrictInt = 1
    snapshot_id: StrictStr | None = None
    execution_id: StrictStr | None = None


class ForkResponse(_Struct):
    """The VMs a fork made."""

    vm_id: StrictStr
    snapshot_id: StrictStr
    vms: list[VmInstance]


class DiffEntry(_Struct):
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


class DiffResponse(_Struct):
    """What differs between two states of a VM, paths in order."""

    vm_id: StrictStr
    old_snapshot_id: StrictStr | None = None
    new_snapshot_id: StrictStr | None = None
    entries: list[DiffEntry]
    truncated: StrictBool = False
