"""``mulligan shell``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mulligan.cli.console import err, one_line, run_async
from mulligan.cli.options import AgentOption, DataDirOption, ServerOption
from mulligan.cli.session import Session, open_session
from mulligan.models import DEFAULT_VM_TYPE, TerminalExit, TerminalRequest, VmCreateRequest
from mulligan.models.terminal import DEFAULT_TERM

if TYPE_CHECKING:
    from mulligan.cli.tty import Tty

LAST_CODE = 255
SIGNALLED = 128


def shell(
    vm: Annotated[
        str | None, typer.Argument(metavar="[VM]", help="A VM's id. Default: the agent's first.")
    ] = None,
    agent: AgentOption = None,
    command: Annotated[
        str | None, typer.Option("-c", "--command", help="What Bash runs in place of a shell.")
    ] = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Open a shell in a VM.

    Keys go to the VM, Ctrl-C and Ctrl-Z among them. Enter, then ~. ends it from this side, and ~~
    types a ~. With it ends everything that was started in it. The exit status is the shell's.

    What runs there can send your terminal emulator any escape sequence, as over ssh: change colours
    and the window's title, move the cursor, fill the clipboard where the emulator allows that, and
    draw what looks like your own prompt. No gate sees what is typed.
    """
    from mulligan.cli.tty import Signalled, Tty

    tty = Tty()
    try:
        ended = run_async(_session(tty, vm, agent, command, server, data_dir))
    except Signalled as signalled:
        raise typer.Exit(SIGNALLED + signalled.number) from None
    if ended is None:
        err.print("[dim]ended from this side[/dim]")
        raise typer.Exit
    if ended.error:
        err.print(one_line(ended.error), style="red", markup=False)
    for note in ended.notes:
        err.print(one_line(note), style="dim", markup=False)
    raise typer.Exit(ended.exit_code if 0 <= ended.exit_code <= LAST_CODE else LAST_CODE)


async def _session(
    tty: Tty,
    vm: str | None,
    agent: str | None,
    command: str | None,
    server: str | None,
    data_dir: Path | None,
) -> TerminalExit | None:
    from mulligan.client.terminals import checked

    async with open_session(server, data_dir) as session:
        vm_id = vm if vm is not None else await _vm_of(session, agent)
        cols, rows = tty.size
        term = os.environ.get("TERM") or DEFAULT_TERM
        request = checked(TerminalRequest, cols=cols, rows=rows, term=term, command=command)
        async with session.backend.terminal(vm_id, request) as terminal:
            return await tty.pass_on(terminal)


async def _vm_of(session: Session, agent: str | None) -> str:
    """An agent's first VM, made where there is none."""
    whose = await session.agent(agent)
    found = await session.backend.list_vms(whose)
    if not found:
        asked = VmCreateRequest(vm_type=DEFAULT_VM_TYPE, vm_name=None, agent_id=whose)
        found = [await session.backend.create_vm(asked)]
    return found[0].id
