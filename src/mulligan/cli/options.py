"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_AGENT = "cli"

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="MULLIGAN_SERVER",
        metavar="URL",
        help="Use this server. Default: the one that serves the data directory, else none.",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Where VMs are kept. Default: MULLIGAN_DATA_DIR, else /var/lib/mulligan for root "
        "and ~/.local/share/mulligan for others.",
    ),
]
AgentOption = Annotated[
    str | None,
    typer.Option(
        "--agent",
        metavar="NAME",
        help=f"Whose VM it is. Default: the agent the token is of, else {DEFAULT_AGENT}.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
