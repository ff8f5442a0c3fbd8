"""``mulligan config``."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer
from rich.table import Table

from mulligan import settings as settings_module
from mulligan.cli.console import UsageError, out, within
from mulligan.cli.options import DataDirOption, JsonOption

COLUMNS = ("SETTING", "VALUE", "FROM")


def config(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A setting, or a section: history, vm_types.ubuntu."),
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only what is not as it is by default.")
    ] = False,
    json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show the settings in force here, and where each comes from.

    A server that runs has those it was started with. Secrets are hidden.
    """
    from mulligan.settings.origins import origins

    settings = settings_module.load(data_dir=data_dir)
    found = origins(settings, {"data_dir": data_dir})
    if name is not None:
        found = [each for each in found if f"{each.name}.".startswith(f"{name}.")]
        if not found:
            raise UsageError(
                f"no setting {name[:100]!r}", field="name", remedy="mulligan config lists them all"
            )
    if changed:
        found = [each for each in found if each.source != "default"]
    if json:
        dumped = [each._asdict() for each in found]
        out.print(json_module.dumps(dumped, indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in COLUMNS:
        table.add_column(heading, overflow="fold")
    for each in found:
        value = each.value if isinstance(each.value, str) else json_module.dumps(each.value)
        place = f"{each.source}: {each.place}" if each.place else each.source
        table.add_row(*(within(text) for text in (each.name, value, place)))
    out.print(table if found else "nothing; all is as it is by default")
