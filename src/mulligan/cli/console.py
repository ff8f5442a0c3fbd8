"""What the commands print: results to stdout, all else to stderr, colour on terminals only."""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
from collections.abc import Coroutine
from typing import Any, NoReturn, TextIO, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console

from mulligan.errors import ValidationFailed, VmExecutionError, VmNotAvailable
from mulligan.printable import one_line as one_line  # noqa: PLC0414
from mulligan.printable import printable as printable  # noqa: PLC0414

UNIT = 1024
_BRACKET = re.compile(r"(\\*)\[(?=([a-z#/@][^\[]*?\])?)")
TEN = 10

OWN_FAILURE = 125  # as docker(1) has it: the program did not get to run
INTERRUPTED = 130

PIPE_WIDTH = 200
out = Console(
    soft_wrap=True,
    highlight=False,
    emoji=False,  # a file called ":bomb:" is shown by its name
    width=None if sys.stdout is not None and sys.stdout.isatty() else PIPE_WIDTH,
)
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)

Result = TypeVar("Result")


class UsageError(ValidationFailed):
    """What was typed cannot be meant."""

    template = "{}"


class NotCancelledError(Exception):
    """An interrupt could not cancel what it was to; the text says what and why."""


def fail(error: VmExecutionError) -> NoReturn:
    """Ends the command with one line that says what was wrong and, if known, what to do."""
    todo = error.remedy
    if todo is None and isinstance(error, VmNotAvailable) and error.field == "vm_id":
        todo = "mulligan vm ls shows those there are"
    remedy = f" [dim]({within(todo)})[/dim]" if todo else ""
    err.print(f"[red]error:[/red] {within(str(error))}{remedy}")
    raise typer.Exit(OWN_FAILURE)


def within(text: str) -> str:
    """Text of a stranger's for a line of markup: it controls, breaks and marks nothing."""
    marked = _BRACKET.sub(_literal, one_line(text))
    ending = marked[len(marked.rstrip("\\")) :]
    return f"{marked}{ending}[not blink][/not blink]" if ending else marked


def _literal(found: re.Match[str]) -> str:
    """A bracket and what is before it, so that rich shows it; ``rich.markup.escape`` loses some."""
    before = found[1]
    if found[2]:
        return f"{before}{before}\\["
    return f"{before}\\[" if before else "["


def print_json(value: BaseModel) -> None:
    """Prints a value as JSON, with nothing in it that a terminal would act on."""
    text = value.model_dump_json(indent=2)
    if not text.replace("\n", "").isprintable():
        text = "".join(map(_in_json, text))
    out.print(text, markup=False)


def _in_json(char: str) -> str:
    """A character of JSON; what cannot be seen as it is can only be in a string."""
    if char == "\n" or char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if char.isascii() else json.dumps(char)[1:-1]


def run_async(
    work: Coroutine[Any, Any, Result], interrupted: str = "the execution was cancelled"
) -> Result:
    """Runs a command's work; an interrupt cancels it and everything it started, and says so.

    A second one ends this process at once; see ``interrupts``.
    """
    from mulligan.cli.interrupts import run_interruptibly

    try:
        return run_interruptibly(work, _cancelling)
    except VmExecutionError as error:
        fail(error)
    except NotCancelledError as error:
        err.print(f"interrupted, but [red]{within(str(error))}[/red]")
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt:
        err.print(f"interrupted: {interrupted}")
        raise typer.Exit(INTERRUPTED) from None


def _cancelling() -> None:
    """Says on a terminal what an interrupt does, since it may take a moment."""
    if err.is_terminal:
        err.print("\ncancelling; Ctrl-C again does not wait for it")


def size(number: int | None) -> str:
    """Bytes as people read them: ``4.2 MB``; a dash where they were not counted."""
    if number is None:
        return "-"
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < UNIT or unit == "TB":
            break
        amount /= UNIT
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= TEN else f"{amount:.1f} {unit}"


class OutputWriter:
    """Passes a program's output on: as it is into files and pipes, escaped onto a terminal.

    A thread writes, so that a reader who takes his time (a pager, a full pipe) holds up nothing
    else. A reader who has gone away is no error; what comes after that is dropped.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._gone: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="output", daemon=True)
        self._thread.start()

    def write(self, stream: str, data: bytes) -> None:
        """Takes output of "stdout" or "stderr"."""
        self._queue.put((stream, data))

    def finish(self) -> None:
        """Returns when everything is written."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            stream, data = item
            if stream in self._gone:
                continue
            try:
                write_out(sys.stdout if stream == "stdout" else sys.stderr, data)
            except (OSError, ValueError):  # the reader has gone, or the stream was closed
                self._gone.add(stream)


def write_out(target: TextIO | None, data: bytes) -> None:
    """Writes a stranger's bytes: as they are into files and pipes, escaped onto a terminal."""
    if target is None:
        return
    if target.isatty():
        target.write(printable(data.decode(errors="replace")))
        target.flush()
        return
    target.flush()
    view = memoryview(data)
    while view:
        view = view[os.write(target.fileno(), view) :]
