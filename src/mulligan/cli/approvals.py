"""``mulligan approvals``."""

from __future__ import annotations

import getpass
import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mulligan.cli.console import out, print_json, printable, within
from mulligan.cli.options import DataDirOption, JsonOption, ServerOption
from mulligan.cli.session import with_backend
from mulligan.models import Approval, ApprovalAnswer

app = typer.Typer(help="What people are asked before it runs, and their answers.")

CODE_WIDTH = 40
Id = Annotated[str, typer.Argument(metavar="APPROVAL", help="An approval's id.")]
Comment = Annotated[str | None, typer.Option("--comment", help="Kept with the answer.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_approvals()


@app.command("ls")
@app.command("list", hidden=True)
def list_approvals(
    every: Annotated[bool, typer.Option("--all", help="Also what was answered.")] = False,
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent's.")] = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List what waits for an answer, newest first."""
    state = None if every else "pending"
    found = with_backend(server, data_dir, lambda backend: backend.approvals(state, agent))
    if json:
        dumped = [each.model_dump(mode="json") for each in found]
        out.print(json_module.dumps(dumped, indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("APPROVAL", "STATE", "AGENT", "EXPIRES", "CODE"):
        table.add_column(heading, no_wrap=True)
    for each in found:
        table.add_row(*(within(text) for text in _row(each)))
    out.print(table if found else "nothing waits for an answer" if not every else "no approvals")


def _row(approval: Approval) -> tuple[str, ...]:
    lines = approval.code.strip().splitlines() or [""]
    code = lines[0]
    if len(lines) > 1 or len(code) > CODE_WIDTH:
        code = code[: CODE_WIDTH - 1] + "…"
    expires = approval.expires_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return approval.id, approval.state, approval.agent_id, expires, code


@app.command("show")
def show(
    approval: Id,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show all that a person is asked to approve."""
    found = with_backend(server, data_dir, lambda backend: backend.approval(approval))
    if json:
        print_json(found)
        return
    out.print(f"[bold]{within(found.prompt)}[/bold]")
    where = f"{found.language} of agent {found.agent_id} in {found.vm_id}"
    out.print(f"{within(found.state)}: {within(where)}")
    extras = {
        "stdin": found.stdin,
        "working directory": found.working_dir,
        "kernel": found.kernel,
        "variables": ", ".join(found.env_names) or None,
    }
    for name, text in extras.items():
        if text is not None:
            out.print(f"{name}: {within(text)}")
    out.print(printable(found.code), markup=False, highlight=False, soft_wrap=True)


@app.command("approve")
def approve(
    approval: Id,
    comment: Comment = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Say yes: exactly this may run, once (`mulligan run --approval APPROVAL …`)."""
    _answer(approval, True, comment, server, data_dir)


@app.command("deny")
def deny(
    approval: Id,
    comment: Comment = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Say no."""
    _answer(approval, False, comment, server, data_dir)


def _answer(
    approval: str, yes: bool, comment: str | None, server: str | None, data_dir: Path | None
) -> None:
    answer = ApprovalAnswer(approve=yes, who=getpass.getuser(), comment=comment)
    done = with_backend(server, data_dir, lambda backend: backend.answer(approval, answer))
    out.print(within(f"{done.id} {done.state}"))
