"""Opening a database: its file, its settings, its version; and the way in to read and write."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from mulligan.errors import ConfigError, HistoryError
from mulligan.history import schema
from mulligan.history.failures import corrupted, guarded

LOCK_SECONDS = 5  # how long another program may hold the database
CONNECT_SECONDS = 5
_CONNECTIONS = 5
_MORE_CONNECTIONS = 60
_CACHE_KIB = 8192
_MIGRATIONS = Path(__file__).parent / "migrations"
_migrating = threading.Lock()  # Alembic keeps what it works on in module variables
# Files that are open in this process, by device and inode, and how often: see _claimed.
_open_files: Counter[tuple[int, int]] = Counter()
_claiming = threading.Lock()
_SQLITE_MAGIC = b"SQLite format 3\x00"
_SQLITE_HEADER_BYTES = 100


class Database:
    """An open database.

    Any thread may use it. Writers take turns; with SQLite in WAL mode and with PostgreSQL,
    readers do not wait for them.

    Args:
        engine: SQLAlchemy's.
        where: what errors call it.
        released: called when it is closed, once.
    """

    def __init__(
        self, engine: Engine, where: str, released: Callable[[], None] | None = None
    ) -> None:
        self.where = where
        self._released = released
        self._engine = engine
        self._writer = engine.execution_options(mulligan_begin="BEGIN IMMEDIATE")
        # Else PostgreSQL shows each statement what was committed before it; SQLite does not.
        one_state = {"isolation_level": "REPEATABLE READ"}
        self._reader = engine.execution_options(
            **(one_state if engine.dialect.name == "postgresql" else {})
        )
        self._turn = threading.Lock()
        # SQLite's writer keeps its connection: getting one and giving it back takes as long as a
        # statement of a transaction. A server's connection may be lost, and is looked at each time.
        self._keeps_writer = engine.dialect.name == "sqlite"
        self._held: Connection | None = None
        self._one_connection = isinstance(engine.pool, StaticPool)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database.

        Raises:
            HistoryError: from the block too, where the database was at fault.
        """
        if self._one_connection:
            with self.write() as connection:
                yield connection
            return
        with guarded(self.where), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection whose changes are kept when the block ends, and none if it raises.

        Raises:
            HistoryError: from the block too, where the database was at fault.
        """
        with self._turn, guarded(self.where):
            if not self._keeps_writer:
                with self._writer.begin() as connection:
                    yield connection
                return
            held, self._held = self._held or self._writer.connect(), None
            try:
                with held.begin():
                    yield held
            except BaseException:
                held.close()
                raise
            self._held = held

    def close(self) -> None:
        """Closes all connections; calling it again does nothing."""
        with self._turn:
            if self._held is not None:
                self._held.close()
                self._held = None
        self._engine.dispose()
        if self._released is not None:
            self._released()
            self._released = None


def in_memory() -> Database:
    """A new database that no disk ever sees."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    _prepare_sqlite(engine, ["PRAGMA temp_store = MEMORY"])
    database = Database(engine, "memory")
    with database.write() as connection:
        schema.create(connection)
    return database


def open_sqlite(path: Path, *, power: bool) -> Database:
    """Opens the database in a file, which is made if it is missing.

    Args:
        path: the file; its directory must be there.
        power: whether what was committed survives a power loss, too.

    Raises:
        ConfigError: this Python's SQLite cannot be used.
        HistoryError: the file is corrupted, of a newer version or not writable.
    """
    try:
        released = _claimed(path)
    except OSError as error:
        raise HistoryError(
            f"the database cannot be opened: {path}: {error.strerror}",
            remedy="give the server's user the right to read and write it",
        ) from error
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        pool_size=_CONNECTIONS,
        max_overflow=_MORE_CONNECTIONS,
        connect_args={"check_same_thread": False, "timeout": LOCK_SECONDS},
    )
    pragmas = [
        "PRAGMA journal_mode = WAL",
        f"PRAGMA synchronous = {'FULL' if power else 'NORMAL'}",
        f"PRAGMA cache_size = -{_CACHE_KIB}",
    ]
    _prepare_sqlite(engine, pragmas)
    return _made_current(Database(engine, str(path), released))


def _claimed(path: Path) -> Callable[[], None]:
    """Makes the file if it is missing, looks at it, and notes it as open; the result undoes that.

    A process that closes a descriptor of a file loses all its locks on that file, those of SQLite
    too; another process would then take the write-ahead log for nobody's and delete it under this
    one. So a file that is open here already is not touched.
    """
    with _claiming:
        found = path.stat() if path.exists() else None
        if found is None or not _open_files[found.st_dev, found.st_ino]:
            _look_at(path)
            # SQLite gives its other files the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            found = path.stat()
        assert found is not None
        key = (found.st_dev, found.st_ino)
        _open_files[key] += 1

    def release() -> None:
        with _claiming:
            _open_files[key] -= 1
            if not _open_files[key]:
                del _open_files[key]

    return release


def open_url(url: str, *, power: bool) -> Database:
    """Opens a PostgreSQL database.

    Args:
        url: ``postgresql+psycopg://user:password@host:port/database``; the driver may be left
            out.
        power: whether to insist that the server waits for its disk.

    Raises:
        ConfigError: the address is none, or the driver is not installed.
        HistoryError: the server does not answer, or the database cannot be used.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.drivername != "postgresql+psycopg":
            raise _wrong_url(f"no PostgreSQL address: {parsed.drivername}")
        engine = create_engine(
            parsed,
            pool_size=_CONNECTIONS,
            max_overflow=_MORE_CONNECTIONS,
            pool_pre_ping=True,  # the server may have been restarted
            connect_args={"connect_timeout": CONNECT_SECONDS, "client_encoding": "utf8"},
        )
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise _wrong_url("no database address") from None  # it may hold a password
    except ImportError as error:
        raise ConfigError(
            f"PostgreSQL needs the driver psycopg: {error}",
            field="database_url",
            remedy="pip install '.[postgres]' where Mulligan's source is",
        ) from None
    if power:

        @event.listens_for(engine, "connect")
        def _wait_for_the_disk(connection: Any, _record: object) -> None:
            connection.execute("SET synchronous_commit = on")
            connection.commit()

    return _made_current(Database(engine, parsed.render_as_string(hide_password=True)))


def _wrong_url(what: str) -> ConfigError:
    return ConfigError(
        f"database_url is {what}",
        field="database_url",
        remedy="use postgresql+psycopg://user:password@host/database, or leave it out for SQLite",
    )


def _prepare_sqlite(engine: Engine, pragmas: list[str]) -> None:
    """Settings for each connection; and transactions begin when SQLAlchemy says so.

    Python's sqlite3 would begin one only at the first change, and writers could then meet.
    """

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma).fetchall()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(options.get("mulligan_begin", "BEGIN"))


def _look_at(path: Path) -> None:
    """Refuses a file that SQLite would take for a new one, or notice too late to be cut short."""
    log = path.with_name(f"{path.name}-wal")
    logged = log.stat().st_size if log.exists() else 0
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        if logged:  # SQLite would delete it
            raise corrupted(str(path), f"it is empty or gone, yet {log.name} has content")
        return
    with path.open("rb") as file:
        header = file.read(_SQLITE_HEADER_BYTES)
    if len(header) < _SQLITE_HEADER_BYTES or not header.startswith(_SQLITE_MAGIC):
        raise corrupted(str(path), "it does not begin as a SQLite database does")
    page = int.from_bytes(header[16:18])
    wanted = int.from_bytes(header[28:32]) * (65536 if page == 1 else page)
    # While there is a log, the file may rightly be shorter than it says.
    if not logged and header[24:28] == header[92:96] and size < wanted:
        raise corrupted(str(path), f"it has {size} of its {wanted} bytes")


def _made_current(database: Database) -> Database:
    """The database with the tables of this version; closed, where that fails."""
    try:
        with database.write() as connection:
            _check_server(connection, database.where)
            _migrate(connection, database.where)
    except BaseException:
        database.close()
        raise
    return database


def _check_server(connection: Connection, where: str) -> None:
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'")
        if found.scalar() is None:
            raise ConfigError(
                "the SQLite of this Python has no full-text search (FTS5)",
                remedy="use another build of Python, or PostgreSQL",
            )
        return
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        raise ConfigError(
            f"{where} has encoding {encoding}",
            field="database_url",
            remedy="make a database with ENCODING 'UTF8'",
        )


def _migrate(connection: Connection, where: str) -> None:
    current = None
    if inspect(connection).has_table(schema.VERSION_TABLE):
        statement = text(f"SELECT version_num FROM {schema.VERSION_TABLE}")  # noqa: S608
        current = connection.execute(statement).scalar()
    if current == schema.HEAD:
        return
    # Alembic is slow to import and needed for new and old databases only.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = schema.VERSION_TABLE
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise HistoryError(
            f"the database is of a newer version of Mulligan (tables {current!r}, this version "
            f"knows {schema.HEAD!r}): {where}",
            remedy="run the newer version, or choose another data directory",
        )
    with _migrating:
        command.upgrade(config, "head")
