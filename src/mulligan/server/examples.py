"""Examples of what routes take and answer, by the names of their models; a test reads each."""

from __future__ import annotations

from typing import Any

from mulligan.errors import (
    ConfigError,
    FileError,
    Forbidden,
    IdempotencyKeyLost,
    SessionExists,
    TooManyRequests,
    Unauthorized,
    UnsupportedLanguage,
    ValidationFailed,
    VmExecutionError,
    VmNotAvailable,
)
from mulligan.models import ErrorAnswer

Json = dict[str, Any]
_AGENT = "my-agent"
_VM = "vm-1d901466dd508b06"
_EXECUTION = "exec-595dfc5c548404e4"
_SNAPSHOT = "snap-8c1f0a52b7d94e63"
_APPROVAL = "approval-5be0a2c491d7f386"
_SET = "5b1f0c9e2d7a48638f0e6b3c1d9a7f42"
_SESSION = "agent-my-agent-1700000000"
_BEGIN = "2026-01-02T03:04:05.222396Z"
_END = "2026-01-02T03:04:05.231881Z"

PARAMETERS = {
    "agent_id": _AGENT,
    "vm_id": _VM,
    "execution_id": _EXECUTION,
    "snapshot_id": _SNAPSHOT,
    "approval_id": _APPROVAL,
    "set_id": _SET,
    "name": _SESSION,
    "from": _SNAPSHOT,
    "to": "snap-0f3e9d7a15c28b46",
    "state": "pending",
    "search": "ZeroDivisionError",
    "language": "python",
    "limit": 20,
    "offset": 0,
    "after": 0,
    "failures_only": True,
    "wait_seconds": 5,
    "start_date": "2026-01-02T00:00:00Z",
    "end_date": "2026-01-03T00:00:00Z",
    "last-event-id": "0",
    "cancel_on_disconnect": False,
    "path": "/workspace/a.txt",
    "escaped": False,
    "mode": "0644",
    "parents": True,
    "recursive": True,
    "image": "node",
    "job_id": "image-4f1d0b9a7c62e853",
    "reference": "node:22-slim",
    "source": "node.tar",
}
_RESULT: Json = {
    "execution_id": _EXECUTION,
    "vm_id": _VM,
    "exit_code": 0,
    "stdout": "hi\n",
    "stderr": "",
    "duration_ms": 9,
    "started_at": _BEGIN,
    "completed_at": _END,
    "error": None,
    "outcome": "success",
    "stdout_bytes": 3,
    "cpu_ms": 3,
    "max_rss_kb": 6676,
}
_INSTANCE: Json = {
    "id": _VM,
    "name": "agent-my-agent-vm",
    "vm_type": "focal-optimized",
    "status": "ready",
    "ip_address": None,
    "created_at": _BEGIN,
    "last_activity": _END,
    "agent_id": _AGENT,
    "driver": "bubblewrap",
    "disk_mb": 10240,
}
_RUN: Json = {"agent_id": _AGENT, "language": "bash", "code": "echo hi"}
_ASKED: Json = {
    "id": _APPROVAL,
    "state": "pending",
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "prompt": "Remove all files that are not in version control?",
    "code": "git clean -fdx",
    "language": "bash",
    "vm_id": _VM,
    "agent_id": _AGENT,
    "vm_state": f"{_VM}.3/0",
    "created_at": _BEGIN,
    "expires_at": "2026-01-02T04:04:05Z",
}
_STATE: Json = {
    "execution_id": _EXECUTION,
    "agent_id": _AGENT,
    "vm_id": _VM,
    "language": "bash",
    "state": "ended",
    "started_at": _BEGIN,
    "completed_at": _END,
    "last_event": 3,
    "result": _RESULT,
    "error": None,
}
_BLOCK: Json = {
    "language": "python",
    "code": "print(6 * 7)",
    "execution_confidence": 0.9,
    "start_pos": 10,
    "end_pos": 36,
}
_ROW: Json = {
    "id": _EXECUTION,
    "vm_id": _VM,
    "agent_id": _AGENT,
    "command": "echo hi",
    "language": "bash",
    "snapshot_id": None,
    "success": True,
    "exit_code": 0,
    "stdout": "hi\n",
    "stderr": "",
    "executed_at": _BEGIN,
    "duration_ms": 9,
}
_WENT_BACK: Json = {
    "vm_id": _VM,
    "restored_snapshot_id": _SNAPSHOT,
    "pre_rollback_snapshot_id": None,
    "rolled_back_at": _END,
    "success": True,
    "error": None,
    "undone_executions": [_EXECUTION],
}
_KEPT: Json = {
    "id": _SNAPSHOT,
    "vm_id": _VM,
    "agent_id": _AGENT,
    "name": "before the upgrade",
    "kind": "manual",
    "created_at": _BEGIN,
}

EXAMPLES: dict[str, Json] = {
    "VmExecuteRequest": _RUN,
    "VmExecuteResponse": _RESULT,
    "BatchRequest": {"requests": [_RUN, _RUN | {"language": "python", "code": "print(6 * 7)"}]},
    "BatchResponse": {"results": [{"result": _RESULT, "error": None}]},
    "ParseExecuteRequest": {
        "agent_id": _AGENT,
        "llm_response": "Run this:\n```python\nprint(6 * 7)\n```\n",
        "auto_execute": True,
        "auto_execute_threshold": 0.7,
        "vm_config": {"timeout_seconds": 10},
    },
    "ParseExecuteResponse": {
        "code_blocks": [_BLOCK],
        "execution_results": [_RESULT | {"stdout": "42\n"}],
        "errors": [],
    },
    "ExecutionStatus": _STATE,
    "VmCreateRequest": {"agent_id": _AGENT, "vm_type": "focal-optimized"},
    "VmInstance": _INSTANCE,
    "VmPoolResponse": {
        "agent_id": _AGENT,
        "available_vms": [_INSTANCE],
        "in_use_vms": [],
        "pool_config": {"enabled": True},
    },
    "HistoryQueryResponse": {"vm_id": _VM, "entries": [_ROW], "total": 1},
    "SnapshotCreateRequest": {"name": "before the upgrade"},
    "Snapshot": _KEPT,
    "RollbackTo": {"snapshot_id": _SNAPSHOT, "create_pre_rollback_snapshot": True},
    "RollbackResponse": _WENT_BACK,
    "ForkRequest": {"count": 1, "snapshot_id": _SNAPSHOT},
    "ForkResponse": {"vm_id": _VM, "snapshot_id": _SNAPSHOT, "vms": [_INSTANCE], "notes": []},
    "DiffResponse": {
        "vm_id": _VM,
        "old_snapshot_id": _SNAPSHOT,
        "new_snapshot_id": None,
        "entries": [
            {"path": "/workspace/a", "change": "added", "kind": "file", "new_size": 3},
        ],
        "truncated": False,
    },
    "Approval": _ASKED,
    "PackageSet": {
        "id": _SET,
        "language": "python",
        "requirements": ["attrs>=24"],
        "packages": [{"name": "attrs", "version": "25.1.0", "hashes": []}],
        "size_bytes": 1204224,
        "created_at": _BEGIN,
        "last_used_at": _END,
        "interpreter": "/usr/bin/python3 Python 3.11.2 x86_64 glibc-2.36",
        "index": "7d5a1f3c9b2e8046",
        "builds": False,
        "key": "c1b7" * 16,
        "requests": ["90ad" * 16],
    },
    "WarmRequest": {"requirements": ["attrs>=24"], "language": "python", "refresh": False},
    "ApprovalAnswer": {"approve": True, "who": "the operator", "comment": "go on"},
    "SessionCreateRequest": {"name": _SESSION, "vm_type": "ubuntu", "memory_mb": 2048, "vcpus": 2},
    "Session": {
        "name": _SESSION,
        "vm_id": _VM,
        "agent_id": _AGENT,
        "vm_type": "ubuntu",
        "status": "ready",
        "created_at": _BEGIN,
        "commands": 3,
    },
    "SessionCommand": {"command": "cd /workspace && pwd"},
    "SessionOutput": {
        "output": "/workspace\n",
        "exit_code": 0,
        "execution_id": _EXECUTION,
        "vm_id": _VM,
        "outcome": "success",
    },
    "SessionSnapshotRequest": {"name": "good"},
    "SessionSnapshot": {"snapshot_id": _SNAPSHOT, "name": "good", "created_at": _END},
    "SessionRollback": {"snapshot_id": _SNAPSHOT},
}

_FILE: Json = {
    "name": "a.txt",
    "path": "/workspace/a.txt",
    "type": "file",
    "size": 3,
    "mode": "0644",
    "mtime": _BEGIN,
}
EXAMPLES |= {
    "HealthAnswer": {
        "status": "ok",
        "version": "0.1.0",
        "languages": ["python", "bash"],
        "features": ["idempotency-keys"],
        "checks": {"database": {"ok": True, "detail": "it answers"}},
    },
    "FileInfo": _FILE,
    "FileList": {"path": "/workspace", "entries": [_FILE], "truncated": False},
    "Identity": {"kind": "agent", "agent_id": _AGENT, "token_id": "token-4cf8694348dab8e8"},
    "MakeDirectoryRequest": {"path": "data/raw", "parents": True},
    "MoveFileRequest": {"source": "a.txt", "target": "data/a.txt", "overwrite": True},
    "FileChange": {"path": "/workspace/a.txt", "snapshot_before": _SNAPSHOT},
}
_IMAGE: Json = {
    "name": "debian",
    "digest": "sha256:" + "7e1c" * 16,
    "kind": "tar",
    "source": "Debian bookworm with python3, jq",
    "created_at": _END,
    "programs": {"python": {"path": "/usr/bin/python3", "version": "Python 3.11.2"}},
    "search": ["/usr/local/bin", "/usr/bin", "/bin"],
    "shell": "/bin/bash",
    "machine": "x86_64",
    "entries": 11090,
    "bytes": 236978176,
    "left_out": {"device": 8},
    "vm_types": ["debian"],
}
EXAMPLES |= {
    "Image": _IMAGE,
    "ImageBuildRequest": {
        "name": "debian",
        "debian": "bookworm",
        "packages": ["python3", "jq"],
    },
    "ImageJob": {
        "id": PARAMETERS["job_id"],
        "name": "debian",
        "kind": "build",
        "source": _IMAGE["source"],
        "state": "done",
        "started_at": _BEGIN,
        "ended_at": _END,
        "said": 14,
        "lines": ["asking its programs what they are", "keeping it"],
        "image": _IMAGE,
    },
}

# Texts and bytes, by operation: what is taken or answered.
ANSWERS: dict[str, Any] = {
    "metrics": 'mulligan_vms{state="ready"} 1.0\n',
    "read_file": "hi\n",
    "write_file": "hi\n",
    "import_image": "the bytes of node.tar",
}

_ERRORS: dict[int, VmExecutionError] = {
    400: UnsupportedLanguage("cobol", field="language", remedy="use one of: python, bash"),
    401: Unauthorized("a token is needed", field="Authorization", remedy="send one"),
    403: Forbidden("this server takes requests from this machine only", field="Host"),
    404: VmNotAvailable(_VM, field="vm_id"),
    409: SessionExists(_SESSION, field="name", remedy="use it, or choose another name"),
    410: IdempotencyKeyLost("its time has passed"),
    413: ValidationFailed("the request is over 16777216 bytes", field="body"),
    422: ValidationFailed("code: Field required", field="code"),
    429: TooManyRequests("more than 50 requests a second", retry_after_s=1),
    500: ConfigError("cannot make a VM: No space left on device", field="data_dir"),
}


def error_example(status: int) -> Json:
    """The body of an error with a status."""
    error = _ERRORS.get(status) or FileError("the file cannot be read", field="path")
    return ErrorAnswer.of(error).model_dump(mode="json")
