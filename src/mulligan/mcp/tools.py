"""The tools there are: what a model is told of them, and what does their work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from mulligan.mcp import files, inputs, outputs, running, states
from mulligan.mcp.calls import Answer

INSTRUCTIONS = """\
Mulligan runs code in a Linux VM of this connection's own: Python, JavaScript, Bash and Rust, no \
network, files in /workspace. Nothing of the user's machine can be reached from it.

Everything stays between calls: files, and the variables of the live Python interpreter that \
run_code uses by default. Everything can be taken back: rollback returns files and variables to \
what they were before an execution, so try things out. fork makes copies of the VM to try several \
ways side by side, diff shows what an execution changed, history what ran.

Code that could do harm is refused, or a person is asked first; the answer then says what to do.\
"""


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        name, title, description: what a model and its user see.
        takes, gives: its parameters and its structured content.
        run: does its work.
        reads_only: it changes nothing.
        destroys: it may take away what was there.
        repeats: doing it again with the same parameters changes nothing more.
    """

    name: str
    title: str
    description: str
    takes: type[inputs.Input]
    gives: type[outputs.Output]
    run: Callable[..., Awaitable[Answer]]
    reads_only: bool = False
    destroys: bool = False
    repeats: bool = False

    def definition(self) -> types.Tool:
        """It as the protocol tells it."""
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=schema_of(self.takes),
            output_schema=schema_of(self.gives, mode="serialization"),
            annotations=types.ToolAnnotations(
                title=self.title,
                read_only_hint=self.reads_only,
                destructive_hint=self.destroys,
                idempotent_hint=self.repeats or self.reads_only,
                open_world_hint=False,  # VMs have no network
            ),
        )


class _Untitled(GenerateJsonSchema):
    """Schemas without the titles that are made up from names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """See the base class."""
        return False


def schema_of(model: type[BaseModel], mode: Any = "validation") -> dict[str, Any]:
    """The JSON Schema of a model."""
    schema = model.model_json_schema(schema_generator=_Untitled, mode=mode)
    for each in (schema, *schema.get("$defs", {}).values()):
        each.pop("title", None)
        if each is schema:
            each.pop("description", None)  # the tool has one of its own
    return schema


RUNNING = (
    Tool(
        "run_code",
        "Run code",
        "Runs a program in the VM and returns its exit code, output, the value of the last "
        "expression (Python) and pictures (matplotlib figures). Python runs in a live interpreter "
        "whose variables stay for the next call; other languages run as programs of their own. "
        "Files stay in /workspace. Long output comes back with its middle left out; read_output "
        "has the rest. A program that fails or runs into its time limit is no error of this tool: "
        "look at the outcome. What it did can be undone with rollback.",
        inputs.RunCode,
        outputs.Ran,
        running.run_code,
        destroys=True,
    ),
    Tool(
        "run_answer",
        "Run the code in an answer",
        "Finds the fenced code blocks in a model's Markdown answer, says for each how sure it is "
        "that it is meant to be run, and runs those that are sure enough, in order, in one VM, "
        "up to the first that fails. Returns a line for each block and what each that ran printed. "
        "Use run_code for code that you write yourself.",
        inputs.RunAnswer,
        outputs.Answered,
        running.run_answer,
        destroys=True,
    ),
    Tool(
        "read_output",
        "Read on in an output",
        "Returns a part of what an execution printed, as it is kept in the history: up to 20,000 "
        "characters from an offset. For output that run_code cut, and for old executions.",
        inputs.ReadOutput,
        outputs.OutputPart,
        running.read_output,
        reads_only=True,
    ),
    Tool(
        "cancel",
        "Cancel an execution",
        "Ends an execution that still runs and everything it started, and returns when it has "
        "ended. One that has ended already stays as it is.",
        inputs.Cancel,
        outputs.Execution,
        running.cancel,
        destroys=True,
        repeats=True,
    ),
)

STATES = (
    Tool(
        "snapshot",
        "Take a snapshot",
        "Keeps the present state of the VM, files and variables of live Python and Bash "
        "interpreters, under an id that rollback and fork take. Each execution has a state before "
        "it that is kept anyway; take one to give a state a name.",
        inputs.TakeSnapshot,
        outputs.SnapshotTaken,
        states.snapshot,
    ),
    Tool(
        "snapshots",
        "List snapshots",
        "Lists the states of the VM that can be gone back to, newest first: those taken by hand "
        "and those before executions.",
        inputs.OfVm,
        outputs.Snapshots,
        states.snapshots,
        reads_only=True,
    ),
    Tool(
        "rollback",
        "Take the VM back",
        "Takes files and variables back: by default to before the last execution that changed "
        "something, and called again one further back; or to before a given execution, to a "
        "snapshot, or to what the last successful execution left. Ends what still runs. Returns "
        "which executions are undone, what became of files and variables, and the snapshot that "
        "undoes the rollback.",
        inputs.Rollback,
        outputs.RolledBack,
        states.rollback,
        destroys=True,
    ),
    Tool(
        "diff",
        "Show what changed",
        "Compares the files of two states of the VM, with text diffs: by default what the last "
        "execution changed, that is the state before it with the present.",
        inputs.Diff,
        outputs.Changes,
        states.diff,
        reads_only=True,
    ),
    Tool(
        "history",
        "Show what ran",
        "Lists executions of the VM, newest first: id, language, outcome, the beginning of the "
        "code and the end of the output. Can be searched.",
        inputs.History,
        outputs.HistoryPage,
        states.history,
        reads_only=True,
    ),
)

FILES = (
    Tool(
        "read_file",
        "Read a file",
        "Returns a text file of the VM, up to 64,000 bytes at once from an offset, or any file as "
        "base64. Pictures (PNG, JPEG, GIF, WebP up to 1.5 MiB) come back as image content.",
        inputs.ReadFile,
        outputs.FilePart,
        files.read_file,
        reads_only=True,
    ),
    Tool(
        "write_file",
        "Write a file",
        "Writes a file of the VM whole, in one step, in place of what was there. Returns the "
        "snapshot that undoes it. For programs over 10,000 characters, and for data.",
        inputs.WriteFile,
        outputs.FileWritten,
        files.write_file,
        destroys=True,
        repeats=True,
    ),
    Tool(
        "list_files",
        "List files",
        "Lists what is in a directory of the VM, by name: type, size, permissions.",
        inputs.ListFiles,
        outputs.FileListing,
        files.list_files,
        reads_only=True,
    ),
)

VMS = (
    Tool(
        "fork",
        "Fork the VM",
        "Makes up to 32 VMs that go on from the present, from a snapshot or from before an "
        "execution, in milliseconds, to try several ways side by side. They have the files; live "
        "interpreters start anew in them. Name one with vm_id in the other tools.",
        inputs.Fork,
        outputs.Forked,
        states.fork,
    ),
    Tool(
        "vms",
        "List VMs",
        "Lists the VMs of this agent, forks among them, and says which is used by default.",
        inputs.NoInput,
        outputs.Vms,
        states.vms,
        reads_only=True,
    ),
    Tool(
        "remove_vm",
        "Remove a VM",
        "Stops a VM and removes its files, snapshots and history for good, such as forks that are "
        "not needed any more. This cannot be undone.",
        inputs.RemoveVm,
        outputs.Removed,
        states.remove_vm,
        destroys=True,
    ),
)

TOOLS = {tool.name: tool for tool in (*RUNNING, *FILES, *STATES, *VMS)}
