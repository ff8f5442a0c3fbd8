"""The reference of the command line, from its Typer application."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click

from mulligan.cli.app import app


def page() -> str:
    """All commands with their arguments and options, as Markdown."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="mulligan", obj={"TYPER_RICH_MARKUP_MODE": "rich"})
    return get_docs_for_click(obj=command, ctx=context, name="mulligan", title="Command line")
