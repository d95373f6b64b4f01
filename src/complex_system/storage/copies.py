"""Copies of all that one data set has in a database, as it is there, with the columns of earlier declarations.

Results are read before raw records, and the marks of raw records are compared with the results when a copy is written: a record whose
result is not in the copy, because it was processed while the copy was made, waits and is processed again. So a copy that is made while
records flow fits together, in databases with snapshots and without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import ClassVar

import pyarrow as pa

from complex_system.storage.naming import TableNames

PROCESSED, REJECTED, RAW = "processed", "rejected", "raw"
COPY_ROWS = 500
"""Rows that are read and written at a time."""

Sink = Callable[[str, pa.Table], None]
"""Takes rows of a table, named as in ``TableNames``; it blocks while it writes them."""
Source = Callable[[str], Iterator[pa.Table]]
"""Gives the rows of a table."""


def copied_tables(names: TableNames) -> dict[str, str]:
    """Return the names of the tables or collections by their names in a copy, in the order in which they are read and written."""
    present = {name: table for name, table in asdict(names).items() if name not in ("backlog", "counts")}
    return {name: present[name] for name in sorted(present, key=lambda name: (name == RAW, name))}


class StoreCopy(ABC):
    """Reads and writes copies of one data set in one database; ``tests/contract/test_copies.py`` holds both backends to it.

    The methods raise ``StoreUnavailableError`` as those of :class:`~complex_system.storage.base.DataStore` do.
    """

    label: ClassVar[str]
    """The database's name: ``MongoDB`` or ``MariaDB``."""

    address: str
    """``host:port`` of the database, for messages."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; nothing is changed."""

    @abstractmethod
    async def close(self) -> None:
        """Release the connections; no error if there are none."""

    @abstractmethod
    async def counts(self) -> dict[str, int]:
        """Return the number of rows of each table that is there and not empty."""

    @abstractmethod
    async def read(self, sink: Sink) -> dict[str, str]:
        """Pass all rows to ``sink``, table by table and by key; an exception of the sink ends it.

        Returns:
            The statements that create the tables; none where a database needs none.
        """

    @abstractmethod
    async def write(self, definitions: Mapping[str, str], source: Source) -> int:
        """Write a copy in the place of tables that are empty, and take off the marks that have no result in it.

        Args:
            definitions: What :meth:`read` returned.
            source: Gives the rows; an exception of it ends the writing.

        Returns:
            Number of raw records whose marks were taken off: they wait.
        """

    @abstractmethod
    async def discard(self) -> None:
        """Delete all that :meth:`write` has written: for a copy that could not be written to its end."""
