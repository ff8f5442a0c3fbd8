"""The ``mulligan`` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from mulligan.cli import (
    approvals,
    audit,
    config,
    demo,
    doctor,
    files,
    image,
    mcp,
    microvm,
    packages,
    parse,
    past,
    run,
    selfcheck,
    serve,
    session,
    shell,
    vm,
)
from mulligan.cli import token as token_commands
from mulligan.cli.console import INTERRUPTED, UsageError, err, fail, within
from mulligan.errors import VmExecutionError
from mulligan.settings.settings import unknown_variables
from mulligan.version import __version__

app = typer.Typer(
    name="mulligan",
    help="Runs the code language models write, each agent in an isolated VM of its own.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("shell")(shell.shell)
app.command("parse")(parse.parse)
app.command("history")(past.history)
app.command("rollback")(past.rollback)
app.command("diff")(past.diff)
app.command("fork")(past.fork)
app.command("serve")(serve.serve)
app.command("audit")(audit.audit)
app.command("config")(config.config)
app.command("mcp")(mcp.mcp)
app.command("doctor")(doctor.doctor)
app.command("selfcheck")(selfcheck.selfcheck)
app.command("demo")(demo.demo)
app.add_typer(past.snapshots, name="snapshot")
app.add_typer(vm.app, name="vm")
app.add_typer(files.app, name="files")
app.add_typer(approvals.app, name="approvals")
app.add_typer(packages.app, name="packages")
app.add_typer(image.app, name="image")
app.add_typer(microvm.app, name="microvm")
app.add_typer(token_commands.app, name="token")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mulligan {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    token: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="The token for a server (else MULLIGAN_TOKEN, or MULLIGAN_TOKEN_FILE).",
        ),
    ] = None,
    _version_wanted: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    session.token_file.set(token)
    for name, meant in unknown_variables().items():
        perhaps = f"; perhaps {meant} was meant" if meant else ""
        err.print(f"[yellow]{within(name)} is no setting, and does nothing{perhaps}[/yellow]")


def main() -> None:
    """Runs the command; every expected failure is one line on stderr."""
    try:
        app()
    except BrokenPipeError:  # whoever read our output has gone; nothing more to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ValidationError as error:  # a number or text that no request can have
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "a value"
        _end(UsageError(f"{field}: {first['msg']}", field=field))
    except KeyboardInterrupt:  # before there was anything to cancel, or after
        sys.exit(INTERRUPTED)
    except VmExecutionError as error:
        _end(error)


def _end(error: VmExecutionError) -> NoReturn:
    try:
        fail(error)
    except typer.Exit as end:
        sys.exit(end.exit_code)
