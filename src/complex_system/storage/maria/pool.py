"""Connections to MariaDB: a pool in threads, statements, lost connections, deadlocks, and the translation of the driver's errors.

The only module that imports the driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import mariadb

from complex_system.errors import DeclarationError, InvalidRecordError, StoreUnavailableError
from complex_system.settings import Settings

T = TypeVar("T")
Work = Callable[[Any], T]
Row = tuple[Any, ...]

# Only these say that a record itself is wrong: NULL, another record's value in a unique index, out of range, not of the type,
# truncated, too long, not in this character set, refused by a CHECK, larger than a row or a statement may be.
_OF_THE_RECORD = {1048, 1062, 1118, 1153, 1264, 1265, 1292, 1300, 1301, 1366, 1367, 1406, 1411, 1690, 4025}
# No connection, or one that is lost.
_NO_CONNECTION = {1040, 1044, 1045, 1049, 1053, 1077, 1129, 1130, 1152, 1158, 1159, 1160, 1161, 1203, 1226, 1927,
                  2002, 2003, 2005, 2006, 2012, 2013, 2026, 2027, 2055}  # fmt: skip
# No record can be the reason: the disk, memory, locks, rights, the tables themselves; below 1000 it is the operating system's. With
# all others a record may be the reason.
_OF_THE_SERVER = {1005, 1021, 1025, 1026, 1028, 1030, 1034, 1035, 1036, 1037, 1038, 1041, 1054, 1099, 1100, 1114, 1136, 1142, 1143,
                  1146, 1180, 1181, 1192, 1194, 1195, 1205, 1206, 1213, 1223, 1290, 1317, 1364, 1637, 1712, 1792, 1812, 1813, 1814,
                  1815, 1836, 1877, 1878, 1932, 1969, *range(1, 1000)}  # fmt: skip
_UNKNOWN_DATABASE = 1049
_OF_ANOTHER_RECORD = 1242  # the subquery of ``sql._same_key`` has two rows; no other one of ours can
_REPEATABLE = {1205, 1213}  # lock wait time-out, deadlock: the server rolled back, the same work may be done again
_TOO_WIDE = {1117, 1118}  # too many columns, too large a row or definition; InnoDB's own is 1005 with the number 185
_TOO_MANY_OF_INNODB = "errno: 185"
_REPEATS = 8
_PATIENCE = 3600
ONE_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
"""As the first statement of some work: all of its queries read what was there at the first of them."""
FEW_ROWS = 500
"""Rows that are Python's objects at the same time: below the 700 that its garbage collector looks through, and soon reused."""
_ROWS_A_STATEMENT = 250  # the connector holds the interpreter while it packs them: 12 ms


class MariaConnections:
    """A bounded number of connections, each used by one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self.address = f"{settings.maria_host}:{settings.maria_port}"
        self._name = f"MariaDB at {self.address}"
        self._settings = settings
        self._idle: deque[Any] = deque()
        self._threads: ThreadPoolExecutor | None = None
        self._patient: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Start the threads; a connection is made when it is needed."""
        self.close()
        self._threads = ThreadPoolExecutor(self._settings.maria_connections, thread_name_prefix="mariadb")
        self._patient = ThreadPoolExecutor(1, thread_name_prefix="mariadb-alone")

    def close(self) -> None:
        """Wait for statements in progress and close threads and connections."""
        for threads in (self._threads, self._patient):
            if threads is not None:
                threads.shutdown(cancel_futures=True)
        self._threads = self._patient = None
        self._discard_idle()

    async def run(self, work: Work[T]) -> T:
        """Run ``work(connection)`` in a thread as one transaction. It must be repeatable, because it is repeated after a deadlock.

        Raises:
            InvalidRecordError: The server says that a record is wrong; it is not named. Nothing was written.
            StoreUnavailableError: There is no connection, and no new one can be made, or the server fails for another reason.
        """
        if self._threads is None:
            raise StoreUnavailableError(f"{self._name} is not connected.")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, work)

    async def select(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return all rows of a query."""
        return await self.run(lambda connection: select(connection, statement, parameters))

    async def change(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement; return how many rows it changed."""
        return await self.run(lambda connection: change(connection, statement, parameters))

    async def alone(self, work: Work[T], wanted: str = "such a table") -> T:
        """Run ``work(connection)`` on a connection and thread of its own, where a statement may take an hour: for changes of tables.

        One after the other; :meth:`run` goes on meanwhile.

        Args:
            work: What to do.
            wanted: The purpose of the tables, for the error that they have too many columns.

        Raises:
            DeclarationError: A table would have more columns than MariaDB takes.
            StoreUnavailableError: There is no connection, or it was lost.
        """

        def patiently() -> T:
            try:
                with contextlib.closing(self._connect(read_timeout=_PATIENCE, write_timeout=_PATIENCE)) as connection:
                    result = work(connection)
                    connection.commit()
                    return result
            except mariadb.Error as error:
                if error.errno in _TOO_WIDE or _TOO_MANY_OF_INNODB in str(error):
                    raise DeclarationError(
                        f"MariaDB cannot keep {wanted}: a table takes 1,017 columns, 8,126 bytes a row (about 980 numbers or "
                        "features), and 64 KiB of definitions with each name twice. Columns of earlier declarations count. Declare "
                        "fewer columns, fewer categories to encode or shorter names, begin in a database of its own, or take "
                        f"MongoDB. MariaDB says: {error}"
                    ) from error
                raise self._translated(error) from error

        if self._patient is None:
            raise StoreUnavailableError(f"{self._name} is not connected.")
        return await asyncio.get_running_loop().run_in_executor(self._patient, patiently)

    def create_database(self) -> None:
        """Create the database if the server does not have it."""
        try:
            self._idle.append(self._connect())
        except mariadb.Error as error:
            if error.errno != _UNKNOWN_DATABASE:
                raise self._translated(error) from error
            name = self._settings.maria_name.replace("`", "``")
            try:
                with contextlib.closing(self._connect(database=None)) as connection:
                    connection.cursor().execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4")
            except mariadb.Error as refusal:
                raise self._translated(refusal) from refusal

    def _run(self, work: Work[T]) -> T:
        for attempt in range(_REPEATS):
            try:
                connection = self._idle.pop()
                used = True
            except IndexError:
                connection, used = None, False
            try:
                if connection is None:
                    connection = self._connect()
                result = work(connection)
                connection.commit()
            except mariadb.Error as error:
                _discard(connection)
                if error.errno in _REPEATABLE:
                    time.sleep(random.uniform(0.005, 0.05) * (attempt + 1))  # noqa: S311 - no secret
                    continue
                if error.errno not in _NO_CONNECTION:
                    raise self._translated(error) from error
                # If one connection is dead, so are the others, for instance after a restart of the server.
                self._discard_idle()
                if not used:
                    raise self._translated(error) from error
            except BaseException:
                _discard(connection)
                raise
            else:
                self._idle.append(connection)
                return result
        raise StoreUnavailableError(f"{self._name} was too busy with other writers; send the request again.")

    def _connect(self, **other: Any) -> Any:
        settings = self._settings
        options = {
            "host": settings.maria_host,
            "port": settings.maria_port,
            "user": settings.maria_user,
            "password": settings.maria_password,
            "database": settings.maria_name,
            "autocommit": False,
            "connect_timeout": 3,
            "read_timeout": 20,
            "write_timeout": 20,
            # Most reads need no snapshot beyond their statement, and writers of neighbouring keys do not wait for each other.
            "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            **other,
        }
        connection = mariadb.connect(**{name: value for name, value in options.items() if value is not None})
        # In a zone with daylight saving an hour comes twice, and FROM_UNIXTIME names both alike.
        change(connection, "SET time_zone = '+00:00'")
        return connection

    def _translated(self, error: Any) -> Exception:
        """Return our error for the driver's; the one place where it is done."""
        if error.errno == _OF_ANOTHER_RECORD:
            return InvalidRecordError(
                f"{self._name} refuses a record: a unique index, which is not ours, holds its value with another key. Drop the index, "
                "or make it one that is not unique."
            )
        if error.errno in _OF_THE_RECORD:
            return InvalidRecordError(f"{self._name} refuses a record: {error} (error {error.errno}).")
        if error.errno in _NO_CONNECTION:
            return StoreUnavailableError(f"{self._name} does not answer: {error}")
        message = f"{self._name} fails: {error} (error {error.errno})."
        return StoreUnavailableError(message, explained=error.errno in _OF_THE_SERVER, answered=True)

    def _discard_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                _discard(self._idle.pop())


def _discard(connection: Any) -> None:
    if connection is not None:
        with contextlib.suppress(mariadb.Error):
            connection.close()


def select(connection: Any, statement: str, parameters: Sequence[Any]) -> list[Row]:
    """Return all rows of a query."""
    # The binary protocol reads numbers six times as fast, and exactly. Unbuffered, the driver (1.1.14) does not raise an error that
    # comes while it fetches, such as a deadlock, or the end of a query by KILL QUERY or max_statement_time: it returns fewer rows, or
    # ends the process with values that are not objects. Nor is it faster.
    cursor = connection.cursor(binary=True, buffered=True)
    try:
        cursor.execute(statement, parameters)
        rows: list[Row] = cursor.fetchall()
        return rows
    finally:
        cursor.close()


def select_in_parts(
    connection: Any, statement: str, parameters: Sequence[Any] = (), rows: int = FEW_ROWS, *, buffered: bool = True
) -> Iterator[list[Row]]:
    """Yield the rows of a query, so many at a time; so few take a third less time than all.

    Args:
        connection: The connection.
        statement: The query.
        parameters: Its parameters.
        rows: Of a part.
        buffered: Whether all rows are in memory first, packed. Otherwise they may be fewer, without an error, where the query was
            ended (see :func:`select`): count them.
    """
    cursor = connection.cursor(binary=True, buffered=buffered)
    try:
        cursor.execute(statement, parameters)
        while part := cursor.fetchmany(rows):
            yield part
    finally:
        cursor.close()


def change(connection: Any, statement: str, parameters: Sequence[Any] = ()) -> int:
    """Run a statement; return how many rows it changed."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement, parameters)
        return int(cursor.rowcount)
    finally:
        cursor.close()


def change_each(connection: Any, statement: str, rows: Sequence[Row]) -> None:
    """Run a statement for every row in few round trips."""
    cursor = connection.cursor()
    try:
        for start in range(0, len(rows), _ROWS_A_STATEMENT):
            cursor.executemany(statement, rows[start : start + _ROWS_A_STATEMENT])
    finally:
        cursor.close()
