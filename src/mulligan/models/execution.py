"""Running code, the VMs it runs in, and what a client is told to do."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag

from mulligan.errors import ApiError, VmExecutionError, from_wire
from mulligan.models.base import F64, I32, U32, U64, Request, Struct, UtcTime
from mulligan.models.capabilities import VmCapabilities
from mulligan.models.limits import VmLimit
from mulligan.models.network import SecretReference
from mulligan.models.verdicts import Verdict


class HistoryConfig(Struct):
    """History tracking and rollback, as a client wants it.

    ``snapshot_on_execution``: a snapshot after every execution. ``snapshot_on_failure``: after one
    that fails. ``auto_rollback_on_failure``: the VM goes back to before one that fails. What is not
    given is as the server, or the settings of this machine, have it.
    """

    enabled: StrictBool = True
    snapshot_on_execution: StrictBool = False
    snapshot_on_failure: StrictBool = True
    auto_rollback_on_failure: StrictBool = False
    max_history_entries: U64 = 100
    persist_history: StrictBool = True
    integration_mode: StrictStr = "http"


class ExecutionHistory(Request):
    """What is kept of one execution, and what its failure does; null: as the server has it set.

    See ``HistoryConfig`` for the three. That there is an entry is not up to whoever asks.
    """

    snapshot_on_execution: StrictBool | None = None
    snapshot_on_failure: StrictBool | None = None
    auto_rollback_on_failure: StrictBool | None = None


DEFAULT_LANGUAGES: tuple[str, ...] = ("python", "javascript", "bash", "rust")
DEFAULT_VM_TYPE = "focal-optimized"
SESSION_VM_TYPE = "ubuntu"


class VmExecutionConfig(Struct):
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


class CodeBlock(Struct):
    """A block of code found in a model's answer."""

    language: StrictStr
    code: StrictStr
    execution_confidence: F64
    start_pos: U64
    end_pos: U64
    metadata: Any | None = None


def _kind_of_secret(given: object) -> str:
    return "value" if isinstance(given, str) else "reference"


Secrets = dict[
    StrictStr,
    Annotated[
        Annotated[StrictStr, Tag("value")] | Annotated[SecretReference, Tag("reference")],
        Discriminator(_kind_of_secret),
    ],
]


class VmExecuteRequest(Request):
    """Run ``code`` in a VM of ``agent_id``.

    ``secrets``, by the names of variables, are values, which the program is given, or references to
    what the server offers, for which it is given placeholders. None comes back in outputs.
    """

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
    approval: StrictStr | None = None
    secrets: Secrets | None = Field(default=None, repr=False)
    history: ExecutionHistory | None = None


class DisplayData(Struct):
    """A value or a picture a kernel's cell gave: base64 for binary types, text for the others."""

    mime_type: StrictStr
    data: StrictStr


class VmExecuteResponse(Struct):
    """What came of an execution.

    ``exit_code`` is the program's own; 128 + n where signal n ended it, 124 where the time limit
    did (then ``error`` says so too); -1 where it never started. ``outcome`` is "success", "failed",
    "timeout", "cancelled" or "out_of_memory": the kernel ended the program because its VM's memory
    was used up. ``queue_ms`` is how long it waited for its turn, which ``duration_ms`` does not
    count. ``change_bytes``, see ``CommandHistoryEntry``. ``packages``: what its ``requirements``
    came to, in exact versions.
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
    change_bytes: U64 | None = None
    notes: list[StrictStr] = Field(default_factory=list)
    verdicts: list[Verdict] = Field(default_factory=list)
    approval: StrictStr | None = None
    queue_ms: U64 = 0
    packages: list[StrictStr] = Field(default_factory=list)


class ErrorAnswer(Struct):
    """An error as an answer tells it: its wire form, and what a person needs to know.

    ``request_id`` is there where it is the whole answer to a request over HTTP.
    """

    error: dict[StrictStr, StrictStr | StrictInt]
    message: StrictStr
    field: StrictStr | None = None
    remedy: StrictStr | None = None
    request_id: StrictStr | None = None

    @classmethod
    def of(cls, error: VmExecutionError) -> ErrorAnswer:
        """The answer for an error."""
        return cls(
            error=dict(error.to_wire()),
            message=str(error),
            field=error.field,
            remedy=error.remedy,
        )

    def exception(self) -> VmExecutionError:
        """The error again, to be raised; an ``ApiError`` where its kind is unknown here."""
        try:
            kind = from_wire(self.error)
        except ValueError:
            return ApiError(self.message, field=self.field, remedy=self.remedy)
        return type(kind)(kind.detail, field=self.field, remedy=self.remedy)


class ExecutionEvent(Struct):
    """One event of an execution that is listened to.

    ``event`` says which it is, and so which other fields are there:

    - "queued" (``vm_id``, ``ahead``): it has to wait for its turn, behind at most so many others
      (None: nobody knows); the first event, where it is there;
    - "started" (``vm_id``, ``queue_ms``): the first event, or the one after "queued";
    - "progress" (``progress``): what it waits for, such as packages it asks for;
    - "stdout" and "stderr" (``text``): output as it came, at most 64 KiB of it;
    - "gap" (``dropped_bytes``, of UTF-8): output this listener missed, because it was too slow or
      asked too late; None where it is not known how much. ``id`` is that of the last event missed;
    - "result" (``result``): how it ended, or "error" (``error``): why there is no result. One of
      them is the last event.
    """

    id: U64
    event: StrictStr
    execution_id: StrictStr
    vm_id: StrictStr | None = None
    text: StrictStr | None = None
    progress: StrictStr | None = None
    dropped_bytes: U64 | None = None
    ahead: U64 | None = None
    queue_ms: U64 | None = None
    result: VmExecuteResponse | None = None
    error: ErrorAnswer | None = None

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return self.event in ("result", "error")


class ExecutionStatus(Struct):
    """An execution, running or ended.

    ``state`` is "queued" (it waits for its turn), "running" (also while its output is judged),
    "ended" (``result`` says how) or "failed" (``error`` says why there is no result).
    ``last_event`` is the number of its newest event, None where it has no events to
    listen to (any more): then it is known from the history.
    """

    execution_id: StrictStr
    agent_id: StrictStr
    vm_id: StrictStr
    language: StrictStr
    state: StrictStr
    started_at: UtcTime
    completed_at: UtcTime | None = None
    last_event: U64 | None = None
    result: VmExecuteResponse | None = None
    error: ErrorAnswer | None = None


class BatchRequest(Request):
    """Several of ``VmExecuteRequest``, each read on its own: one that is wrong spoils no other."""

    requests: list[Any] = Field(description="Each as `POST /api/llm/execute` takes it.")


class BatchResult(Struct):
    """What came of one request of a batch: one of the two."""

    result: VmExecuteResponse | None = None
    error: ErrorAnswer | None = None


class BatchResponse(Struct):
    """What came of a batch, in the order of its requests."""

    results: list[BatchResult]


class ParseExecuteRequest(Request):
    """Find the code in a model's answer and, if asked, run it."""

    agent_id: StrictStr
    llm_response: StrictStr
    auto_execute: StrictBool
    auto_execute_threshold: F64
    vm_config: Any | None = None


class AnswerOptions(Request):
    """``vm_config`` of a ``ParseExecuteRequest``: how the blocks of an answer are run.

    ``vm_type`` makes a new VM for the answer. ``stop_on_failure`` overrides the server's setting.
    """

    vm_id: StrictStr | None = None
    vm_type: StrictStr | None = None
    timeout_seconds: U64 | None = None
    working_dir: StrictStr | None = None
    env: dict[StrictStr, StrictStr] | None = None
    secrets: Secrets | None = Field(default=None, repr=False)
    kernel: StrictStr | None = None
    stop_on_failure: StrictBool | None = None
    history: ExecutionHistory | None = None


class ParseExecuteResponse(Struct):
    """The blocks found, what running them gave, and what went wrong."""

    code_blocks: list[CodeBlock]
    execution_results: list[VmExecuteResponse]
    errors: list[StrictStr]


class VmInstance(Struct):
    """A VM as its users see it.

    ``disk_mb`` is what its disk may hold, in MiB, 0 for any amount. What it takes on the host, in
    bytes, null where it was not measured: ``disk_bytes`` is what its disk holds beyond the image;
    ``memory_bytes`` what memory that is kept of it takes, which is no part of its disk;
    ``kept_bytes`` both and its snapshots; ``own_bytes`` what of it nobody else needs, and removing
    the VM would free. ``limits`` says what the VM may take and what holds it to that, by the names
    the settings have for it; ``capabilities`` what its ``driver`` can do. ``network`` is "none" or
    "allowlist", ``allow`` then who may be reached. ``image`` is the digest of the image it is of,
    null where that is the host's own.
    """

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
    image: StrictStr | None = None
    disk_mb: U64 | None = None
    network: StrictStr | None = None
    allow: list[StrictStr] | None = None
    disk_bytes: U64 | None = None
    kept_bytes: U64 | None = None
    own_bytes: U64 | None = None
    memory_bytes: U64 | None = None
    limits: dict[StrictStr, VmLimit] | None = None
    capabilities: VmCapabilities | None = None


class VmCreateRequest(Request):
    """Make a VM; ``agent_id`` is an addition, and is read from an ``agent-<id>-vm`` name else.

    ``disk_mb`` is what its disk may hold, in MiB, up to that of its type; null: as its type has it.
    So are ``memory_mb`` (what its programs may have in memory, in MiB), ``vcpus`` (CPU time they
    may have, in CPUs) and ``max_processes``. ``network`` "none" takes away the network of its type,
    and ``allow`` leaves of it what is named here.
    """

    vm_type: StrictStr = DEFAULT_VM_TYPE
    vm_name: StrictStr | None = None
    agent_id: StrictStr | None = None
    disk_mb: U64 | None = None
    memory_mb: U64 | None = None
    vcpus: F64 | None = None
    max_processes: U64 | None = None
    network: StrictStr | None = None
    allow: list[StrictStr] | None = None


class VmPoolResponse(Struct):
    """The VMs of an agent.

    Those that run nothing are available, whether they are up or not: ``status`` says so. Of the
    default type ``spare_vms`` are up and ready for this agent alone, ``shared_vms`` for the first
    VM of whoever comes next.
    """

    agent_id: StrictStr
    available_vms: list[VmInstance]
    in_use_vms: list[VmInstance]
    pool_config: VmExecutionConfig
    # Additions
    spare_vms: U32 | None = None
    shared_vms: U32 | None = None


class ExecutionIntent(Struct):
    """How much a text asks for its code to be run."""

    confidence: F64
    trigger_keywords: list[StrictStr]
    context_clues: list[StrictStr]
    suggested_action: StrictStr


class LanguageConfig(Struct):
    """How a language is run."""

    name: StrictStr = "unknown"
    extension: StrictStr = "txt"
    execute_command: StrictStr = "cat"
    common_packages: list[StrictStr] = Field(default_factory=list)
    restrictions: list[StrictStr] = Field(default_factory=list)
    timeout_multiplier: F64 = 1.0
