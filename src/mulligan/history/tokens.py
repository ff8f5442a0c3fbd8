"""Access tokens: who may ask a server for what.

A token is ``mlg_`` and 320 bits of the system's random numbers. Kept of it are SHA-256, by which it
is found, and its first characters, by which a person tells it from others in a list. A slow hash
with a salt, as passwords need one, would add nothing: what it makes expensive is guessing, and of
this nobody can guess enough at any speed.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import and_, delete, insert, or_, select, update

from mulligan.errors import ConfigError
from mulligan.history.database import Database, open_sqlite, open_url
from mulligan.history.outputs import make_private
from mulligan.history.schema import tokens
from mulligan.models import utc_now

PREFIX = "mlg_"
RANDOM_BYTES = 40  # the characters a list shows leave over 256 bits that it does not
SHOWN_CHARACTERS = len(PREFIX) + 6
MOST_NAME = 100
_c = tokens.c


@dataclass(frozen=True)
class Token:
    """A token as it is kept.

    Attributes:
        id: by which it is revoked.
        digest: see ``digest_of``.
        shown: its first characters.
        agent_id: whose it is; None for an administrator's.
        name: a note of whoever made it.
        created_at, expires_at, revoked_at, last_used_at: None where that is not so.
    """

    id: str
    digest: str
    shown: str
    agent_id: str | None
    name: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def state(self, now: datetime) -> Literal["good", "expired", "revoked"]:
        """Whether it opens anything."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "good"


def digest_of(secret: str) -> str:
    """What is kept of a token: SHA-256 of its UTF-8, in hex."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


class TokenStore:
    """The tokens of one database. Its methods block and may be called from any thread.

    Every method raises HistoryError when the database refuses; nothing is changed then.

    Args:
        database: called for the open database each time it is needed.
        clock: the present; a test's own.
    """

    def __init__(
        self, database: Callable[[], Database], *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._clock = clock

    def create(
        self, agent_id: str | None, *, name: str | None = None, expires_at: datetime | None = None
    ) -> tuple[Token, str]:
        """A new token.

        Args:
            agent_id: whose; None: an administrator's.
            name: a note for the list.
            expires_at: from when on it is good for nothing; None: never.

        Returns:
            It, and the secret itself, which cannot be asked for again.

        Raises:
            ConfigError: the note is none.
        """
        if name is not None and not (0 < len(name) <= MOST_NAME and name.isprintable()):
            raise ConfigError(f"name must be 1 to {MOST_NAME} printable characters", field="name")
        secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        token = Token(
            id=f"token-{secrets.token_hex(8)}",
            digest=digest_of(secret),
            shown=secret[:SHOWN_CHARACTERS],
            agent_id=agent_id,
            name=name,
            created_at=self._clock(),
            expires_at=expires_at,
            revoked_at=None,
            last_used_at=None,
        )
        with self._database().write() as connection:
            connection.execute(insert(tokens).values(asdict(token)))
        return token, secret

    def list(self) -> list[Token]:
        """All there are, oldest first."""
        wanted = [_c[field.name] for field in fields(Token)]
        statement = select(*wanted).order_by(_c.seq)
        with self._database().read() as connection:
            return [Token(**row) for row in connection.execute(statement).mappings()]

    def revoke(self, token_id: str) -> bool:
        """Makes a token good for nothing; it stays in the list.

        Returns:
            False where there is none of that id, or it was revoked already.
        """
        chosen = and_(_c.id == token_id, _c.revoked_at.is_(None))
        statement = update(tokens).where(chosen).values(revoked_at=self._clock())
        with self._database().write() as connection:
            return bool(connection.execute(statement).rowcount)

    def forget(self, token_id: str) -> bool:
        """Takes a token that is good for nothing off the list.

        Returns:
            False where there is none of that id, or it is good.
        """
        over = or_(_c.revoked_at.is_not(None), _c.expires_at <= self._clock())
        with self._database().write() as connection:
            found = connection.execute(delete(tokens).where(_c.id == token_id, over))
            return bool(found.rowcount)

    def used(self, times: Mapping[str, datetime]) -> None:
        """Writes down when tokens, by their ids, were last used."""
        with self._database().write() as connection:
            for token_id, time in times.items():
                changed = update(tokens).where(_c.id == token_id).values(last_used_at=time)
                connection.execute(changed)


@contextmanager
def open_tokens(
    directory: Path,
    *,
    url: str | None = None,
    durability: Literal["process", "power"] = "process",
) -> Iterator[TokenStore]:
    """The tokens of a history, also while a server uses it.

    Args:
        directory: the history's.
        url: of its PostgreSQL database; None: SQLite in ``directory``.
        durability: see ``HistoryStore``.

    Raises:
        ConfigError, HistoryError: as ``HistoryStore.open`` does; nothing a server runs is ended.
    """
    power = durability == "power"
    make_private(directory)
    if url is None:
        database = open_sqlite(directory / "history.db", power=power)
    else:
        database = open_url(url, power=power)
    try:
        yield TokenStore(lambda: database)
    finally:
        database.close()
