"""``mulligan audit``."""

from __future__ import annotations

import json as json_module
from collections import deque
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from mulligan import settings as settings_module
from mulligan.cli.console import UsageError, out, within
from mulligan.cli.options import DataDirOption, JsonOption
from mulligan.errors import ConfigError
from mulligan.models import utc_now

COLUMNS = ("TIME", "WHO", "WHAT", "ABOUT", "STATUS", "REQUEST")


def audit(
    agent: Annotated[
        str | None, typer.Option("--agent", help="By this agent, or about it.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="A time (2025-01-02T03:04Z), or a span (2h).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The last so many.")] = 100,
    json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show who asked a server for what, oldest first."""
    from mulligan.server.audit_log import read_entries

    directory = settings_module.load(data_dir=data_dir).data_dir
    start = _time(since) if since is not None else None
    try:
        found = list(deque(read_entries(directory, agent=agent, since=start), maxlen=limit))
    except OSError as error:
        raise ConfigError(
            f"cannot read the audit log in {directory}: {error.strerror}",
            field="data_dir",
            remedy="it is for the server's user alone",
        ) from None
    if json:
        for each in found:
            out.print(json_module.dumps(each), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in COLUMNS:
        table.add_column(heading, overflow="fold")  # an id that is cut is none
    for each in found:
        table.add_row(*(within(text) for text in _row(each)))
    out.print(table if found else "nothing")


def _time(text: str) -> datetime:
    from mulligan.cli.token import span

    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return utc_now() - span(text)
    try:
        return time.astimezone(UTC)
    except (OverflowError, ValueError):
        raise UsageError(f"no time: {text[:50]!r}") from None


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    """An entry as people read it; its fields may be anything."""
    if "lost" in entry:
        return (
            str(entry.get("time")),
            "",
            f"{entry['lost']} entries could not be written",
            "",
            "",
            "",
        )
    who = entry.get("agent") or entry.get("who") or "nobody"
    ids = entry.get("ids")
    about = (
        " ".join(f"{name}={value}" for name, value in ids.items()) if isinstance(ids, dict) else ""
    )
    status = entry.get("status")
    return (
        str(entry.get("time")),
        str(who),
        f"{entry.get('method')} {entry.get('route') or 'no such route'}",
        about,
        "-" if status is None else str(status),
        str(entry.get("request_id")),
    )
