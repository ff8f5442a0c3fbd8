"""``mulligan selfcheck``: what a program in a VM can reach of this host, tried from inside."""

from __future__ import annotations

import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from mulligan import settings as settings_module
from mulligan.cli.console import UsageError, out, printable, run_async
from mulligan.cli.options import DataDirOption, JsonOption
from mulligan.cli.progress import Progress

if TYPE_CHECKING:
    from mulligan.selfcheck.verdicts import Report, Verdict

MARKS = {
    "passed": "[green]ok  [/green]",
    "skipped": "[yellow]note[/yellow]",
    "failed": "[red]FAIL[/red]",
}


def selfcheck(
    group: Annotated[
        list[str] | None,
        typer.Option(help="Only probes of this group, such as network; may be repeated."),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Try the same outside a VM, too, and compare.")
    ] = False,
    vm_type: Annotated[
        str | None, typer.Option(help="The VM type whose driver is tried (else the default one).")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables of Markdown.")] = False,
    json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Try to get out of a VM, harmlessly and in many ways; exit code 0 only if none succeeds."""
    from mulligan.selfcheck import report as reports
    from mulligan.selfcheck.run import probes
    from mulligan.selfcheck.run import selfcheck as check

    try:
        probes(group or ())
    except ValueError as error:
        raise UsageError(str(error)) from None
    settings = settings_module.load(data_dir=data_dir)
    plain = not (json or markdown)
    with Progress("probing") as progress:

        def on_verdict(verdict: Verdict) -> None:
            if plain and not control:
                progress.stop()
                _show(verdict)

        work = check(settings, group or (), control=control, vm_type=vm_type, on_verdict=on_verdict)
        report = run_async(work, "the check was not finished")
    if json:
        out.print(json_module.dumps(reports.as_json(report), indent=2), markup=False)
    elif markdown:
        sys.stdout.write(reports.markdown(report))
    else:
        _table(report, shown=not control)
        out.print(escape(reports.summary(report)))
    if not report.good:
        raise typer.Exit(1)


def _table(report: Report, *, shown: bool) -> None:
    for verdict in report.verdicts:
        if not shown:
            _show(verdict)


def _show(verdict: Verdict) -> None:
    line = f"{MARKS[verdict.vm.state]} {verdict.id:32} {escape(verdict.tried)}: "
    line += escape(printable(verdict.vm.happened))
    if verdict.vm.state == "failed":
        line += f"\n     must be: {escape(verdict.must)}"
    if verdict.control is not None:
        if verdict.proves:
            line += f"\n     [dim]without a VM: {escape(printable(verdict.control.happened))}[/dim]"
        elif verdict.proves is False:
            line += "\n     [dim]the same without a VM: proves nothing here[/dim]"
    out.print(line)
