"""Terminals: what is asked for one, and what is said beside its bytes.

Over a WebSocket bytes are binary messages, and these are text messages, as JSON objects with a
``type``: "resize" and "signal" to the server, "started", "exit" and "error" from it.
"""

from __future__ import annotations

import signal
from typing import Annotated, Literal
from urllib.parse import quote_plus

from pydantic import Field, StrictInt, StrictStr, TypeAdapter, field_validator

from mulligan.models.base import I32, U64, Request, Struct
from mulligan.models.execution import ErrorAnswer

Side = Annotated[StrictInt, Field(ge=1, le=1000)]
SignalName = Literal["INT", "TERM", "HUP", "QUIT", "KILL"]
DEFAULT_COLS, DEFAULT_ROWS = 80, 24
DEFAULT_TERM = "xterm-256color"
MOST_COMMAND = 6000


class TerminalRequest(Request):
    """What is asked for a terminal.

    ``cols`` and ``rows`` are its size in characters, ``term`` what programs take it for (the
    variable TERM), ``command`` what Bash runs in it; without one it is a login shell. It is sent as
    a part of an address, where it may take ``MOST_COMMAND`` bytes.
    """

    cols: Side = DEFAULT_COLS
    rows: Side = DEFAULT_ROWS
    term: Annotated[StrictStr, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._+-]*\z", max_length=64)] = (
        DEFAULT_TERM
    )
    command: StrictStr | None = None
    approval: StrictStr | None = None

    @field_validator("command")
    @classmethod
    def _fits(cls, value: str | None) -> str | None:
        if value is not None and len(quote_plus(value, errors="replace")) > MOST_COMMAND:
            raise ValueError("is too long: put it into a file of the VM, and run that")
        return value


class Resize(Request):
    """The terminal has another size now."""

    type: Literal["resize"] = "resize"
    cols: Side
    rows: Side


class SendSignal(Request):
    """Signal the foreground process group, as a key would."""

    type: Literal["signal"] = "signal"
    name: SignalName

    @property
    def number(self) -> int:
        """The signal's number."""
        return signal.Signals[f"SIG{self.name}"].value


class TerminalStarted(Struct):
    """The program runs. ``execution_id`` is its row in the history."""

    type: Literal["started"] = "started"
    execution_id: StrictStr
    vm_id: StrictStr


class TerminalExit(Struct):
    """The program has ended, and nothing of the terminal runs any more.

    ``outcome`` is "success", "failed" (a command ended with another code than 0), "cancelled" or
    "timeout"; a login shell that ends by itself is a success, whatever its code. ``error`` says
    why it was ended.
    """

    type: Literal["exit"] = "exit"
    execution_id: StrictStr
    exit_code: I32
    outcome: StrictStr
    error: StrictStr | None = None
    duration_ms: U64 = 0
    output_bytes: U64 = 0
    notes: list[StrictStr] = Field(default_factory=list)


class TerminalError(ErrorAnswer):
    """Something went wrong: where it is ``fatal``, with the terminal, which is over; else with a
    message, and the terminal goes on.
    """

    type: Literal["error"] = "error"
    fatal: bool = True


CONTROL: TypeAdapter[Resize | SendSignal] = TypeAdapter(
    Annotated[Resize | SendSignal, Field(discriminator="type")]
)
SAID: TypeAdapter[TerminalStarted | TerminalExit | TerminalError] = TypeAdapter(
    Annotated[TerminalStarted | TerminalExit | TerminalError, Field(discriminator="type")]
)
