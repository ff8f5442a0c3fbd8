"""What hooks are told and what they decide.

Names and fields are the wire format's; *Additions* are marked. Decisions and contexts stay within
a process; a Verdict travels. Everything is frozen, and a hook gets a copy of its own: what it does
to it reaches nobody.
"""

from __future__ import annotations

from pydantic import Field, StrictBool, StrictStr

from mulligan.models.base import I32, U64, Struct
from mulligan.models.execution import DisplayData


class Allow(Struct):
    """It may go on as it is."""

    reason: StrictStr | None = None  # Addition


class Block(Struct):
    """It may not: before an execution nothing runs, after one its text does not go back."""

    reason: StrictStr


class Modify(Struct):
    """Go on with another text: of the code before an execution, of a prompt or a model's answer."""

    transformed_code: StrictStr
    reason: StrictStr | None = None  # Addition


class AskUser(Struct):
    """A person decides."""

    prompt: StrictStr


class ExecutionOutput(Struct):
    """Every text of an execution that goes back to whoever asked for it."""

    stdout: StrictStr = ""
    stderr: StrictStr = ""
    error: StrictStr | None = None
    result: StrictStr | None = None
    results: list[DisplayData] = Field(default_factory=list)


class ModifyOutput(Struct):
    """Addition. After an execution: other texts go back."""

    output: ExecutionOutput
    reason: StrictStr | None = None


class Rollback(Struct):
    """Addition. After an execution: the VM goes back to before it."""

    reason: StrictStr


HookDecision = Allow | Block | Modify | ModifyOutput | AskUser | Rollback


class PreToolContext(Struct):
    """An execution that is asked for. Observers are told what the gates decided, too."""

    code: StrictStr
    language: StrictStr
    agent_id: StrictStr
    vm_id: StrictStr
    metadata: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    # Additions
    execution_id: StrictStr | None = None
    stdin: StrictStr | None = None
    env: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    working_dir: StrictStr | None = None
    kernel: StrictStr | None = None
    requirements: list[StrictStr] = Field(default_factory=list)
    decision: HookDecision | None = None


class PostToolContext(ExecutionOutput):
    """An execution that has ended, and the texts of it that would go back."""

    original_code: StrictStr
    exit_code: I32
    duration_ms: U64
    agent_id: StrictStr
    vm_id: StrictStr
    # Additions
    language: StrictStr = "unknown"
    execution_id: StrictStr | None = None
    outcome: StrictStr = "success"
    truncated: StrictBool = False  # stdout or stderr was cut off at its end
    metadata: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    working_dir: StrictStr | None = None
    decision: HookDecision | None = None

    @property
    def output(self) -> str:
        """Standard output, and standard error after it."""
        return self.stdout + self.stderr

    @property
    def texts(self) -> ExecutionOutput:
        """The texts alone."""
        return ExecutionOutput(**{name: getattr(self, name) for name in OUTPUT_FIELDS})


OUTPUT_FIELDS = tuple(ExecutionOutput.model_fields)


class PreLlmContext(Struct):
    """A prompt on its way to a language model."""

    prompt: StrictStr
    agent_id: StrictStr
    conversation_history: list[StrictStr] = Field(default_factory=list)
    token_count: U64 = 0
    # Additions
    decision: HookDecision | None = None


class PostLlmContext(Struct):
    """A language model's answer on its way back."""

    prompt: StrictStr
    response: StrictStr
    agent_id: StrictStr
    token_count: U64 = 0
    model: StrictStr
    # Additions
    decision: HookDecision | None = None


class HookDescription(Struct):
    """A hook as it is shown: its name, its place in the order, its stages and its limit."""

    name: StrictStr
    observer: StrictBool
    stages: list[StrictStr]
    timeout_ms: U64
