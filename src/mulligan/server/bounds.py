"""What the engine refuses in requests, as far as a schema can say it, by model and field.

It is the engine that refuses (``engine/requests/validation.py``), in words that name field and
remedy and with status 400; this is for those who read the OpenAPI document. What depends on
settings is here as the defaults have it.
"""

from __future__ import annotations

from typing import Any

from mulligan.engine.past.past import MAX_FORKS, MAX_TEXT
from mulligan.engine.requests.sessions import MOST
from mulligan.engine.requests.validation import (
    MAX_DISK_MB,
    MAX_ID_LENGTH,
    MAX_KERNEL_NAME,
    MAX_NAME_LENGTH,
)
from mulligan.engine.vms.limits import LEAST
from mulligan.engine.vms.limits import MOST as MOST_OF_A_VM
from mulligan.images.debian import MOST_PACKAGES, SUITE
from mulligan.images.store import NAME
from mulligan.languages import ALIASES, LANGUAGES
from mulligan.network.injection import MOST_HOSTS

Json = dict[str, Any]
_AGENT: Json = {"pattern": r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]*$", "maxLength": MAX_ID_LENGTH}
_CODE: Json = {"pattern": r"\S", "minLength": 1, "maxLength": 10_000}
_SECONDS: Json = {"minimum": 1, "maximum": 3600}
_TEXT: Json = {"maxLength": MAX_TEXT}

BOUNDS: dict[str, dict[str, Json]] = {
    "VmExecuteRequest": {
        "agent_id": _AGENT,
        "language": {"enum": sorted({*LANGUAGES, *ALIASES})},
        "code": _CODE,
        "timeout_seconds": _SECONDS,
        "working_dir": {"pattern": r"^/[^\x00]*$", "maxLength": 4095},
        "kernel": {"pattern": rf"^[A-Za-z0-9._-]{{1,{MAX_KERNEL_NAME}}}$"},
        "requirements": {"maxItems": 100},
        "env": {"propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_]*$"}},
    },
    "SecretReference": {"hosts": {"minItems": 1, "maxItems": MOST_HOSTS}},
    "WarmRequest": {
        "language": {"enum": sorted({*LANGUAGES, *ALIASES})},
        "requirements": {"minItems": 1, "maxItems": 100},
    },
    "ImageBuildRequest": {
        "name": {"pattern": f"^{NAME.pattern}$"},
        "debian": {"pattern": f"^{SUITE.pattern}$"},
        "packages": {"maxItems": MOST_PACKAGES},
    },
    "ParseExecuteRequest": {
        "agent_id": _AGENT,
        "auto_execute_threshold": {"minimum": 0, "maximum": 1},
    },
    "BatchRequest": {"requests": {"maxItems": 100}},
    "VmCreateRequest": {
        "agent_id": _AGENT,
        "vm_name": {"maxLength": MAX_NAME_LENGTH},
        "disk_mb": {"minimum": 1, "maximum": MAX_DISK_MB},
        **{name: {"minimum": LEAST[name], "maximum": MOST_OF_A_VM[name]} for name in LEAST},
    },
    "SnapshotCreateRequest": {"name": _TEXT, "description": _TEXT},
    "ForkRequest": {"count": {"minimum": 1, "maximum": MAX_FORKS}},
    "ApprovalAnswer": {"who": {"pattern": r"\S", "minLength": 1}},
    "SessionCreateRequest": {
        "name": _AGENT | {"maxLength": MAX_NAME_LENGTH},
        "agent_id": _AGENT,
        **{name: {"minimum": 1, "maximum": most} for name, most in MOST.items()},
    },
    "SessionCommand": {"command": _CODE, "timeout_seconds": _SECONDS},
    "SessionSnapshotRequest": {"name": _TEXT},
}
