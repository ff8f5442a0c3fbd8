"""Statements of every execution, run on SQLite's driver without the way there through SQLAlchemy.

SQLAlchemy builds and compiles them; running one through it takes 113 µs here, of which SQLite needs
21, and an execution has about twenty of them. On other databases they go the usual way: there the
round trip costs more, and SQLAlchemy looks after lost connections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Select, TextClause, Update
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

Processor = Callable[[Any], Any]


class Hot:
    """One statement.

    Args:
        statement: its parameters are all named by ``bindparam``, or are columns of an insert or
            update.
        columns: names of the columns an insert or update is given besides.
    """

    def __init__(
        self,
        statement: Select[Any] | Insert | Update | Delete | TextClause,
        columns: list[str] | None = None,
    ) -> None:
        self._statement = statement
        self._columns = columns
        self._ready: _Ready | None = None

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """Runs it in the transaction that has begun, and returns the rows that came, as tuples.

        Raises:
            DBAPIError: as SQLAlchemy would.
        """
        dialect = connection.dialect
        if dialect.name != "sqlite":
            result = connection.execute(self._statement, parameters)
            return list(result.all()) if result.returns_rows else []
        ready = self._ready
        if ready is None:
            ready = self._ready = _Ready(self._statement, self._columns, dialect)
        return ready.run(connection, parameters)


class _Ready:
    """A statement as SQLite's driver takes it."""

    def __init__(self, statement: Any, columns: list[str] | None, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self._text = str(compiled)
        self._dialect = dialect
        self._in = [
            (name, _bound(compiled.binds[name].type, dialect), compiled.params.get(name))
            for name in compiled.positiontup or ()
        ]
        returned = getattr(statement, "exported_columns", ())
        given_back = [_given_back(each.type, dialect) for each in returned]
        self._out = given_back if any(given_back) else None

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        values = []
        for name, processor, default in self._in:
            value = parameters.get(name, default)
            values.append(value if processor is None else processor(value))
        driver = connection.connection.driver_connection
        assert driver is not None
        cursor = driver.cursor()
        base = self._dialect.loaded_dbapi.Error
        try:
            rows: list[Any] = cursor.execute(self._text, values).fetchall()
        except base as error:
            raise DBAPIError.instance(
                self._text, None, error, base, hide_parameters=True, dialect=self._dialect
            ) from error
        finally:
            cursor.close()
        return rows if self._out is None else [self._processed(row) for row in rows]

    def _processed(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        assert self._out is not None
        return tuple(
            value if processor is None else processor(value)
            for value, processor in zip(row, self._out, strict=True)
        )


def _bound(kind: TypeEngine[Any], dialect: Dialect) -> Processor | None:
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _given_back(kind: TypeEngine[Any], dialect: Dialect) -> Processor | None:
    return kind.dialect_impl(dialect).result_processor(dialect, None)
