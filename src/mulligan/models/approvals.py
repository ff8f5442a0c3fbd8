"""A person's yes or no to one execution: what is asked, and what was answered."""

from __future__ import annotations

import hashlib
import json

from pydantic import Field, StrictBool, StrictStr

from mulligan.models.base import Request, Struct, UtcTime

PENDING = "pending"
APPROVED = "approved"
DENIED = "denied"
EXPIRED = "expired"
USED = "used"
STATES = (PENDING, APPROVED, DENIED, EXPIRED, USED)


class ApprovalSubject(Struct):
    """All that decides what an execution does.

    ``vm_state`` names the state the VM would start from, such as a layer or a snapshot.
    """

    code: StrictStr
    language: StrictStr
    vm_id: StrictStr
    agent_id: StrictStr
    vm_state: StrictStr
    stdin: StrictStr | None = None
    env: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    working_dir: StrictStr | None = None
    kernel: StrictStr | None = None
    requirements: list[StrictStr] = Field(default_factory=list)

    def digest(self) -> str:
        """SHA-256, in hex, over all fields as canonical JSON: two subjects share it if equal."""
        fields = self.model_dump()
        if not self.requirements:  # as before there were any
            del fields["requirements"]
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(b"mulligan approval 1\n" + canonical.encode()).hexdigest()


class Approval(Struct):
    """A question to a person, and what became of it.

    ``state`` is "pending", "approved", "denied", "expired" (nobody answered in time, or a yes was
    not used in time: then ``answered_by`` is there) or "used". Values of environment variables are
    part of ``digest`` and are not kept.
    """

    id: StrictStr
    state: StrictStr
    digest: StrictStr
    prompt: StrictStr
    code: StrictStr
    language: StrictStr
    vm_id: StrictStr
    agent_id: StrictStr
    vm_state: StrictStr
    stdin: StrictStr | None = None
    env_names: list[StrictStr] = Field(default_factory=list)
    working_dir: StrictStr | None = None
    kernel: StrictStr | None = None
    created_at: UtcTime
    expires_at: UtcTime
    answered_at: UtcTime | None = None
    answered_by: StrictStr | None = None
    comment: StrictStr | None = None
    used_at: UtcTime | None = None
    execution_id: StrictStr | None = None


class ApprovalAnswer(Request):
    """A person's answer to a question."""

    approve: StrictBool
    who: StrictStr = "somebody"
    comment: StrictStr | None = None
