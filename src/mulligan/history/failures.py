"""What went wrong in a database or with a file, as errors that name it and a remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from mulligan.errors import HistoryError

_REPAIR = (
    "nothing was changed in it. Stop the server, keep a copy, then put a backup in its place or "
    "move it out of the directory: the next start makes an empty history. VMs are not affected"
)
_FREE = "free some space there and try again; what was acknowledged before is kept"
_RIGHTS = "give the server's user the right to write there, or choose another data directory"
_BUSY = "another program holds it: end that one and try again"
_SQLITE = {
    "FULL": ("the disk is full", _FREE),
    "BUSY": ("the database is locked", _BUSY),
    "LOCKED": ("the database is locked", _BUSY),
    "CORRUPT": ("the database is corrupted", _REPAIR),
    "NOTADB": ("the file is no SQLite database, or is corrupted", _REPAIR),
    "READONLY": ("the database cannot be written", _RIGHTS),
    "CANTOPEN": ("the database cannot be opened", _RIGHTS),
    "PERM": ("the database cannot be opened", _RIGHTS),
    "IOERR": ("the database cannot be read or written", "look for a failing or full disk"),
    "TOOBIG": ("a text is longer than the database takes", "lower output_limit_bytes"),
}
_POSTGRES = {
    "08": ("there is no connection", "see that the database server runs and database_url is right"),
    "22021": ("the database cannot hold this text", "use a database with encoding UTF8"),
    "25006": ("the database takes no changes", "use a database that is not read-only"),
    "28": ("the database refuses this user", "check user and password in database_url"),
    "3D": ("there is no such database", "create it, or correct database_url"),
    "42501": ("the database user may not do this", "grant it its own schema, or use another"),
    "53100": ("the database server's disk is full", _FREE),
    "53": ("the database server is out of resources", "try again when it is less busy"),
    "57": ("the database server is shutting down", "start it, then try again"),
    "XX": ("the database is corrupted", "restore the database server's data from a backup"),
}


def corrupted(where: str, why: str) -> HistoryError:
    """The error for a database file that cannot be one."""
    return HistoryError(f"the database is corrupted: {where}: {why}", remedy=_REPAIR)


def explained(error: SQLAlchemyError, where: str) -> HistoryError:
    """A database's error in words.

    Args:
        error: as SQLAlchemy raised it.
        where: the database's file, or its address without the password.
    """
    if not isinstance(error, DBAPIError) or error.orig is None:
        what = str(error).splitlines()[0]
        return HistoryError(f"{what}: {where}", remedy="try again when the server is less busy")
    original = error.orig
    detail = (str(original).strip() or type(original).__name__).splitlines()[0]
    name = getattr(original, "sqlite_errorname", None)
    if name:
        text, remedy = _SQLITE.get(name.split("_")[1], ("the database refused", None))
        return HistoryError(f"{text}: {where} ({detail})", remedy=remedy)
    state = getattr(original, "sqlstate", None)
    if not state and isinstance(error, OperationalError):
        state = "08"  # no answer has no code
    for length in (5, 2):
        if state and state[:length] in _POSTGRES:
            text, remedy = _POSTGRES[state[:length]]
            return HistoryError(f"{text}: {where} ({detail})", remedy=remedy)
    return HistoryError(f"the database refused: {where} ({detail})")


def file_error(error: OSError, where: str) -> HistoryError:
    """The error for an output's file."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    what = "the disk is full" if full else "an output cannot be written"
    return HistoryError(
        f"{what}: {where} ({error.strerror or error})", remedy=_FREE if full else _RIGHTS
    )


@contextmanager
def guarded(where: str) -> Iterator[None]:
    """Turns errors of SQLAlchemy in its block into HistoryError."""
    try:
        yield
    except SQLAlchemyError as error:
        raise explained(error, where) from error
