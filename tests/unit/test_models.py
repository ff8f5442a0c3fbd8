"""The wire format, against JSON written by hand as serde would write it."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from mulligan import models

TIME = "2025-01-02T03:04:05.123456Z"
HISTORY = """{"enabled": false, "snapshot_on_execution": true, "snapshot_on_failure": false,
    "auto_rollback_on_failure": true, "max_history_entries": 18446744073709551615,
    "persist_history": false, "integration_mode": "direct"}"""
CONFIG = f"""{{"enabled": true, "api_base_url": "https://vm.example:1", "vm_pool_size": 4294967295,
    "default_vm_type": "jammy", "execution_timeout_ms": 1, "allowed_languages": ["bash"],
    "auto_provision": false, "code_validation": false, "max_code_length": 0,
    "history": {HISTORY}}}"""
BLOCK = """{"language": "python", "code": "print('é')\\n", "execution_confidence": 0.25,
    "start_pos": 3, "end_pos": 40, "metadata": {"a": [1, null, "x"]}}"""
RESPONSE = f"""{{"execution_id": "ex-1", "vm_id": "vm-1", "exit_code": -2147483648,
    "stdout": "o\\n", "stderr": "", "duration_ms": 12, "started_at": "{TIME}",
    "completed_at": "2025-01-02T03:04:06Z", "error": "Execution timeout after 5ms",
    "outcome": "timeout", "truncated": true, "stdout_bytes": 2, "stderr_bytes": 3, "cpu_ms": 4,
    "max_rss_kb": 5, "background_processes": 6, "queue_ms": 7, "kernel": "main", "result": "42",
    "results": [{{"mime_type": "image/png", "data": "aGk="}}], "snapshot_before": "s-1",
    "snapshot_after": "s-2", "rolled_back_to": "s-1", "change_bytes": 8, "notes": ["n"],
    "packages": ["numpy==2.0"], "approval": "approval-1",
    "verdicts": [{{"hook": "h", "decision": "allow",
    "reason": "r", "duration_ms": 0.5, "stage": "pre_tool"}}]}}"""
CAPABILITIES = """{"own_kernel": true, "network": ["none"], "memory": "kernels",
    "memory_across_fork": true, "memory_across_restart": true, "boot_cost": "seconds",
    "snapshot_cost": "milliseconds"}"""
WENT_BACK = ("kernels", "cancelled_executions", "undone_executions")
INSTANCE = f"""{{"id": "vm-1", "name": "agent-a-vm", "vm_type": "focal-optimized",
    "status": "ready", "ip_address": "10.0.0.2", "created_at": "{TIME}",
    "last_activity": "{TIME}", "agent_id": "a", "driver": "bubblewrap", "disk_mb": 1,
    "image": "sha256:0a",
    "network": "allowlist", "allow": ["example.org"], "disk_bytes": 2,
    "kept_bytes": 4, "own_bytes": 3, "memory_bytes": 1,
    "limits": {{"vcpus": {{"value": 1.5, "held_by": "none", "reason": "r"}}}},
    "capabilities": {CAPABILITIES}}}"""
ERROR = """{"error": {"ValidationFailed": "no"}, "message": "m", "field": "f", "remedy": "r",
    "request_id": "q"}"""
CONNECTION = f"""{{"host": "example.org", "port": 443, "via": "https", "verdict": "failed",
    "reason": "r", "address": "192.0.2.1", "bytes_up": 1, "bytes_down": 2, "started_at": "{TIME}",
    "duration_ms": 3, "secrets": ["KEY"], "certain": false, "connections": 4}}"""
ENTRY = f"""{{"id": "h-1", "vm_id": "vm-1", "agent_id": "a", "command": "ls", "language": "bash",
    "snapshot_id": "s-1", "success": true, "exit_code": 2147483647, "stdout": "", "stderr": "e",
    "executed_at": "{TIME}", "duration_ms": 0, "proposed_command": "ls -l", "outcome": "failed",
    "error": "e", "kernel": "main", "verdicts": [{{"hook": "h", "decision": "allow",
    "reason": "r", "duration_ms": 0.5, "stage": "pre_tool"}}], "approval": "a-1",
    "stdin_sha256": "ab",
    "truncated": true, "stdout_bytes": 1, "stderr_bytes": 2, "completed_at": "{TIME}",
    "cpu_ms": 3, "max_rss_kb": 4, "snapshot_before": "s-0", "snapshot_after": "s-1",
    "change_bytes": 5, "packages": ["numpy==2.0"], "network": [{CONNECTION}]}}"""
IMAGE = f"""{{"name": "n", "digest": "sha256:0a", "kind": "tar", "source": "s",
    "created_at": "{TIME}", "programs": {{"bash": {{"path": "/bin/bash", "version": "5"}}}},
    "search": ["/bin"], "env": {{"A": "b"}}, "shell": "/bin/bash", "machine": "x86_64",
    "entries": 1, "bytes": 2, "left_out": {{"device": 3}}, "vms": ["v"], "vm_types": ["t"]}}"""
KERNEL = '{"name": "main", "language": "python", "memory": "kept", "notes": ["threads"]}'
DIFF = """{"path": "/a", "change": "changed", "kind": "file", "old_size": 1, "new_size": 2,
    "old_mode": "0644", "new_mode": "0600", "text_diff": "-a"}"""
FILE = f"""{{"name": "f", "path": "/w/f", "type": "symlink", "size": 1, "mode": "0644",
    "mtime": "{TIME}", "target": "t", "escaped": true, "snapshot_before": "s"}}"""

# Every struct with every field, none of them at its default.
FILLED: dict[type[BaseModel], str] = {
    models.HistoryConfig: HISTORY,
    models.VmExecutionConfig: CONFIG,
    models.CodeBlock: BLOCK,
    models.VmExecuteRequest: """{"agent_id": "a", "language": "python", "code": "1",
        "vm_id": "vm-1", "requirements": ["numpy"], "timeout_seconds": 5, "working_dir": "/tmp",
        "metadata": {"k": 1.5}, "stdin": "in", "env": {"A": "b"}, "kernel": "main",
        "approval": "approval-1", "secrets": {"KEY": "value",
        "NAMED": {"value_from": "offer", "hosts": ["api.example"]}},
        "history": {"snapshot_on_execution": true, "snapshot_on_failure": false,
        "auto_rollback_on_failure": true}}""",
    models.VmExecuteResponse: RESPONSE,
    models.ParseExecuteRequest: """{"agent_id": "a", "llm_response": "```", "auto_execute": true,
        "auto_execute_threshold": 0.5, "vm_config": {"vm_pool_size": 2}}""",
    models.ParseExecuteResponse: f"""{{"code_blocks": [{BLOCK}], "execution_results": [{RESPONSE}],
        "errors": ["no"]}}""",
    models.VmInstance: INSTANCE,
    models.VmCapabilities: CAPABILITIES,
    models.VmLimit: '{"value": 0.5, "held_by": "rlimit", "reason": "r"}',
    models.VmCreateRequest: """{"vm_type": "jammy", "vm_name": "agent-a-vm", "agent_id": "a",
        "network": "allowlist", "allow": ["example.org"], "disk_mb": 5,
        "memory_mb": 6, "vcpus": 0.5, "max_processes": 7}""",
    models.VmPoolResponse: f"""{{"agent_id": "a", "available_vms": [{INSTANCE}],
        "in_use_vms": [], "pool_config": {CONFIG}, "spare_vms": 1, "shared_vms": 2}}""",
    models.ExecutionIntent: """{"confidence": 0.75, "trigger_keywords": ["run"],
        "context_clues": ["then"], "suggested_action": "execute"}""",
    models.LanguageConfig: """{"name": "python", "extension": "py", "execute_command": "python3",
        "common_packages": ["numpy"], "restrictions": ["os"], "timeout_multiplier": 1.5}""",
    models.CommandHistoryEntry: ENTRY,
    models.HistoryQueryRequest: f"""{{"vm_id": "vm-1", "agent_id": "a", "limit": 1,
        "failures_only": true, "start_date": "{TIME}", "end_date": "{TIME}",
        "search": "x", "language": "bash", "kernel": "main", "offset": 3}}""",
    models.HistoryQueryResponse: f'{{"vm_id": "vm-1", "entries": [{ENTRY}], "total": 9}}',
    models.RollbackRequest: """{"vm_id": "vm-1", "snapshot_id": "s-1",
        "create_pre_rollback_snapshot": false}""",
    models.RollbackResponse: f"""{{"vm_id": "vm-1", "restored_snapshot_id": "s-1",
        "pre_rollback_snapshot_id": "s-2", "rolled_back_at": "{TIME}", "success": false,
        "error": "no", "kernels": [{KERNEL}], "cancelled_executions": ["e-1"],
        "undone_executions": ["e"]}}""",
    models.DisplayData: '{"mime_type": "text/html", "data": "<b>"}',
    models.Verdict: '{"hook": "h", "decision": "block", "reason": "r", "duration_ms": 0.5, '
    '"stage": "post_tool"}',
    models.HookDescription: '{"name": "h", "observer": true, "stages": ["pre_tool"], '
    '"timeout_ms": 5000}',
    models.Approval: '{"id": "a", "state": "used", "digest": "d", "prompt": "p", "code": "c", '
    '"language": "bash", "vm_id": "v", "agent_id": "g", "vm_state": "s", "stdin": "i", '
    '"env_names": ["E"], "working_dir": "/w", "kernel": "k", '
    '"created_at": "2025-01-02T03:04:05Z", "expires_at": "2025-01-02T03:04:05Z", '
    '"answered_at": "2025-01-02T03:04:05Z", "answered_by": "who", "comment": "m", '
    '"used_at": "2025-01-02T03:04:05Z", "execution_id": "e"}',
    models.KernelState: KERNEL,
    models.RollbackTo: """{"snapshot_id": "s", "execution_id": "e", "last_success": true,
        "create_pre_rollback_snapshot": true}""",
    models.SnapshotCreateRequest: '{"name": "n", "description": "d"}',
    models.Snapshot: f"""{{"id": "s-1", "vm_id": "vm-1", "agent_id": "a", "name": "n",
        "description": "d", "kind": "execution", "created_at": "{TIME}", "execution_id": "e-1",
        "size_bytes": 7, "own_bytes": 6, "memory_bytes": 5, "kernels": [{KERNEL}],
        "whole_memory": true}}""",
    models.ForkRequest: '{"count": 2, "snapshot_id": "s", "execution_id": "e"}',
    models.ForkResponse: f"""{{"vm_id": "vm-1", "snapshot_id": "s", "vms": [{INSTANCE}],
        "notes": ["n"]}}""",
    models.ApprovalAnswer: '{"approve": true, "who": "w", "comment": "c"}',
    models.AnswerOptions: """{"vm_id": "v", "vm_type": "t", "timeout_seconds": 5,
        "working_dir": "/w", "env": {"A": "b"}, "kernel": "k", "stop_on_failure": false,
        "secrets": {"KEY": "value"},
        "history": {"snapshot_on_execution": true, "snapshot_on_failure": false,
        "auto_rollback_on_failure": true}}""",
    models.ExecutionHistory: """{"snapshot_on_execution": true, "snapshot_on_failure": false,
        "auto_rollback_on_failure": true}""",
    models.ErrorAnswer: ERROR,
    models.ExecutionEvent: f"""{{"id": 3, "event": "result", "execution_id": "e", "vm_id": "v",
        "text": "t", "progress": "p", "dropped_bytes": 4, "queue_ms": 5, "ahead": 6,
        "result": {RESPONSE}, "error": {ERROR}}}""",
    models.ExecutionStatus: f"""{{"execution_id": "e", "agent_id": "a", "vm_id": "v",
        "language": "bash", "state": "ended", "started_at": "{TIME}", "completed_at": "{TIME}",
        "last_event": 3, "result": {RESPONSE}, "error": {ERROR}}}""",
    models.PackageSet: f"""{{"id": "0f", "language": "python", "requirements": ["numpy"],
        "packages": [{{"name": "numpy", "version": "2.0", "hashes": ["sha256:00"]}}],
        "size_bytes": 1, "created_at": "{TIME}", "last_used_at": "{TIME}",
        "interpreter": "python 3.11", "index": "ab", "builds": true, "key": "k",
        "requests": ["r"]}}""",
    models.Identity: '{"kind": "agent", "agent_id": "a", "token_id": "t"}',
    models.ImageProgram: '{"path": "/bin/bash", "version": "5"}',
    models.Image: IMAGE,
    models.ImageBuildRequest: '{"name": "n", "debian": "trixie", "packages": ["jq"]}',
    models.ImageJob: f"""{{"id": "i", "name": "n", "kind": "build", "source": "s", "state": "done",
        "started_at": "{TIME}", "ended_at": "{TIME}", "said": 1, "lines": ["l"],
        "image": {IMAGE}, "error": {ERROR}}}""",
    models.WarmRequest: '{"requirements": ["numpy"], "language": "bash", "refresh": true}',
    models.BatchRequest: '{"requests": [{"agent_id": "a"}, 5]}',
    models.BatchResult: f'{{"result": {RESPONSE}, "error": {ERROR}}}',
    models.BatchResponse: f'{{"results": [{{"result": null, "error": {ERROR}}}]}}',
    models.DiffEntry: DIFF,
    models.NetworkConnection: CONNECTION,
    models.SecretReference: '{"value_from": "offer", "hosts": ["api.example"]}',
    models.DiffResponse: f"""{{"vm_id": "vm-1", "old_snapshot_id": "s-1", "new_snapshot_id": "s-2",
        "entries": [{DIFF}], "truncated": true}}""",
    models.SessionCreateRequest: """{"name": "n", "vm_type": "t", "memory_mb": 3, "vcpus": 2,
        "agent_id": "a"}""",
    models.Session: f"""{{"name": "n", "vm_id": "v", "agent_id": "a", "vm_type": "t",
        "status": "ready", "created_at": "{TIME}", "last_activity": "{TIME}", "commands": 4,
        "memory_mb": 3, "vcpus": 2, "notes": ["n"]}}""",
    models.SessionCommand: '{"command": "c", "timeout_seconds": 5, "approval": "a"}',
    models.SessionOutput: """{"output": "o", "exit_code": -1, "execution_id": "e", "vm_id": "v",
        "outcome": "failed", "error": "x", "truncated": true, "duration_ms": 4}""",
    models.SessionSnapshotRequest: '{"name": "n"}',
    models.SessionSnapshot: f"""{{"snapshot_id": "s", "name": "n", "created_at": "{TIME}"}}""",
    models.SessionRollback: '{"snapshot_id": "s"}',
    models.FileInfo: FILE,
    models.FileList: f'{{"path": "/w", "entries": [{FILE}], "truncated": true}}',
    models.FileChange: '{"path": "/w", "snapshot_before": "s"}',
    models.MakeDirectoryRequest: '{"path": "/w", "parents": true, "escaped": true}',
    models.MoveFileRequest: """{"source": "a", "target": "b", "overwrite": true, "parents": true,
        "escaped": true}""",
    models.TerminalRequest: """{"cols": 1, "rows": 1000, "term": "vt100", "command": "top",
        "approval": "a"}""",
    models.TerminalStarted: '{"type": "started", "execution_id": "e", "vm_id": "v"}',
    models.TerminalExit: """{"type": "exit", "execution_id": "e", "exit_code": -1,
        "outcome": "failed", "error": "x", "duration_ms": 2, "output_bytes": 3, "notes": ["n"]}""",
}
OPTIONS: dict[type[BaseModel], list[str]] = {
    models.CodeBlock: ["metadata"],
    models.VmExecuteRequest: [
        *("vm_id", "timeout_seconds", "working_dir", "metadata", "stdin", "env", "kernel"),
        *("approval", "secrets", "history"),
    ],
    models.VmExecuteResponse: [
        *("error", "kernel", "result", "snapshot_before", "snapshot_after", "rolled_back_to"),
        "approval",
        "change_bytes",
    ],
    models.ParseExecuteRequest: ["vm_config"],
    models.VmInstance: [
        *("ip_address", "last_activity", "agent_id", "driver", "image"),
        *("network", "allow", "capabilities"),
        *("disk_mb", "disk_bytes", "kept_bytes", "own_bytes", "memory_bytes", "limits"),
    ],
    models.VmCapabilities: [],
    models.VmLimit: ["reason"],
    models.VmPoolResponse: ["spare_vms", "shared_vms"],
    models.VmCreateRequest: [
        *("network", "allow"),
        *("vm_name", "agent_id", "disk_mb", "memory_mb", "vcpus", "max_processes"),
    ],
    models.CommandHistoryEntry: [
        *("snapshot_id", "proposed_command", "error", "kernel", "approval", "stdin_sha256"),
        *("completed_at", "snapshot_before", "snapshot_after", "change_bytes"),
    ],
    models.HistoryQueryRequest: [
        *("agent_id", "limit", "start_date", "end_date", "search", "language", "kernel"),
    ],
    models.Verdict: ["reason"],
    models.NetworkConnection: ["reason", "address"],
    models.Approval: [
        "stdin",
        "working_dir",
        "kernel",
        "answered_at",
        "answered_by",
        "comment",
        "used_at",
        "execution_id",
    ],
    models.RollbackTo: ["snapshot_id", "execution_id"],
    models.SnapshotCreateRequest: ["name", "description"],
    models.Snapshot: [
        *("name", "description", "execution_id", "size_bytes", "own_bytes", "memory_bytes"),
    ],
    models.ForkRequest: ["snapshot_id", "execution_id"],
    models.ApprovalAnswer: ["comment"],
    models.ExecutionHistory: list(models.ExecutionHistory.model_fields),
    models.AnswerOptions: [
        *("vm_id", "vm_type", "timeout_seconds", "working_dir", "env", "kernel", "history"),
        *("stop_on_failure", "secrets"),
    ],
    models.ErrorAnswer: ["field", "remedy", "request_id"],
    models.ExecutionEvent: [
        *("vm_id", "text", "progress", "dropped_bytes", "queue_ms", "ahead", "result", "error"),
    ],
    models.PackageSet: ["last_used_at"],
    models.Identity: ["agent_id", "token_id"],
    models.ImageJob: ["ended_at", "image", "error"],
    models.ExecutionStatus: ["completed_at", "last_event", "result", "error"],
    models.BatchResult: ["result", "error"],
    models.DiffEntry: ["old_size", "new_size", "old_mode", "new_mode", "text_diff"],
    models.DiffResponse: ["old_snapshot_id", "new_snapshot_id"],
    models.RollbackResponse: ["pre_rollback_snapshot_id", "error"],
    models.SessionCreateRequest: ["vm_type", "memory_mb", "vcpus", "agent_id"],
    models.Session: ["last_activity", "commands", "memory_mb", "vcpus"],
    models.SessionCommand: ["timeout_seconds", "approval"],
    models.SessionOutput: ["error"],
    models.SessionSnapshotRequest: ["name"],
    models.SessionSnapshot: ["name"],
    models.FileInfo: ["target", "snapshot_before"],
    models.FileChange: ["snapshot_before"],
    models.TerminalRequest: ["command", "approval"],
    models.TerminalExit: ["error"],
}
HISTORY_DEFAULTS = {
    "enabled": True,
    "snapshot_on_execution": False,
    "snapshot_on_failure": True,
    "auto_rollback_on_failure": False,
    "max_history_entries": 100,
    "persist_history": True,
    "integration_mode": "http",
}
# What fields hold that are neither Options nor required.
DEFAULTS: dict[type[BaseModel], dict[str, object]] = {
    models.HistoryConfig: HISTORY_DEFAULTS,
    models.VmExecutionConfig: {
        "enabled": False,
        "api_base_url": "http://localhost:8080",
        "vm_pool_size": 1,
        "default_vm_type": "focal-optimized",
        "execution_timeout_ms": 30000,
        "allowed_languages": ["python", "javascript", "bash", "rust"],
        "auto_provision": True,
        "code_validation": True,
        "max_code_length": 10000,
        "history": HISTORY_DEFAULTS,
    },
    models.LanguageConfig: {
        "name": "unknown",
        "extension": "txt",
        "execute_command": "cat",
        "common_packages": [],
        "restrictions": [],
        "timeout_multiplier": 1.0,
    },
    models.VmExecuteRequest: {"requirements": []},
    models.VmExecuteResponse: {
        "packages": [],
        "outcome": "success",
        "truncated": False,
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "cpu_ms": 0,
        "max_rss_kb": 0,
        "background_processes": 0,
        "queue_ms": 0,
        "results": [],
        "notes": [],
        "verdicts": [],
    },
    models.VmCreateRequest: {"vm_type": "focal-optimized"},
    models.HistoryQueryRequest: {"failures_only": False, "offset": 0},
    models.NetworkConnection: {
        "bytes_up": 0,
        "bytes_down": 0,
        "duration_ms": 0,
        "secrets": [],
        "certain": True,
        "connections": 1,
    },
    models.CommandHistoryEntry: {
        "packages": [],
        "network": [],
        "outcome": "success",
        "verdicts": [],
        "truncated": False,
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "cpu_ms": 0,
        "max_rss_kb": 0,
    },
    models.RollbackResponse: {name: [] for name in WENT_BACK},
    models.Verdict: {"duration_ms": 0.0, "stage": "pre_tool"},
    models.Approval: {"env_names": []},
    models.PackageSet: {"builds": False, "requests": []},
    models.Image: {"search": [], "env": {}, "shell": "", "machine": ""}
    | {"left_out": {}, "vms": [], "vm_types": []},
    models.ImageBuildRequest: {"debian": "bookworm", "packages": []},
    models.ImageJob: {"said": 0, "lines": []},
    models.WarmRequest: {"language": "python", "refresh": False},
    models.KernelState: {"notes": []},
    models.RollbackTo: {"last_success": False, "create_pre_rollback_snapshot": False},
    models.Snapshot: {"kind": "manual", "kernels": [], "whole_memory": False},
    models.ForkRequest: {"count": 1},
    models.ApprovalAnswer: {"who": "somebody"},
    models.ForkResponse: {"notes": []},
    models.DiffResponse: {"truncated": False},
    models.Session: {"notes": []},
    models.SessionOutput: {"truncated": False, "duration_ms": 0},
    models.FileInfo: {"escaped": False},
    models.FileList: {"truncated": False},
    models.MakeDirectoryRequest: {"parents": False, "escaped": False},
    models.MoveFileRequest: {"overwrite": False, "parents": False, "escaped": False},
    models.TerminalRequest: {"cols": 80, "rows": 24, "term": "xterm-256color"},
    models.TerminalStarted: {"type": "started"},
    models.TerminalExit: {"type": "exit", "duration_ms": 0, "output_bytes": 0, "notes": []},
}
REQUESTS = [
    models.VmExecuteRequest,
    models.ParseExecuteRequest,
    models.VmCreateRequest,
    models.HistoryQueryRequest,
    models.RollbackRequest,
    models.RollbackTo,
    models.SnapshotCreateRequest,
    models.ForkRequest,
    models.ApprovalAnswer,
    models.AnswerOptions,
    models.SecretReference,
    models.ExecutionHistory,
    models.BatchRequest,
    models.WarmRequest,
    models.ImageBuildRequest,
    models.SessionCreateRequest,
    models.SessionCommand,
    models.SessionSnapshotRequest,
    models.SessionRollback,
    models.MakeDirectoryRequest,
    models.MoveFileRequest,
    models.TerminalRequest,
]
ANYTHING = {"metadata", "vm_config", "left_out"}
UNSIGNED_MAX = {"vm_pool_size": 2**32 - 1}

every_struct = pytest.mark.parametrize("struct", FILLED, ids=lambda struct: struct.__name__)


def strict(value: object) -> str:
    """A text in which true, 1 and 1.0 differ and the order of keys does not count."""
    return json.dumps(value, sort_keys=True)


def written(instance: BaseModel) -> dict[str, Any]:
    return json.loads(instance.model_dump_json())


def filled(struct: type[BaseModel]) -> dict[str, Any]:
    return json.loads(FILLED[struct])


def test_the_table_has_every_struct() -> None:
    public = {
        value
        for name, value in vars(models).items()
        if isinstance(value, type)
        and issubclass(value, BaseModel)
        and value.__module__.startswith("mulligan.models")
        if not name.startswith("_")
    }
    assert public == set(FILLED)


@every_struct
def test_round_trip(struct: type[BaseModel]) -> None:
    instance = struct.model_validate_json(FILLED[struct])
    assert strict(written(instance)) == strict(filled(struct))
    assert struct.model_validate(filled(struct)) == instance
    assert set(filled(struct)) == set(struct.model_fields)


@pytest.mark.parametrize(
    ("struct", "field"), [(struct, field) for struct, fields in OPTIONS.items() for field in fields]
)
def test_options_are_null_or_absent_and_written_as_null(
    struct: type[BaseModel], field: str
) -> None:
    values = filled(struct)
    with_null = struct.model_validate_json(json.dumps(values | {field: None}))
    del values[field]
    absent = struct.model_validate_json(json.dumps(values))
    assert with_null == absent
    assert getattr(absent, field) is None
    assert written(absent)[field] is None


@every_struct
def test_defaults_and_required_fields(struct: type[BaseModel]) -> None:
    """Exactly the fields without a default and without null may not be left out."""
    defaults, options = DEFAULTS.get(struct, {}), OPTIONS.get(struct, [])
    required = set(filled(struct)) - set(defaults) - set(options)
    least = {name: filled(struct)[name] for name in required}
    expected = least | defaults | dict.fromkeys(options)
    assert strict(written(struct.model_validate_json(json.dumps(least)))) == strict(expected)
    for name in required:
        with pytest.raises(ValidationError) as caught:
            struct.model_validate({key: least[key] for key in required - {name}})
        assert [error["loc"] for error in caught.value.errors()] == [(name,)]
    for name in set(filled(struct)) - set(options) - ANYTHING:
        with pytest.raises(ValidationError):
            struct.model_validate(filled(struct) | {name: None})


def test_instances_share_no_lists() -> None:
    models.VmExecutionConfig().allowed_languages.append("cobol")
    assert models.VmExecutionConfig().allowed_languages == list(models.DEFAULT_LANGUAGES)


# Where an item of a list or of an object may be of more than one form.
WRONG: dict[str, list[object]] = {
    "requests": ["x", {}],  # each is read on its own
    "results": ["x", {}, [1]],  # each of one's fields may be absent
    "env": ["x", [], {"A": 1}, {"A": None}],
    "error": ["x", 1, {"Timeout": 1.5}],
}


def wrong(field: str, right: object) -> list[object]:
    """Values of another type than the right one."""
    match right:
        case bool():
            return [0, 1, "true", []]
        case int() if field in ("exit_code", "count"):
            return ["5", True, 5.5, 5.0, 2**31, -(2**31) - 1]
        case int():
            return ["5", True, 5.5, 5.0, -1, UNSIGNED_MAX.get(field, 2**64 - 1) + 1]
        case float():
            return ["0.5", True, [0.5]]
        case str() if re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", right):
            return [right[:-1], "2025-01-02", "yesterday", "", True, {}]
        case str():
            return [1, 1.5, True, ["x"]]
        case [str(), *_]:
            return ["x", {}, [1], [None]]
        case list() | dict() if field in WRONG:
            return WRONG[field]
        case list():
            return ["x", {}, [1], [{}]]
    return ["x", 1, {"enabled": 1}]


@pytest.mark.parametrize(
    ("struct", "field", "value"),
    [
        pytest.param(struct, field, value, id=f"{struct.__name__}.{field}={value!r}")
        for struct in FILLED
        for field, right in filled(struct).items()
        if field not in ANYTHING
        for value in wrong(field, right)
    ],
)
def test_wrong_types_are_refused(struct: type[BaseModel], field: str, value: object) -> None:
    values = filled(struct) | {field: value}
    for read in (struct.model_validate, lambda v: struct.model_validate_json(json.dumps(v))):
        with pytest.raises(ValidationError) as caught:
            read(values)
        assert {error["loc"][0] for error in caught.value.errors()} == {field}


@pytest.mark.parametrize(
    ("struct", "field", "value"),
    [
        (models.VmExecuteResponse, "exit_code", 2**31 - 1),
        (models.VmExecuteResponse, "exit_code", -(2**31)),
        (models.VmExecuteResponse, "duration_ms", 2**64 - 1),
        (models.VmExecuteResponse, "duration_ms", 0),
        (models.VmExecutionConfig, "vm_pool_size", 2**32 - 1),
        (models.ExecutionIntent, "confidence", 1),
        (models.ExecutionIntent, "confidence", -0.5),
        (models.CodeBlock, "metadata", [True, 1, "x", None]),
        (models.ParseExecuteRequest, "vm_config", "anything"),
    ],
)
def test_the_edges_are_taken(struct: type[BaseModel], field: str, value: object) -> None:
    instance = struct.model_validate_json(json.dumps(filled(struct) | {field: value}))
    assert getattr(instance, field) == value


@pytest.mark.parametrize(
    ("said", "held", "back"),
    [
        ("2025-01-02T03:04:05Z", (3, 5, 0), "2025-01-02T03:04:05Z"),
        (TIME, (3, 5, 123456), TIME),
        ("2025-01-02T03:04:05.123456789Z", (3, 5, 123456), TIME),
        ("2025-01-02T03:04:05.999999999Z", (3, 5, 999999), "2025-01-02T03:04:05.999999Z"),
        ("2025-01-02T03:04:05.5Z", (3, 5, 500000), "2025-01-02T03:04:05.500000Z"),
        ("2025-01-02T03:04:05+00:00", (3, 5, 0), "2025-01-02T03:04:05Z"),
        ("2025-01-02T03:04:05.123456789+02:00", (1, 5, 123456), "2025-01-02T01:04:05.123456Z"),
        ("2025-01-01T22:04:05-05:00", (3, 5, 0), "2025-01-02T03:04:05Z"),
    ],
)
def test_times_are_held_and_written_in_utc(
    said: str, held: tuple[int, int, int], back: str
) -> None:
    adapter = TypeAdapter(models.UtcTime)
    hour, second, micros = held
    expected = datetime(2025, 1, 2, hour, 4, second, micros, tzinfo=UTC)
    for time in (adapter.validate_json(json.dumps(said)), adapter.validate_python(said)):
        assert (time, time.tzinfo) == (expected, UTC)
        assert json.loads(adapter.dump_json(time)) == back


def test_now_is_in_utc() -> None:
    assert models.utc_now().tzinfo is UTC
    assert abs((datetime.now().astimezone() - models.utc_now()).total_seconds()) < 60


@every_struct
def test_only_requests_refuse_unknown_fields(struct: type[BaseModel]) -> None:
    values = filled(struct) | {"surprise": 1}
    if struct in REQUESTS:
        with pytest.raises(ValidationError) as caught:
            struct.model_validate(values)
        assert [error["loc"] for error in caught.value.errors()] == [("surprise",)]
    else:
        assert written(struct.model_validate(values)) == filled(struct)


def test_unknown_fields_of_nested_structs_are_passed_over() -> None:
    values = filled(models.ParseExecuteResponse)
    values["code_blocks"][0]["surprise"] = values["execution_results"][0]["surprise"] = 1
    read = models.ParseExecuteResponse.model_validate(values)
    assert written(read) == filled(models.ParseExecuteResponse)


@every_struct
def test_frozen(struct: type[BaseModel]) -> None:
    instance = struct.model_validate(filled(struct))
    for name in struct.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(instance, name, getattr(instance, name))


@pytest.mark.parametrize(
    "time",
    ["0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00", "1735787045", "2025-01-02T03:04Z"],
)
def test_times_that_are_none(time: str) -> None:
    with pytest.raises(ValidationError):
        models.HistoryQueryRequest.model_validate({"vm_id": "v", "start_date": time})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_json_has_not(number: str) -> None:
    text = f'{{"name": "x", "timeout_multiplier": {number}}}'
    with pytest.raises(ValidationError):
        models.LanguageConfig.model_validate_json(text)
