"""What the tools take. Their schemas are what a model reads, and so are these descriptions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_HISTORY = 50
MOST_READ = 20_000
MOST_FILE_READ = 64_000
UTF8: Literal["utf-8"] = "utf-8"
BASE64: Literal["base64"] = "base64"
NO_KERNEL = "none"


class Input(BaseModel):
    """The parameters of a tool; what is unknown to it is a mistake its model wants to hear of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


VmId = Annotated[
    str | None,
    Field(
        description="VM to use, such as one that fork made. Default: the VM of this connection.",
        max_length=128,
    ),
]
ExecutionId = Annotated[str, Field(description="Id of an execution (exec-…).", max_length=128)]


class How(Input):
    """What running code from a model's text and running code have in common."""

    timeout_seconds: int | None = Field(
        default=None,
        ge=1,
        description="Time limit of a program in seconds, times 1.5 for Bash and more for compiled "
        "languages. Default: the server's, usually 30. At the limit all it started is ended.",
    )
    working_dir: str | None = Field(
        default=None, description="Absolute path to start in. Default: /workspace."
    )
    env: dict[str, str] | None = Field(default=None, description="Environment variables to add.")
    vm_id: VmId = None


class Program(Input):
    """What is run by ``run_code``."""

    code: str = Field(
        description="The program. Usually up to 10,000 characters; put more into files."
    )
    language: str = Field(
        default="python", description='"python", "javascript", "bash" or "rust".', max_length=100
    )
    kernel: str | None = Field(
        default=None,
        max_length=64,
        description="Live interpreter to run in; its variables, functions and imports stay for the "
        'next call, and are rewound by rollback. Default: "main" for Python, none for the others. '
        f'"{NO_KERNEL}": as a program of its own. Other names are interpreters of their own '
        "(Python, Bash, JavaScript).",
    )
    stdin: str | None = Field(default=None, description="Text the program reads from its input.")


class RunCode(How, Program):
    """Parameters of ``run_code``."""


class ModelAnswer(Input):
    """What is run by ``run_answer``."""

    answer: str = Field(
        description="A model's whole answer, prose and fenced code blocks, in Markdown."
    )
    execute: bool = Field(
        default=True,
        description="Whether to run the blocks; false only lists what was found in the text.",
    )
    threshold: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Least confidence, from 0 to 1, with which a block is run. Examples of output, "
        "configuration and code that is only quoted score low.",
    )


class RunAnswer(How, ModelAnswer):
    """Parameters of ``run_answer``."""


class ReadOutput(Input):
    """Parameters of ``read_output``."""

    execution_id: ExecutionId
    stream: Literal["stdout", "stderr"] = Field(default="stdout", description="Which output.")
    offset: int = Field(default=0, ge=0, description="First character wanted, counted from 0.")
    length: int = Field(
        default=8000, ge=1, le=MOST_READ, description="Most characters that come back."
    )


class Cancel(Input):
    """Parameters of ``cancel``."""

    execution_id: ExecutionId


class TakeSnapshot(Input):
    """Parameters of ``snapshot``."""

    name: str | None = Field(default=None, max_length=1000, description="What to call it.")
    description: str | None = Field(default=None, max_length=1000, description="What it is of.")
    vm_id: VmId = None


class OfVm(Input):
    """Parameters of tools that only need a VM."""

    vm_id: VmId = None


class Rollback(Input):
    """Parameters of ``rollback``."""

    execution_id: str | None = Field(
        default=None, max_length=128, description="Go back to just before this execution."
    )
    snapshot_id: str | None = Field(
        default=None, max_length=128, description="Go to this snapshot, back or forth."
    )
    last_success: bool = Field(
        default=False, description="Go back to what the last successful execution left."
    )
    keep: bool = Field(
        default=True,
        description="Keep the present as a snapshot first, so that the rollback can be undone, and "
        "say which files it changed.",
    )
    vm_id: VmId = None


class Fork(Input):
    """Parameters of ``fork``."""

    count: int = Field(default=1, ge=1, le=32, description="How many VMs to make.")
    snapshot_id: str | None = Field(
        default=None, max_length=128, description="Go on from this snapshot. Default: the present."
    )
    execution_id: str | None = Field(
        default=None, max_length=128, description="Go on from just before this execution."
    )
    vm_id: VmId = None


class Diff(Input):
    """Parameters of ``diff``."""

    old: str | None = Field(
        default=None,
        max_length=128,
        description="Snapshot to compare from. Default: the state the last execution started from.",
    )
    new: str | None = Field(
        default=None, max_length=128, description="Snapshot to compare to. Default: the present."
    )
    vm_id: VmId = None


class History(Input):
    """Parameters of ``history``."""

    limit: int = Field(
        default=10, ge=1, le=MOST_HISTORY, description="Most executions that come back."
    )
    offset: int = Field(default=0, ge=0, description="How many of the newest to pass over.")
    failures_only: bool = Field(default=False, description="Only what failed.")
    search: str | None = Field(
        default=None, max_length=1000, description="Only those whose code or output has this text."
    )
    language: str | None = Field(default=None, max_length=100, description="Only this language.")
    vm_id: VmId = None


Path = Annotated[
    str,
    Field(description="Absolute, or relative to /workspace.", max_length=4096),
]
Encoding = Annotated[
    Literal["utf-8", "base64"],
    Field(description='"utf-8" for text, "base64" for any bytes.'),
]


class ReadFile(Input):
    """Parameters of ``read_file``."""

    path: Path
    offset: int = Field(default=0, ge=0, description="First byte wanted, counted from 0.")
    length: int = Field(
        default=16_000, ge=1, le=MOST_FILE_READ, description="Most bytes that come back."
    )
    encoding: Encoding = UTF8
    vm_id: VmId = None


class WriteFile(Input):
    """Parameters of ``write_file``."""

    path: Path
    content: str = Field(description="All that is to be in the file.")
    encoding: Encoding = UTF8
    parents: bool = Field(default=True, description="Make the directories above it.")
    mode: str | None = Field(
        default=None,
        max_length=10,
        description='Permissions such as "0755". Default: those it has, else 0644.',
    )
    vm_id: VmId = None


class ListFiles(Input):
    """Parameters of ``list_files``."""

    path: Annotated[str, Field(description="A directory, as in read_file.", max_length=4096)] = "."
    limit: int = Field(default=200, ge=1, le=1000, description="Most names that come back.")
    vm_id: VmId = None


class NoInput(Input):
    """Parameters of tools that need none."""


class RemoveVm(Input):
    """Parameters of ``remove_vm``."""

    vm_id: str = Field(description="The VM to remove, for good.", max_length=128)
