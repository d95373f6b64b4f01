"""Copies of a data set's tables in MariaDB: rows as Arrow columns, and the statements that create the tables."""

# ruff: noqa: S608 - the names in these statements are our own

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.errors import BackupError
from complex_system.settings import Settings
from complex_system.storage.arrow import table_of
from complex_system.storage.copies import COPY_ROWS, PROCESSED, RAW, REJECTED, Sink, Source, StoreCopy, copied_tables
from complex_system.storage.envelope import PIPELINE
from complex_system.storage.maria.literals import texts_of
from complex_system.storage.maria.pool import MariaConnections, change, select, select_in_parts
from complex_system.storage.maria.sql import quoted
from complex_system.storage.naming import TableNames

_TYPES = {
    "double": pa.float64(),
    "bigint": pa.int64(),
    "int": pa.int64(),
    "tinyint": pa.int8(),
    **dict.fromkeys(("varchar", "text", "mediumtext", "longtext"), pa.string()),
    "binary": pa.binary(),
    "timestamp": pa.timestamp("us"),
}


class MariaCopy(StoreCopy):
    """Everything is read in one transaction, which sees the tables as they were when it began."""

    label: ClassVar[str] = "MariaDB"

    def __init__(self, settings: Settings) -> None:
        self._connections = MariaConnections(settings)
        self.address = self._connections.address
        names = TableNames.of(settings.table_prefix)
        self._tables = copied_tables(names)
        self._counts = names.counts

    @override
    async def open(self) -> None:
        self._connections.open()
        self._connections.create_database()

    @override
    async def close(self) -> None:
        self._connections.close()

    @override
    async def counts(self) -> dict[str, int]:
        def count(connection: Any) -> dict[str, int]:
            there = self._there(connection)
            counts = {name: select(connection, f"SELECT COUNT(*) FROM {table}", ())[0][0] for name, table in there.items()}
            return {name: int(rows) for name, rows in counts.items() if rows}

        return await self._connections.alone(count)

    @override
    async def read(self, sink: Sink) -> dict[str, str]:
        def read(connection: Any) -> dict[str, str]:
            definitions = {}
            change(connection, "SET time_zone = '+00:00'")
            change(connection, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            change(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            for name, table in self._there(connection).items():
                schema, key = _schema(connection, table), ", ".join(map(quoted, _key(connection, table)))
                columns = ", ".join(map(quoted, schema.names))
                [(expected,)] = select(connection, f"SELECT COUNT(*) FROM {table}", ())
                statement = f"SELECT {columns} FROM {table} ORDER BY {key}"
                for rows in select_in_parts(connection, statement, rows=COPY_ROWS, buffered=False):
                    sink(name, table_of(zip(*rows, strict=True), schema))
                    expected -= len(rows)
                if expected:
                    raise BackupError(f"Reading {table} was ended before its last {expected} rows; begin again.")
                # The transaction has read the table, so nobody can have changed its columns.
                definitions[name] = select(connection, f"SHOW CREATE TABLE {table}", ())[0][1]
            return definitions

        return await self._connections.alone(read)

    @override
    async def write(self, definitions: Mapping[str, str], source: Source) -> int:
        def write(connection: Any) -> int:
            change(connection, "SET time_zone = '+00:00'")
            change(connection, f"DROP TABLE IF EXISTS {self._counts}")  # the next start counts
            for name, table in self._tables.items():
                if name not in definitions:
                    continue
                change(connection, f"DROP TABLE IF EXISTS {table}")
                change(connection, _creating(definitions[name], table))
                for part in source(name):
                    columns = ", ".join(map(quoted, part.column_names))
                    for text in texts_of(part):
                        change(connection, f"INSERT INTO {table} ({columns}) VALUES {text}")
                    connection.commit()
            return self._take_off_marks(connection) if {PROCESSED, REJECTED, RAW} <= set(definitions) else 0

        return await self._connections.alone(write)

    @override
    async def discard(self) -> None:
        def drop(connection: Any) -> None:
            for table in (*self._tables.values(), self._counts):
                change(connection, f"DROP TABLE IF EXISTS {table}")

        await self._connections.alone(drop)

    def _there(self, connection: Any) -> dict[str, str]:
        found = select(connection, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()", ())
        # Where the server folds the names of tables, it lists them in lower case.
        present = {str(table).casefold() for (table,) in found}
        return {name: table for name, table in self._tables.items() if table.casefold() in present}

    def _take_off_marks(self, connection: Any) -> int:
        raw, processed, rejected = (self._tables[name] for name in (RAW, PROCESSED, REJECTED))
        return change(
            connection,
            f"UPDATE {raw} AS raw LEFT JOIN {processed} AS processed USING ({ID}) LEFT JOIN {rejected} AS rejected USING ({ID}) "
            f"SET raw.{PIPELINE} = '' WHERE raw.{PIPELINE} <> '' AND raw.{PIPELINE} <> COALESCE(processed.{PIPELINE}, '') "
            f"AND raw.{PIPELINE} <> COALESCE(rejected.version, '')",
        )


def _schema(connection: Any, table: str) -> pa.Schema:
    """Return the Arrow types of a table's columns.

    Raises:
        BackupError: A column is of a type that we do not create.
    """
    found = select(
        connection,
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position",
        (table,),
    )
    for name, kind in found:
        if kind.lower() not in _TYPES:
            raise BackupError(
                f"The column '{name}' of {table} is of the type {kind}, which no release creates; it is not copied."
            )
    return pa.schema([pa.field(name, _TYPES[kind.lower()]) for name, kind in found])


def _key(connection: Any, table: str) -> list[str]:
    found = select(
        connection,
        "SELECT column_name FROM information_schema.statistics "
        "WHERE table_schema = DATABASE() AND table_name = ? AND index_name = 'PRIMARY' ORDER BY seq_in_index",
        (table,),
    )
    return [column for (column,) in found]


def _creating(definition: str, table: str) -> str:
    """Return the statement that creates a table, under the name that it has in this deployment.

    Raises:
        BackupError: It is another statement.
    """
    head, found, rest = definition.partition(" (")
    if not found or not head.startswith("CREATE TABLE `"):
        raise BackupError(f"The definition of {table} in the backup is not a CREATE TABLE statement.")
    return f"CREATE TABLE {table} ({rest}"
