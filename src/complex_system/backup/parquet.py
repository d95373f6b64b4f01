"""A copy of the database as Parquet files: compressed, of bounded size, one row a record."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from complex_system.backup.manifest import Say
from complex_system.errors import BackupError
from complex_system.storage.copies import COPY_ROWS

FILE_BYTES = 64 * 1024 * 1024
"""Uncompressed size at which the next file begins ..."""
GROUP_BYTES = 8 * 1024 * 1024
"""... and the next group of rows in a file, which is held in memory."""
_SECONDS = 5.0


class TablesWriter:
    """Writes the rows of tables; ``add`` is the sink of a :class:`~complex_system.storage.copies.StoreCopy`.

    Attributes:
        rows: Rows by table so far.
    """

    def __init__(self, folder: Path, totals: dict[str, int], say: Say) -> None:
        """Prepare it.

        Args:
            folder: Where the files go.
            totals: How many rows there were when the copy began, for the progress.
            say: Shows the progress.
        """
        self.rows: Counter[str] = Counter()
        self._folder = folder
        self._progress = Progress("copied", totals, say)
        self._stopped = threading.Event()
        self._waiting: list[pa.Table] = []
        self._name = ""
        self._file: pq.ParquetWriter | None = None
        self._files = self._written = 0
        folder.mkdir(parents=True)

    def add(self, name: str, table: pa.Table) -> None:
        """Take rows of a table; the tables come one after the other.

        Raises:
            BackupError: The backup was given up.
        """
        if self._stopped.is_set():
            raise BackupError("The backup was stopped.")
        if name != self._name:
            self._end_file()
            self._name, self._files = name, 0
        self._waiting.append(table)
        if sum(each.nbytes for each in self._waiting) >= GROUP_BYTES:
            self._write_group()
        self.rows[name] += table.num_rows
        self._progress.show(name, self.rows[name])

    def stop(self) -> None:
        """Have the next :meth:`add` fail, which may be called in a thread that nothing else can end."""
        self._stopped.set()

    def close(self) -> None:
        """Write what is left."""
        self._end_file()

    def _write_group(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        self._waiting.clear()
        if self._file is None:
            self._files += 1
            path = self._folder / f"{self._name}-{self._files:05}.parquet"
            self._file, self._written = pq.ParquetWriter(path, table.schema, compression="zstd"), 0
        self._file.write_table(table)
        self._written += table.nbytes
        if self._written >= FILE_BYTES:
            self._file.close()
            self._file = None

    def _end_file(self) -> None:
        self._write_group()
        if self._file is not None:
            self._file.close()
            self._file = None


class TablesReader:
    """Reads what :class:`TablesWriter` wrote; ``rows`` is the source of a :class:`~complex_system.storage.copies.StoreCopy`."""

    def __init__(self, folder: Path, totals: dict[str, int], say: Say) -> None:
        self._folder = folder
        self._progress = Progress("restored", totals, say)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Have whoever reads fail, which may be in a thread that nothing else can end."""
        self._stopped.set()

    def rows(self, name: str) -> Iterator[pa.Table]:
        """Yield the rows of a table."""
        done = 0
        for path in sorted(self._folder.glob(f"{name}-*.parquet")):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(COPY_ROWS):
                    if self._stopped.is_set():
                        raise BackupError("The restoration was stopped.")
                    yield pa.Table.from_batches([batch])
                    done += batch.num_rows
                    self._progress.show(name, done)


class Progress:
    """Says every few seconds how many rows of a table are done."""

    def __init__(self, done: str, totals: dict[str, int], say: Say) -> None:
        self._done, self._totals, self._say = done, totals, say
        self._next = time.monotonic() + _SECONDS

    def show(self, name: str, rows: int) -> None:
        """Say it if it is time to."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            total = max(rows, self._totals.get(name, 0))
            self._say(f"{name}: {rows:,} of about {total:,} {self._done}")
