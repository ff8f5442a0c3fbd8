"""``mulligan token``."""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mulligan import settings as settings_module
from mulligan.cli.console import UsageError, err, out, within
from mulligan.cli.options import DataDirOption, JsonOption
from mulligan.models import utc_now

if TYPE_CHECKING:
    from mulligan.history.tokens import Token, TokenStore

app = typer.Typer(help="Who may ask a server for what.", no_args_is_help=True)

_SPAN = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
MOST_DAYS = 36525
Id = Annotated[str, typer.Argument(metavar="TOKEN", help="A token's id, as the list has it.")]


@contextmanager
def _store(data_dir: Path | None) -> Iterator[TokenStore]:
    """The tokens of a data directory, whether a server uses it or not."""
    from mulligan.history.tokens import open_tokens
    from mulligan.layers.directories import make_directory

    settings = settings_module.load(data_dir=data_dir)
    make_directory(settings.data_dir)
    directory = settings.data_dir / "history"
    with open_tokens(directory, url=settings.database_url, durability=settings.durability) as store:
        yield store


def span(text: str) -> timedelta:
    """A time span such as 30d, 12h, 90m.

    Raises:
        UsageError: it is none, or of more than a century.
    """
    found = _SPAN.fullmatch(text.strip())
    length = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta()
    if not timedelta() < length <= timedelta(days=MOST_DAYS):
        raise UsageError(
            f"no time span: {text[:50]!r}", remedy="a number and s, m, h, d or w, such as 30d"
        )
    return length


@app.command("create")
def create(
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="For this agent's things alone.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="For all things of all agents.")] = False,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="SPAN", help="After so long, such as 30d.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="A note for the list.")] = None,
    json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Make a token and print it, this once."""
    from mulligan.engine.requests.validation import check_agent_id

    if (agent is not None) == admin:
        raise UsageError("a token is of one agent or of an administrator: --agent NAME or --admin")
    if agent is not None:
        check_agent_id(agent)
    expires_at = utc_now() + span(expires) if expires is not None else None
    with _store(data_dir) as store:
        token, secret = store.create(agent, name=name, expires_at=expires_at)
    if json:
        out.print(json_module.dumps(_dumped(token) | {"token": secret}, indent=2), markup=False)
        return
    err.print(f"{token.id} for {_whose(token)}; it is not shown again", markup=False)
    out.print(secret, markup=False)


@app.command("ls")
@app.command("list", hidden=True)
def list_tokens(json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List tokens, oldest first. Of each its first characters are known, and no more."""
    with _store(data_dir) as store:
        found = store.list()
    if json:
        out.print(json_module.dumps([_dumped(each) for each in found], indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("TOKEN", "BEGINS", "OF", "STATE", "EXPIRES", "LAST USED", "NAME"):
        table.add_column(heading, no_wrap=True)
    for each in found:
        row = (
            each.id,
            each.shown + "…",
            _whose(each),
            each.state(utc_now()),
            _local(each.expires_at) or "never",
            _local(each.last_used_at) or "never",
            each.name or "",
        )
        table.add_row(*(within(text) for text in row))
    out.print(table if found else "no tokens")


@app.command("revoke")
def revoke(token: Id, data_dir: DataDirOption = None) -> None:
    """Make a token good for nothing. A server that runs knows within half a second."""
    with _store(data_dir) as store:
        if not store.revoke(token) and token not in [each.id for each in store.list()]:
            raise _unknown(token)
    out.print(f"{token} revoked", markup=False)


@app.command("rm")
def remove(token: Id, data_dir: DataDirOption = None) -> None:
    """Take a revoked or expired token off the list.

    Where none is left, a server on a loopback address asks nobody for a token any more.
    """
    with _store(data_dir) as store:
        if not store.forget(token):
            if token not in [each.id for each in store.list()]:
                raise _unknown(token)
            raise UsageError(
                f"{token} is good still", remedy=f"first: mulligan token revoke {token}"
            )
    out.print(f"{token} removed", markup=False)


def _unknown(token: str) -> UsageError:
    shown = "what starts with mlg_ is a token itself" if token.startswith("mlg_") else token[:100]
    return UsageError(
        f"there is no token of that id: {shown}", remedy="mulligan token ls shows those there are"
    )


def _whose(token: Token) -> str:
    return "an administrator" if token.agent_id is None else f"agent {token.agent_id}"


def _local(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _dumped(token: Token) -> dict[str, object]:
    """What may be known of a token."""
    times = ("created_at", "expires_at", "revoked_at", "last_used_at")
    dumped: dict[str, object] = {
        "id": token.id,
        "begins": token.shown,
        "agent_id": token.agent_id,
        "admin": token.agent_id is None,
        "name": token.name,
        "state": token.state(utc_now()),
    }
    for each in times:
        time: datetime | None = getattr(token, each)
        dumped[each] = None if time is None else time.isoformat().replace("+00:00", "Z")
    return dumped
