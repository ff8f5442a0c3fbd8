"""``mulligan packages``."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer
from rich.table import Table

from mulligan.cli.console import out, print_json, within
from mulligan.cli.options import DataDirOption, JsonOption, ServerOption
from mulligan.cli.session import with_backend
from mulligan.client.backends import Backend
from mulligan.models import PackageSet, WarmRequest

app = typer.Typer(
    help="Sets of packages that programs asked for (run --require).", no_args_is_help=True
)

WIDTH = 60
MIB = 1024 * 1024
Ids = Annotated[list[str], typer.Argument(metavar="SET...", help="Ids, as the list has them.")]


@app.command("ls")
@app.command("list", hidden=True)
def list_packages(
    json: JsonOption = False, server: ServerOption = None, data_dir: DataDirOption = None
) -> None:
    """List the sets there are, the one used last first."""
    found = with_backend(server, data_dir, lambda backend: backend.packages())
    if json:
        dumped = [each.model_dump(mode="json") for each in found]
        out.print(json_module.dumps(dumped, indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("SET", "LANGUAGE", "SIZE", "LAST USED", "ASKED FOR", "PACKAGES"):
        table.add_column(heading, no_wrap=True)
    for each in found:
        table.add_row(*(within(text) for text in _row(each)))
    out.print(table if found else "no sets of packages")


def _row(found: PackageSet) -> tuple[str, ...]:
    used = found.last_used_at or found.created_at
    return (
        found.id,
        found.language,
        f"{found.size_bytes / MIB:.1f} MB",
        used.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        _short(found.requirements),
        _short(found.pins()),
    )


def _short(texts: list[str]) -> str:
    text = ", ".join(texts)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


@app.command("warm")
def warm(
    requirements: Annotated[list[str], typer.Argument(help="Such as numpy or pandas>=2.")],
    language: Annotated[str, typer.Option("-l", "--language")] = "python",
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the index anew, whatever there is already.")
    ] = False,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a set before a program needs it."""
    request = WarmRequest(requirements=requirements, language=language, refresh=refresh)
    work = lambda backend: backend.warm(request)  # noqa: E731
    found = with_backend(server, data_dir, work, "building packages")
    if json:
        print_json(found)
        return
    for pin in found.pins():
        out.print(within(pin))


@app.command("rm")
def remove(
    sets: Ids,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Remove sets. A program that asks for one again has it built again."""

    async def work(backend: Backend) -> None:
        for each in sets:
            await backend.delete_packages(each)

    with_backend(server, data_dir, work)
    for each in sets:
        out.print(f"{within(each)} removed")
