"""Rows of an SQL table or view, page by page after a place. The only module that imports SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError, SQLAlchemyError

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record
from complex_system.errors import SourceTableError, SourceUnavailableError
from complex_system.sources.base import Part
from complex_system.sources.cursor import Place
from complex_system.sources.notation import Notation
from complex_system.sources.replay import listed
from complex_system.sources.values import values

_UTC_SESSION = {"mysql", "mariadb"}
"""Dialects whose TIMESTAMP is read in the session's zone, in which an hour comes twice when summer time ends."""


@dataclass(frozen=True)
class SqlRow:
    """One row: where it is, and its values by declared column."""

    place: Place
    values: Record


class SqlTable:
    """A table or view with a cursor column, which only grows, and a key column, which is unique.

    Every method waits for the database, so it runs in a thread.

    Attributes:
        key: Name of the key column.
    """

    def __init__(self, url: str, table: str, cursor: str, key: str, dataset: Dataset) -> None:
        """Look at the table's columns.

        Args:
            url: SQLAlchemy's URL of the database. It is in no message, because it may hold a password.
            table: Name of the table or view, after a point where it is in a schema.
            cursor: Name of the cursor column.
            key: Name of the key column; empty for that of the records, or the primary key.
            dataset: Declares the columns that are read.

        Raises:
            SourceTableError: The URL, the driver, the table or its columns are not as they should be.
            SourceUnavailableError: The database does not answer.
        """
        self._name = table
        self._dataset = dataset
        self._engine = _engine(url)
        try:
            self._look_at(table, cursor, key)
        except BaseException:
            self.close()
            raise

    def page(self, after: Place | None, limit: int) -> list[SqlRow]:
        """Return at most ``limit`` rows after a place, by cursor and key; from the first one for None.

        Raises:
            SourceTableError: A row has no key, or two have the same one.
            SourceUnavailableError: The database does not answer.
        """
        cursor, key = self._cursor_column, self._key_column
        query = sa.select(cursor, key, *(self._table.c[name] for name in self._wanted)).where(cursor.is_not(None))
        if after is not None:
            query = query.where(cursor >= after.cursor)
            if after.key is not None:
                query = query.where(sa.or_(cursor > after.cursor, key > after.key))
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(query.order_by(cursor, key).limit(limit)).all()
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error
        places = [Place(row[0], row[1]) for row in rows]
        if len({place.key for place in places} - {None}) < len(places):
            raise SourceTableError(
                f"The column '{self.key}' of '{self._name}' is empty or the same in several rows; name one that is unique and NOT "
                "NULL in COMPLEX_SYSTEM_SOURCE_TABLE_UNIQUE."
            )
        columns = {name: [row[2 + at] for row in rows] for at, name in enumerate(self._wanted)}
        return [SqlRow(place, value) for place, value in zip(places, self._values(columns, len(rows)), strict=True)]

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _look_at(self, table: str, cursor: str, key: str) -> None:
        """Choose the columns that are read."""
        schema, _, name = table.rpartition(".")
        try:
            inspector = sa.inspect(self._engine)
            columns = [column["name"] for column in inspector.get_columns(name, schema or None)]
            primary = inspector.get_pk_constraint(name, schema or None)["constrained_columns"]
        except NoSuchTableError as error:
            raise SourceTableError(f"The database has no table or view '{table}', or its user may not read it.") from error
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error
        self.key = self._checked(columns, cursor, key, primary)
        self._record_key = next((each for each in (self._dataset.id or ID, ID) if each in columns), None)
        wanted = [column for column in (self._record_key, *self._dataset.by_name) if column in columns]
        self._table = sa.table(name, *map(sa.column, dict.fromkeys([cursor, self.key, *wanted])), schema=schema or None)
        self._cursor_column, self._key_column = self._table.c[cursor], self._table.c[self.key]
        self._wanted = wanted

    def _values(self, columns: Mapping[str, Sequence[Any]], count: int) -> list[Record]:
        """Return the values as the declared columns have them, as for a file."""
        declared = self._dataset.by_name
        read = {name: values(_series(name, found), declared.get(name), Notation()) for name, found in columns.items()}
        rows = Part(list(range(count)), read, {}).rows(range(count))
        made = [row for row in rows if isinstance(row, dict)]
        if self._record_key not in (None, self._dataset.id or ID):
            for row in made:
                row[self._dataset.id or ID] = row.pop(str(self._record_key))
        return made

    def _checked(self, columns: list[str], cursor: str, key: str, primary: list[str]) -> str:
        """Return the key column; raise where a column is missing."""
        declared = self._dataset.by_name
        missing = [name for name, column in declared.items() if not column.optional and name not in columns]
        if missing:
            raise SourceTableError(
                f"The table '{self._name}' lacks the column(s) {listed(missing)}; it has {listed(columns)}. Rename them in a view, or "
                "give them 'optional: true' and a fill in the declaration."
            )
        if cursor not in columns:
            raise SourceTableError(
                f"COMPLEX_SYSTEM_SOURCE_TABLE_CURSOR names '{cursor}', which '{self._name}' does not have; it has {listed(columns)}."
            )
        if not key:
            own = [name for name in (self._dataset.id, ID) if name in columns]
            key = own[0] if own else primary[0] if len(primary) == 1 else ""
        if key not in columns:
            said = f"names '{key}', which it does not have" if key else "is empty, and it has no primary key of one column"
            raise SourceTableError(
                f"The table '{self._name}' needs a unique column in COMPLEX_SYSTEM_SOURCE_TABLE_UNIQUE, which {said}; its columns are "
                f"{listed(columns)}."
            )
        return key

    def _unavailable(self, error: SQLAlchemyError) -> SourceUnavailableError:
        # The driver's own text; SQLAlchemy's has the statement and its values, too.
        reason = str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0]
        return SourceUnavailableError(f"The database of the table '{self._name}' does not answer: {reason}")


def _engine(url: str) -> sa.Engine:
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, pool_size=1)
    except SQLAlchemyError as error:
        raise SourceTableError(
            "COMPLEX_SYSTEM_SOURCE_TABLE_URL is not a URL of SQLAlchemy, such as mariadb+mariadbconnector://user:password@host/database."
        ) from error
    except ModuleNotFoundError as error:
        raise SourceTableError(
            f"The driver '{error.name}' that COMPLEX_SYSTEM_SOURCE_TABLE_URL names is not installed; install it, or name another one."
        ) from error
    if engine.dialect.name in _UTC_SESSION:
        sa.event.listen(engine, "connect", _set_utc)
    return engine


def _set_utc(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("SET time_zone = '+00:00'")
    cursor.close()


def _series(name: str, found: Sequence[Any]) -> pl.Series:
    """Return values of a driver as a series of one type; as texts where they have several."""
    plain = [_plain(value) for value in found]
    try:
        return pl.Series(name, plain, strict=True)
    except (TypeError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if value is None else str(value) for value in plain], pl.String)


def _plain(value: Any) -> Any:
    """Return a value of a driver as files have it: moments in UTC, no bytes and no spans of time."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, bool | int | float | Decimal | date | str | list):
        return value
    return str(value)
