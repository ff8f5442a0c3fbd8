"""``mulligan parse``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mulligan.cli.console import err, out, print_json, printable, within
from mulligan.cli.options import AgentOption, DataDirOption, JsonOption, ServerOption
from mulligan.cli.reading import read_text
from mulligan.cli.session import Session, with_session
from mulligan.models import CodeBlock, ParseExecuteRequest, ParseExecuteResponse

CODE_WIDTH = 48
DEFAULT_THRESHOLD = 0.7


def parse(
    file: Annotated[Path, typer.Argument(help="A model's answer; - reads it from stdin.")],
    execute: Annotated[
        bool, typer.Option("--execute", help="Run the blocks that are sure enough, in order.")
    ] = False,
    threshold: Annotated[
        float, typer.Option("--threshold", help="How sure is enough, from 0 to 1.")
    ] = DEFAULT_THRESHOLD,
    agent: AgentOption = None,
    vm: Annotated[str | None, typer.Option("--vm", help="The VM, by its id.")] = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Find the code in a model's answer, and say how sure it is that it should run.

    With --execute, run what is sure enough. Blocks of an answer share a VM; after one that fails
    the others are not run. The exit status is 1 if any failed.
    """
    request = ParseExecuteRequest(
        agent_id=agent or "",
        llm_response=read_text(file, "file"),
        auto_execute=execute,
        auto_execute_threshold=threshold,
        vm_config={"vm_id": vm} if vm is not None else None,
    )
    if execute:

        async def work(session: Session) -> ParseExecuteResponse:
            whose = await session.agent(agent)
            return await session.backend.parse(request.model_copy(update={"agent_id": whose}))

        done = with_session(server, data_dir, work)
    else:
        from mulligan.extraction import extract

        blocks = extract(request.llm_response)
        done = ParseExecuteResponse(code_blocks=blocks, execution_results=[], errors=[])
    if json:
        print_json(done)
    else:
        _report(done)
        if execute and done.code_blocks and not (done.execution_results or done.errors):
            err.print(f"nothing ran: no block is sure enough (--threshold {threshold:g})")
    raise typer.Exit(1 if done.errors else 0)


def _report(done: ParseExecuteResponse) -> None:
    if not done.code_blocks:
        out.print("no code found")
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("BLOCK", "LANGUAGE", "SURE", "CHARACTERS", "CODE"):
            table.add_column(heading, no_wrap=True)
        for number, block in enumerate(done.code_blocks, 1):
            table.add_row(str(number), *(within(each) for each in _row(block)))
        out.print(table)
    for response in done.execution_results:
        out.print(f"[dim]{within(response.execution_id)} in {within(response.vm_id)}[/dim]")
        for text in (response.stdout, response.stderr):
            if text:
                shown = printable(text).removesuffix("\n")
                out.print(shown, markup=False, highlight=False, soft_wrap=True)
    for error in done.errors:
        err.print(f"[red]{within(error)}[/red]")


def _row(block: CodeBlock) -> tuple[str, ...]:
    lines = block.code.strip().splitlines() or [""]
    code = lines[0]
    if len(lines) > 1 or len(code) > CODE_WIDTH:
        code = code[: CODE_WIDTH - 1] + "…"
    sure = f"{block.execution_confidence:.2f}"
    return block.language, sure, f"{block.start_pos}-{block.end_pos}", code
