"""The structs of the wire format, with its names, defaults and JSON form.

Optional values may be null or absent and are written as null; times are RFC 3339 with an offset
and are held in UTC. Numbers and texts are not converted into each other: ``"5"`` is no integer.
Fields marked *Addition* are Mulligan's own; clients of the plain format neither send nor need
them. All models are frozen.
"""

from mulligan.models.approvals import Approval, ApprovalAnswer
from mulligan.models.base import F64, I32, U32, U64, UtcTime, utc_now
from mulligan.models.callers import Identity
from mulligan.models.capabilities import VmCapabilities
from mulligan.models.execution import (
    DEFAULT_LANGUAGES,
    DEFAULT_VM_TYPE,
    SESSION_VM_TYPE,
    AnswerOptions,
    BatchRequest,
    BatchResponse,
    BatchResult,
    CodeBlock,
    DisplayData,
    ErrorAnswer,
    ExecutionEvent,
    ExecutionHistory,
    ExecutionIntent,
    ExecutionStatus,
    HistoryConfig,
    LanguageConfig,
    ParseExecuteRequest,
    ParseExecuteResponse,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmExecutionConfig,
    VmInstance,
    VmPoolResponse,
)
from mulligan.models.files import (
    FileChange,
    FileInfo,
    FileList,
    MakeDirectoryRequest,
    MoveFileRequest,
)
from mulligan.models.hooks import HookDescription
from mulligan.models.images import Image, ImageBuildRequest, ImageJob, ImageProgram
from mulligan.models.limits import VmLimit
from mulligan.models.network import NetworkConnection, SecretReference
from mulligan.models.packages import PackageSet, WarmRequest
from mulligan.models.past import (
    CommandHistoryEntry,
    DiffEntry,
    DiffResponse,
    ForkRequest,
    ForkResponse,
    HistoryQueryRequest,
    HistoryQueryResponse,
    KernelState,
    RollbackRequest,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    SnapshotCreateRequest,
)
from mulligan.models.sessions import (
    Session,
    SessionCommand,
    SessionCreateRequest,
    SessionOutput,
    SessionRollback,
    SessionSnapshot,
    SessionSnapshotRequest,
)
from mulligan.models.terminal import TerminalExit, TerminalRequest, TerminalStarted
from mulligan.models.verdicts import Verdict

__all__ = [
    "DEFAULT_LANGUAGES",
    "DEFAULT_VM_TYPE",
    "F64",
    "I32",
    "SESSION_VM_TYPE",
    "U32",
    "U64",
    "AnswerOptions",
    "Approval",
    "ApprovalAnswer",
    "BatchRequest",
    "BatchResponse",
    "BatchResult",
    "CodeBlock",
    "CommandHistoryEntry",
    "DiffEntry",
    "DiffResponse",
    "DisplayData",
    "ErrorAnswer",
    "ExecutionEvent",
    "ExecutionHistory",
    "ExecutionIntent",
    "ExecutionStatus",
    "FileChange",
    "FileInfo",
    "FileList",
    "ForkRequest",
    "ForkResponse",
    "HistoryConfig",
    "HistoryQueryRequest",
    "HistoryQueryResponse",
    "HookDescription",
    "Identity",
    "Image",
    "ImageBuildRequest",
    "ImageJob",
    "ImageProgram",
    "KernelState",
    "LanguageConfig",
    "MakeDirectoryRequest",
    "MoveFileRequest",
    "NetworkConnection",
    "PackageSet",
    "ParseExecuteRequest",
    "ParseExecuteResponse",
    "RollbackRequest",
    "RollbackResponse",
    "RollbackTo",
    "SecretReference",
    "Session",
    "SessionCommand",
    "SessionCreateRequest",
    "SessionOutput",
    "SessionRollback",
    "SessionSnapshot",
    "SessionSnapshotRequest",
    "Snapshot",
    "SnapshotCreateRequest",
    "TerminalExit",
    "TerminalRequest",
    "TerminalStarted",
    "UtcTime",
    "Verdict",
    "VmCapabilities",
    "VmCreateRequest",
    "VmExecuteRequest",
    "VmExecuteResponse",
    "VmExecutionConfig",
    "VmInstance",
    "VmLimit",
    "VmPoolResponse",
    "WarmRequest",
    "utc_now",
]
