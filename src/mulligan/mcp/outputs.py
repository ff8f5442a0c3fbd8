"""What the tools give back as data, beside the text for a model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Output(BaseModel):
    """Structured content of a tool's answer."""

    model_config = ConfigDict(frozen=True)


class Stream(Output):
    """An output of a program: its beginning and end, or all of it."""

    text: str = Field(description="The output, or its beginning and end with a line in between.")
    length: int = Field(description="Characters of the whole output as read_output gives it.")
    next_offset: int | None = Field(
        default=None, description="Where read_output goes on, null if nothing was left out."
    )


class Ran(Output):
    """What came of an execution."""

    execution_id: str
    vm_id: str
    language: str
    outcome: str = Field(
        description="success, failed, timeout, cancelled, or another word for what happened."
    )
    exit_code: int = Field(description="The program's; 124 at the time limit, 128 + n: signal n.")
    duration_ms: int
    stdout: Stream
    stderr: Stream
    result: str | None = Field(
        default=None, description="Value of the last expression, in a live Python interpreter."
    )
    error: str | None = None
    kernel: str | None = Field(default=None, description="The live interpreter it ran in.")
    images: int = Field(default=0, description="Pictures that came back as image content.")
    output_dropped: bool = Field(
        default=False, description="Whether it wrote more than the server keeps."
    )
    background_processes: int = 0
    snapshot_before: str | None = Field(
        default=None, description="State it started from; null if it cannot be gone back to."
    )
    rolled_back_to: str | None = Field(
        default=None, description="Where the server took the VM back to because it failed."
    )
    notes: list[str] = Field(default_factory=list)


class Block(Output):
    """A block of code found in an answer."""

    number: int
    language: str
    confidence: float
    start: int = Field(description="Where it is in the answer, in characters.")
    end: int
    state: str = Field(description="ran, failed, refused, below threshold, or not run.")
    execution: Ran | None = None
    error: str | None = None


class Answered(Output):
    """The blocks of an answer, in their order."""

    blocks: list[Block]


class OutputPart(Output):
    """A part of a stored output."""

    execution_id: str
    stream: str
    offset: int
    text: str
    length: int = Field(description="Characters of the whole output.")
    next_offset: int | None = Field(description="Where to read on; null at the end.")


class Execution(Output):
    """An execution in short."""

    execution_id: str
    state: str
    outcome: str | None = None


class Kernel(Output):
    """What becomes of a live interpreter's variables."""

    name: str
    language: str
    memory: str = Field(description="kept, lost or not kept.")
    notes: list[str] = Field(default_factory=list)


class SnapshotTaken(Output):
    """A state that can be gone back to."""

    snapshot_id: str
    vm_id: str
    name: str | None = None
    description: str | None = None
    kind: str = Field(description="manual, restore_point, execution or pre_rollback.")
    created_at: str
    execution_id: str | None = None
    kernels: list[Kernel] = Field(default_factory=list)


class Snapshots(Output):
    """Snapshots of a VM, newest first."""

    vm_id: str
    snapshots: list[SnapshotTaken]
    left_out: int = Field(description="Older ones that are not in the list.")


class Past(Output):
    """An execution of the history."""

    execution_id: str
    language: str
    kernel: str | None = None
    outcome: str
    exit_code: int
    executed_at: str
    duration_ms: int
    code: str = Field(description="Its beginning.")
    output: str = Field(description="The end of what it printed.")
    error: str | None = None
    snapshot_before: str | None = None


class HistoryPage(Output):
    """Executions of a VM, newest first."""

    vm_id: str
    executions: list[Past]
    total: int = Field(description="All that match.")
    next_offset: int | None = Field(description="Offset of the next page; null at the end.")


class Change(Output):
    """A path that differs."""

    path: str
    change: str = Field(description="added, changed or removed.")
    kind: str
    old_size: int | None = None
    new_size: int | None = None
    text_diff: str | None = Field(default=None, description="Unified diff of a text file.")


class Changes(Output):
    """What differs between two states of a VM's files."""

    vm_id: str
    old_snapshot_id: str | None
    new_snapshot_id: str | None
    changes: list[Change]
    truncated: bool = Field(description="Whether there are more.")


class RolledBack(Output):
    """What a rollback did."""

    vm_id: str
    restored_snapshot_id: str
    kept_snapshot_id: str | None = Field(
        description="The state before the rollback; a rollback to it undoes this one."
    )
    undone_executions: list[str] = Field(description="Their effects are gone; newest first.")
    cancelled_executions: list[str]
    kernels: list[Kernel]
    file_changes: list[Change] = Field(
        description="What the rollback did to files: added means it brought one back."
    )


class VmInfo(Output):
    """A VM."""

    vm_id: str
    name: str
    status: str
    created_at: str
    current: bool = Field(description="Whether it is the one used where no vm_id is given.")


class Forked(Output):
    """VMs that go on from a state."""

    source_vm_id: str
    snapshot_id: str
    vms: list[VmInfo]
    notes: list[str]


class Vms(Output):
    """The VMs of this agent, oldest first."""

    agent_id: str
    vms: list[VmInfo]


class Removed(Output):
    """A VM that is gone."""

    vm_id: str


class FilePart(Output):
    """A part of a file."""

    vm_id: str
    path: str
    offset: int
    bytes: int = Field(description="How many this part has.")
    encoding: str = Field(description="utf-8, base64, or the type of a picture.")
    text: str | None = Field(description="The part; null for a picture, which is image content.")
    next_offset: int | None = Field(default=None, description="Where to read on; null at the end.")


class FileWritten(Output):
    """A file that was written."""

    vm_id: str
    path: str
    size: int
    mode: str
    snapshot_before: str | None = Field(description="State that a rollback takes it back to.")


class FileEntry(Output):
    """A name in a directory."""

    name: str
    type: str = Field(description="file, directory, symlink or another kind.")
    size: int
    mode: str
    modified_at: str
    target: str | None = Field(default=None, description="What a symlink says.")


class FileListing(Output):
    """A directory, by name."""

    vm_id: str
    path: str
    entries: list[FileEntry]
    truncated: bool = Field(description="Whether there are more.")
