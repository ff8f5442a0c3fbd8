"""``mulligan history``, ``snapshot``, ``rollback``, ``fork`` and ``diff``."""

from __future__ import annotations

import json as json_module
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from mulligan.cli.console import err, out, print_json, printable, size, within
from mulligan.cli.options import AgentOption, DataDirOption, JsonOption, ServerOption
from mulligan.cli.session import Session, with_session
from mulligan.client.backends import Backend
from mulligan.client.latest import latest
from mulligan.models import (
    CommandHistoryEntry,
    DiffEntry,
    ForkRequest,
    HistoryQueryRequest,
    KernelState,
    RollbackResponse,
    RollbackTo,
    SnapshotCreateRequest,
)

snapshots = typer.Typer(help="Keep states of a VM, list and forget them.", no_args_is_help=True)

Result = TypeVar("Result")
CODE_WIDTH = 48
VmOption = Annotated[
    str | None, typer.Option("--vm", metavar="VM", help="A VM's id. Default: the agent's first.")
]
SIGNS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}


def _on_vm(
    vm: str | None,
    agent: str | None,
    server: str | None,
    data_dir: Path | None,
    work: Callable[[Backend, str], Awaitable[Result]],
) -> Result:
    async def on_vm(session: Session) -> Result:
        return await work(session.backend, await session.vm(vm, agent))

    return with_session(server, data_dir, on_vm)


def history(
    vm: VmOption = None,
    agent: AgentOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    failures: Annotated[bool, typer.Option("--failures", help="Only what failed.")] = False,
    search: Annotated[
        str | None, typer.Option("--search", help="Only with these words in code or output.")
    ] = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show what was executed in a VM, newest first."""

    def request(chosen: str) -> HistoryQueryRequest:
        return HistoryQueryRequest(vm_id=chosen, limit=limit, failures_only=failures, search=search)

    found = _on_vm(
        vm, agent, server, data_dir, lambda backend, chosen: backend.history(request(chosen))
    )
    if json:
        print_json(found)
        return
    if not found.entries:
        out.print("no executions")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("EXECUTION", "WHEN", "LANGUAGE", "OUTCOME", "TIME", "CODE"):
        table.add_column(heading, no_wrap=True)
    for entry in found.entries:
        table.add_row(*_row(entry))
    out.print(table)
    if found.total > len(found.entries):
        out.print(f"[dim]{len(found.entries)} of {found.total}; more with --limit[/dim]")


def _row(entry: CommandHistoryEntry) -> tuple[str, ...]:
    outcome = entry.outcome if entry.success else f"{entry.outcome} ({entry.exit_code})"
    if entry.outcome in ("running", "lost"):
        outcome = entry.outcome
    colour = "green" if entry.success else "red"
    return (
        within(entry.id),
        _local(entry.executed_at),
        within(entry.language),
        f"[{colour}]{within(outcome)}[/{colour}]",
        f"{entry.duration_ms} ms",
        within(_code(entry)),
    )


def _code(entry: CommandHistoryEntry) -> str:
    lines = entry.command.strip().splitlines()
    code = lines[0] if lines else ""
    return code[: CODE_WIDTH - 1] + "…" if len(lines) > 1 or len(code) > CODE_WIDTH else code


@snapshots.command("create")
def create(
    name: Annotated[str | None, typer.Argument(help="What to call it.")] = None,
    description: Annotated[
        str | None, typer.Option("--description", help="What it is for.")
    ] = None,
    vm: VmOption = None,
    agent: AgentOption = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Keep the state a VM is in and print the snapshot's id."""
    request = SnapshotCreateRequest(name=name, description=description)
    made = _on_vm(
        vm, agent, server, data_dir, lambda backend, chosen: backend.snapshot(chosen, request)
    )
    print_json(made) if json else out.print(within(made.id))


@snapshots.command("ls")
@snapshots.command("list", hidden=True)
def list_snapshots(
    vm: VmOption = None,
    agent: AgentOption = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List a VM's snapshots, newest first: what each holds, and what removing it would free."""
    found = _on_vm(vm, agent, server, data_dir, lambda backend, chosen: backend.snapshots(chosen))
    if json:
        dumped = [each.model_dump(mode="json") for each in found]
        out.print(json_module.dumps(dumped, indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("SNAPSHOT", "WHEN", "KIND", "SIZE", "ALONE", "MEMORY", "NAME"):
        table.add_column(heading, no_wrap=True)
    for each in found:
        kind = within(each.kind.replace("_", " "))
        whole = ["all that ran"] if each.whole_memory else []
        kernels = within(", ".join(whole or map(_kernel, each.kernels)))
        name = within(each.name or "")
        sizes = size(each.size_bytes), size(each.own_bytes)
        table.add_row(within(each.id), _local(each.created_at), kind, *sizes, kernels, name)
    out.print(table if found else "no snapshots")


@snapshots.command("rm")
@snapshots.command("delete", hidden=True)
def remove(
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="A snapshot's id.")],
    vm: VmOption = None,
    agent: AgentOption = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Forget a snapshot; what others are built on stays."""
    _on_vm(
        vm,
        agent,
        server,
        data_dir,
        lambda backend, chosen: backend.delete_snapshot(chosen, snapshot),
    )
    out.print(f"removed {within(snapshot)}")


def rollback(
    snapshot: Annotated[
        str | None,
        typer.Argument(
            metavar="[SNAPSHOT]", help="Default: before the last execution that changed something."
        ),
    ] = None,
    execution: Annotated[
        str | None, typer.Option("--before", metavar="EXECUTION", help="To before this execution.")
    ] = None,
    last_success: Annotated[
        bool, typer.Option("--last-success", help="To what the last success left.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the present as a snapshot first.")
    ] = False,
    vm: VmOption = None,
    agent: AgentOption = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take a VM back. What runs in it is cancelled."""
    to = RollbackTo(
        snapshot_id=snapshot,
        execution_id=execution,
        last_success=last_success,
        create_pre_rollback_snapshot=keep,
    )

    async def work(
        backend: Backend, chosen: str
    ) -> tuple[RollbackResponse, dict[str, CommandHistoryEntry]]:
        entries = await latest(backend, chosen)
        return await backend.rollback(chosen, to), {each.id: each for each in entries}

    done, known = _on_vm(vm, agent, server, data_dir, work)
    if json:
        print_json(done)
        return
    out.print(within(f"{done.vm_id} is back at {done.restored_snapshot_id}"))
    for each in done.undone_executions:
        code = _code(known[each]) if each in known else ""
        out.print(f"undone {within(each)} [dim]{within(code)}[/dim]")
    if done.pre_rollback_snapshot_id is not None:
        out.print(within(f"where it was is kept as {done.pre_rollback_snapshot_id}"))
    for cancelled in done.cancelled_executions:
        out.print(f"cancelled {within(cancelled)}")
    for kernel in done.kernels:
        colour = "default" if kernel.memory == "kept" else "yellow"
        out.print(f"[{colour}]kernel {within(_kernel(kernel))}[/{colour}]")
        for note in kernel.notes:
            out.print(f"[dim]  {within(note)}[/dim]")


def fork(
    count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 1,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", help="From this snapshot, not the present.")
    ] = None,
    execution: Annotated[
        str | None, typer.Option("--before", metavar="EXECUTION", help="From before an execution.")
    ] = None,
    vm: VmOption = None,
    agent: AgentOption = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make VMs that go on from a VM's present or past, and print their ids."""
    request = ForkRequest(count=count, snapshot_id=snapshot, execution_id=execution)
    made = _on_vm(
        vm, agent, server, data_dir, lambda backend, chosen: backend.fork(chosen, request)
    )
    if json:
        print_json(made)
        return
    for each in made.vms:
        out.print(within(each.id))
    for note in made.notes:
        err.print(f"[dim]{within(note)}[/dim]")


def diff(
    old: Annotated[
        str | None,
        typer.Argument(metavar="[FROM]", help="A snapshot. Default: before the last execution."),
    ] = None,
    new: Annotated[
        str | None, typer.Argument(metavar="[TO]", help="A snapshot. Default: the present.")
    ] = None,
    vm: VmOption = None,
    agent: AgentOption = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show what changed on a VM's disk."""
    found = _on_vm(
        vm, agent, server, data_dir, lambda backend, chosen: backend.diff(chosen, old, new)
    )
    if json:
        print_json(found)
        return
    for entry in found.entries:
        _print_entry(entry)
    if not found.entries:
        out.print("nothing changed")
    if found.truncated:
        out.print("[dim]and more: this is cut[/dim]")


def _print_entry(entry: DiffEntry) -> None:
    sign, colour = SIGNS.get(entry.change, ("?", "red"))
    end = "/" if entry.kind == "directory" else ""
    size = f" {entry.old_size}" if entry.old_size is not None else ""
    if entry.new_size is not None and entry.new_size != entry.old_size:
        size += f" → {entry.new_size}" if size else f" {entry.new_size}"
    unit = " bytes" if size else ""
    modes = [mode for mode in (entry.old_mode, entry.new_mode) if mode is not None]
    mode = f" mode {within(' → '.join(modes))}" if len(set(modes)) > 1 else ""
    path = within(entry.path)
    out.print(f"[{colour}]{sign} {path}{end}[/{colour}][dim]{size}{unit}{mode}[/dim]")
    for line in (entry.text_diff or "").split("\n"):
        if line and not line.startswith(("---", "+++")):
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "dim")
            out.print(f"    [{style}]{escape(printable(line))}[/{style}]")


def _kernel(state: KernelState) -> str:
    memory = {"kept": "variables kept", "lost": "variables lost", "not kept": "not kept"}
    return f"{state.name}: {memory.get(state.memory, state.memory)}"


def _local(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
