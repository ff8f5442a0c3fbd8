"""``mulligan files``."""

from __future__ import annotations

import asyncio
import json as json_module
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import typer
from rich.table import Table

from mulligan.cli.console import UsageError, err, out, run_async, size, within, write_out
from mulligan.cli.options import AgentOption, DataDirOption, JsonOption, ServerOption
from mulligan.cli.session import open_session
from mulligan.client.backends import Backend
from mulligan.client.files import LISTED, Files, Progress
from mulligan.models import FileInfo, FileList

app = typer.Typer(help="List, show, fetch, send and remove files.", no_args_is_help=True)

SHOWN_AFTER_S = 1.0
COLUMNS = ("mode", "size", "changed", "name")
Result = TypeVar("Result")
VM_ID = re.compile(r"vm-[0-9a-f]{16}")
WORDS = "VM is a VM's id, by default the agent's first; PATH is absolute in the VM, or relative to "
WORDS += "/workspace. A file called like a VM is ./NAME."
VmOption = Annotated[str | None, typer.Option("--vm", metavar="VM", help="A VM's id.")]
PathWords = Annotated[list[str], typer.Argument(metavar="[VM] PATH", help=WORDS)]
EscapedOption = Annotated[
    bool, typer.Option("--escaped", help=r"PATH has escapes, as ls writes them: \xff, \\.")
]


class _Files(Files):
    """The methods of a client over a session's backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend


class Asked(NamedTuple):
    """The VM a command names, if it does, and its other words."""

    vm: str | None
    words: list[str]


def _read(vm: str | None, words: list[str], least: int, most: int, wanted: str) -> Asked:
    """What was typed, where a VM's id may come first.

    Raises:
        UsageError: it is too little or too much.
    """
    if vm is None and words and VM_ID.fullmatch(words[0]):
        vm, words = words[0], words[1:]
    if not least <= len(words) <= most:
        raise UsageError(f"give {wanted}, and before it a VM's id if it is not the first's")
    return Asked(vm, words)


def _on_files(
    asked: Asked,
    agent: str | None,
    server: str | None,
    data_dir: Path | None,
    work: Callable[[Files, str], Awaitable[Result]],
) -> Result:
    async def session_work() -> Result:
        async with open_session(server, data_dir) as session:
            return await work(_Files(session.backend), await session.vm(asked.vm, agent))

    return run_async(session_work(), "nothing was changed")


@contextmanager
def _progress(text: str) -> Iterator[Progress | None]:
    """A bar on a terminal, for what takes longer than a second."""
    if not err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Bar(*columns, console=err, transient=True)
    task = bar.add_task(within(text), total=None)
    began = time.monotonic()

    def show(done: int, total: int | None) -> None:
        bar.update(task, completed=done, total=total)
        if not bar.live.is_started and time.monotonic() - began > SHOWN_AFTER_S:
            bar.start()

    try:
        yield show
    finally:
        bar.stop()


@app.command("ls")
@app.command("list", hidden=True)
def list_files(
    words: Annotated[list[str] | None, typer.Argument(metavar="[VM] [PATH]", help=WORDS)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = LISTED,
    escaped: EscapedOption = False,
    json: JsonOption = False,
    vm: VmOption = None,
    agent: AgentOption = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List what is in a directory, by name."""
    asked = _read(vm, words or [], 0, 1, "no PATH or one")
    path = asked.words[0] if asked.words else "."

    async def work(files: Files, chosen: str) -> FileList:
        return await files.list_files(chosen, path, limit=limit, escaped=escaped)

    found = _on_files(asked, agent, server, data_dir, work)
    if json:
        out.print(json_module.dumps(found.model_dump(mode="json"), indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in COLUMNS:
        table.add_column(no_wrap=True)
    for entry in found.entries:
        table.add_row(*_row(entry))
    out.print(table if found.entries else "nothing is there")
    if found.truncated:
        err.print("there is more; see --limit")
    if any(entry.escaped for entry in found.entries):
        err.print("names that are no UTF-8 are escaped; use such a path with --escaped")


def _row(entry: FileInfo) -> tuple[str, ...]:
    kinds = {"directory": "/", "symlink": f" -> {entry.target}", "fifo": "|", "socket": "="}
    name = within(entry.name + kinds.get(entry.type, ""))
    held = size(entry.size) if entry.type == "file" else "-"
    when = entry.mtime.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return within(entry.mode), held, when, name


@app.command("cat")
def cat(
    words: PathWords,
    escaped: EscapedOption = False,
    vm: VmOption = None,
    agent: AgentOption = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print a file: as it is into files and pipes, escaped onto a terminal."""
    asked = _read(vm, words, 1, 1, "one PATH")

    async def work(files: Files, chosen: str) -> None:
        source = files.stream_file(chosen, asked.words[0], escaped=escaped)
        async with aclosing(source) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(write_out, sys.stdout, chunk)

    _on_files(asked, agent, server, data_dir, work)


@app.command("get")
def get(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[VM] PATH [LOCAL]",
            help=f"{WORDS} LOCAL is a file here, by default of the same name.",
        ),
    ],
    escaped: EscapedOption = False,
    vm: VmOption = None,
    agent: AgentOption = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Fetch a file; what is at LOCAL is replaced when all of it is here."""
    asked = _read(vm, words, 1, 2, "PATH, and perhaps LOCAL")
    path, *local = asked.words
    target = Path(local[0]) if local else Path(Path(path).name or "file")
    if target.is_dir():
        target /= Path(path).name

    async def work(files: Files, chosen: str) -> int:
        with _progress(f"fetching {path}") as progress:
            return await files.download(chosen, path, target, escaped=escaped, progress=progress)

    fetched = _on_files(asked, agent, server, data_dir, work)
    err.print(within(f"{target}: {size(fetched)}"))


@app.command("put")
def put(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[VM] LOCAL PATH", help=f"LOCAL is a file here; - for stdin. {WORDS}"
        ),
    ],
    mode: Annotated[
        str | None, typer.Option("--mode", help="Permission bits in octal, such as 0755.")
    ] = None,
    parents: Annotated[
        bool, typer.Option("--parents", "-p", help="Make directories above it.")
    ] = False,
    escaped: EscapedOption = False,
    vm: VmOption = None,
    agent: AgentOption = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Send a file; it is there whole, or as it was."""
    asked = _read(vm, words, 2, 2, "LOCAL and PATH")
    local, path = asked.words
    source = Path("/dev/stdin" if local == "-" else local)

    async def work(files: Files, chosen: str) -> FileInfo:
        with _progress(f"sending {local}") as progress:
            return await files.upload(
                chosen, source, path, mode=mode, parents=parents, escaped=escaped, progress=progress
            )

    sent = _on_files(asked, agent, server, data_dir, work)
    err.print(within(f"{sent.path}: {size(sent.size)}"))


@app.command("rm")
@app.command("delete", hidden=True)
def remove(
    words: PathWords,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="A directory with all that is in it.")
    ] = False,
    escaped: EscapedOption = False,
    vm: VmOption = None,
    agent: AgentOption = None,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Remove a file, a link or an empty directory."""
    asked = _read(vm, words, 1, 1, "one PATH")
    path = asked.words[0]

    async def work(files: Files, chosen: str) -> None:
        await files.delete_file(chosen, path, recursive=recursive, escaped=escaped)

    _on_files(asked, agent, server, data_dir, work)
    out.print(within(f"removed {path}"))
