"""``mulligan run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mulligan.cli.console import UsageError, err, out, print_json, printable, run_async, within
from mulligan.cli.hints import hints
from mulligan.cli.options import AgentOption, DataDirOption, JsonOption, ServerOption
from mulligan.cli.reading import read_text
from mulligan.cli.session import open_session
from mulligan.languages import EXTENSIONS
from mulligan.models import SecretReference, VmExecuteRequest, VmExecuteResponse

KernelOption = Annotated[
    str | None,
    typer.Option(
        "--kernel",
        metavar="NAME",
        help="Run as a cell of this kernel, which keeps its variables while a server keeps the VM: "
        "python, bash and javascript.",
    ),
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="PACKAGE",
        help="A package it needs, such as numpy or pandas>=2 (python), lodash@^4 (javascript). "
        "May be repeated.",
    ),
]
TypeOption = Annotated[
    str | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help="Run in the agent's first VM of this type, which is made if there is none, beside "
        "others it has.",
    ),
]
TimeoutOption = Annotated[
    int | None,
    typer.Option(
        "--timeout",
        help="Time limit in seconds, times 1.5 for Bash and 3 for Rust. Default: 30.",
    ),
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME=OFFER@HOST,...",
        help="A secret the server's settings offer, under this name: the program finds a "
        "placeholder, and the value goes to these hosts alone. May be repeated.",
    ),
]
ApprovalOption = Annotated[
    str | None,
    typer.Option(
        "--approval", metavar="ID", help="A person's yes to exactly this; it is used up by it."
    ),
]


def run(
    file: Annotated[
        Path | None, typer.Argument(help="A program's file; - reads it from stdin.")
    ] = None,
    code: Annotated[str | None, typer.Option("-c", "--code", help="The program itself.")] = None,
    language: Annotated[
        str | None,
        typer.Option(
            "-l", "--language", help="python, javascript, bash or rust. Default: by the file."
        ),
    ] = None,
    agent: AgentOption = None,
    vm: Annotated[str | None, typer.Option("--vm", help="The VM, by its id.")] = None,
    vm_type: TypeOption = None,
    kernel: KernelOption = None,
    approval: ApprovalOption = None,
    require: RequireOption = None,
    timeout: TimeoutOption = None,
    cwd: Annotated[
        str | None, typer.Option("--cwd", help="Working directory in the VM. Default: /workspace.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("-e", "--env", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    secret: SecretOption = None,
    stdin: Annotated[
        Path | None, typer.Option("--stdin", help="What the program reads; - passes stdin on.")
    ] = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run a program in an isolated VM.

    Files it leaves in the VM are there for the next run of the same agent. The exit status is the
    program's: 124 after a timeout, 128 + n after signal n, 125 if it could not be run.
    """
    if vm is not None and vm_type is not None:
        raise UsageError("give --vm or --type, not both", field="type")
    request = VmExecuteRequest(
        agent_id=agent or "",
        language=language or _language_of(file),
        code=_code(file, code),
        vm_id=vm,
        kernel=kernel,
        approval=approval,
        requirements=require or [],
        timeout_seconds=_timeout(timeout),
        working_dir=cwd,
        env=_environment(env or []),
        secrets=_secrets(secret or []),
        stdin=_stdin(stdin, file),
    )
    response, stays = run_async(_execute(request, vm_type, server, data_dir, show=not json))
    if json:
        print_json(response)
    else:
        _report(response, stays=stays)
    raise typer.Exit(response.exit_code if 0 <= response.exit_code <= 255 else 255)  # noqa: PLR2004


async def _execute(
    request: VmExecuteRequest,
    vm_type: str | None,
    server: str | None,
    data_dir: Path | None,
    *,
    show: bool,
) -> tuple[VmExecuteResponse, bool]:
    """The response, and whether the VM goes on after this command."""
    async with open_session(server, data_dir) as session:
        agent = await session.agent_of(request.vm_id, request.agent_id or None)
        fields = {"agent_id": agent}
        if vm_type is not None:
            fields["vm_id"] = await session.vm_of_type(agent, vm_type)
        request = request.model_copy(update=fields)
        return await session.execute(request, show=show), session.served


def _report(response: VmExecuteResponse, *, stays: bool) -> None:
    """Says on stderr what the program's own output does not."""
    if response.result is not None:
        out.print(printable(response.result), markup=False, highlight=False, soft_wrap=True)
    if response.error:
        err.print(f"[red]{within(response.error)}[/red]")
    if response.truncated:
        total = response.stdout_bytes + response.stderr_bytes
        err.print(
            f"[yellow]output cut: the program wrote {total} bytes, more than is kept of a stream "
            "(MULLIGAN_OUTPUT_LIMIT_BYTES)[/yellow]"
        )
    for note in (*response.notes, *(hints(response) if err.is_terminal else ())):
        err.print(f"[dim]{within(note)}[/dim]")
    for kind in (each.mime_type for each in response.results):
        err.print(f"[dim]a {within(kind)} came back; --json has it[/dim]")
    if response.kernel is not None and not stays:
        err.print(
            f"[dim]kernel {within(response.kernel)} ended with this command; a server "
            "(mulligan serve) keeps it[/dim]"
        )
    if response.background_processes:
        count = response.background_processes
        where = f"left running in {within(response.vm_id)}"
        if not stays:
            where = "left in the background ended with this command; a server keeps them"
        err.print(f"[dim]{count} process(es) {where}[/dim]")


def _timeout(seconds: int | None) -> int | None:
    if seconds is not None and seconds < 0:
        raise UsageError(f"--timeout must be positive, not {seconds}", field="timeout")
    return seconds


def _code(file: Path | None, code: str | None) -> str:
    if (file is None) == (code is None):
        raise UsageError("give either a file (- for stdin) or -c CODE", field="code")
    if code is not None:
        return code
    assert file is not None
    return read_text(file, "file")


def _language_of(file: Path | None) -> str:
    if file is None or str(file) == "-":
        return "python"
    language = EXTENSIONS.get(file.suffix.removeprefix(".").lower())
    if language is None:
        raise UsageError(
            f"cannot tell the language of {file.name}", field="language", remedy="say -l LANGUAGE"
        )
    return language


def _environment(pairs: list[str]) -> dict[str, str] | None:
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"--env takes NAME=VALUE, not {pair[:100]!r}", field="env")
    return dict(pair.split("=", 1) for pair in pairs) or None


def _secrets(given: list[str]) -> dict[str, str | SecretReference] | None:
    found: dict[str, str | SecretReference] = {}
    for each in given:
        name, _, source = each.partition("=")
        offer, _, hosts = source.partition("@")
        if not name or not offer or not hosts:
            raise UsageError(
                f"--secret takes NAME=OFFER@HOST,..., not {each[:100]!r}", field="secret"
            )
        found[name] = SecretReference(value_from=offer, hosts=hosts.split(","))
    return found or None


def _stdin(source: Path | None, file: Path | None) -> str | None:
    if source is None:
        return None
    if str(source) == "-" and file is not None and str(file) == "-":
        raise UsageError("stdin cannot be the program and its input too", field="stdin")
    return read_text(source, "stdin")
