"""A file of raw records, read again and again with the same keys, in bounded batches.

CSV, spreadsheets, JSON lines and Parquet (``sources.tables``). Columns are found by their declared names. A row without a key gets
one that follows from the file's content and the row's number, so that the same file read again is the same records.
"""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import row_key
from complex_system.domain.records import Record, raw_check
from complex_system.errors import InvalidRecordError, SourceFileError
from complex_system.sources.dialect import too_long
from complex_system.sources.packed import kind_of_file
from complex_system.sources.tables import CHUNK_ROWS, Table, table_at

_MOST_HINTS = 5


@dataclass(frozen=True)
class Row:
    """One row of the file.

    Attributes:
        number: Place in the file, from 1; a header is not counted.
        record: The raw record with its key; empty when the row is faulty.
        fault: Why the row is no record of the data set; empty when it is one.
        key_made: Whether the key was made here, because the row has none.
    """

    number: int
    record: Record
    fault: str = ""
    key_made: bool = False


class ReplayFile:
    """A file whose columns fit the declared data set.

    Attributes:
        path: Where it is.
        rows: How many rows it has, faulty ones included.
        absent: Declared columns that may be missing, and that the file does not have.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        """Opens the file and reads it once, for its columns, its number of rows and its digest; this takes a while.

        Raises:
            SourceFileError: It is not there, of no known format, damaged, or its columns are not the declared ones.
        """
        self.path = path
        self._dataset = dataset
        self._check = raw_check(dataset)
        with readable(path):
            with path.open("rb") as file:
                self._digest = hashlib.file_digest(file, "sha256").digest()
            self._table: Table = table_at(path)
            names, self.rows = self._table.outline()
        self.absent = self._require_columns(names)

    def batches(self, size: int) -> Iterator[list[Row]]:
        """The rows in the order of the file, at most ``size`` at once; the last batch may be smaller.

        Raises:
            SourceFileError: The file cannot be read to its end.
        """
        rows = self._rows(max(size, CHUNK_ROWS))
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _rows(self, chunk: int) -> Iterator[Row]:
        key = self._key
        columns = {key: None, **{column.name: column for column in self._dataset.columns}}
        with readable(self.path):
            for numbers, values in self._table.chunks(columns, chunk):
                for number, value in zip(numbers, values, strict=True):
                    yield self._row(number, value)

    def _row(self, number: int, value: Record | str) -> Row:
        if isinstance(value, str):
            return Row(number, {}, value)
        key = value.pop(self._key, None)
        if self._dataset.id and isinstance(key, int):
            key = str(key)
        value[ID] = row_key(self._digest, number) if key is None else key
        try:
            (record,) = self._check([value])
        except InvalidRecordError as error:
            return Row(number, {}, reason(error.faults[0]))
        return Row(number, record, key_made=key is None)

    @property
    def _key(self) -> str:
        return self._dataset.id or ID

    def _require_columns(self, names: list[str]) -> tuple[str, ...]:
        declared = {column.name: column for column in self._dataset.columns}
        unknown = [name for name in names if name != self._key and name not in declared]
        missing = [name for name, column in declared.items() if not column.optional and name not in names]
        absent = tuple(name for name in declared if name not in names)
        faults, advice = [], ""
        if unknown:
            faults.append(f"has unknown column(s) {_listed(unknown)}")
            free = absent if self._key in names or not self._dataset.id else (*absent, self._key)
            advice += "".join(f" {same}" for name in unknown[:_MOST_HINTS] if (same := _same_column(name, free)))
            advice += " Declare what is unknown (unused: type text, and in the step drop), or take it out of the file."
        if missing:
            faults.append(f"lacks the column(s) {_listed(missing)}")
            advice += " What is lacking needs another name in the declaration, or 'optional: true' and a fill."
        if faults:
            raise SourceFileError(
                f"The file {self.path} {' and '.join(faults)}; the data set '{self._dataset.name}' declares "
                f"{_listed(list(declared))}, and '{self._key}' may be there as the key.{advice}"
            )
        return absent


def reason(fault: dict[str, Any]) -> str:
    """A fault of a record in words, without its place."""
    return (f"field '{fault['field']}': " if fault.get("field") else "") + str(fault["problem"])


def _same_column(name: str, declared: Sequence[str]) -> str:
    """A hint where a declared column that the file does not have is probably this one under another name."""
    plain = unicodedata.normalize("NFC", name).strip()
    twin = next((each for each in declared if unicodedata.normalize("NFC", each).strip() == plain), None)
    if twin is not None:
        return f"'{name}' looks like the declared '{twin}' and is of other characters: copy the name out of the file."
    near = difflib.get_close_matches(name, declared, 1)
    return f"Is '{name}' the declared '{near[0]}'?" if near else ""


def _listed(names: list[str], most: int = 30) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name[:80]}'" for name in names[:most]) + more


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """The one place where errors of reading become ours."""
    try:
        yield
    except OSError as error:
        raise SourceFileError(f"The file {path} cannot be read: {error.strerror or error}.") from error
    except pl.exceptions.NoDataError as error:
        raise SourceFileError(
            f"The file {path} is empty; its first line has to name the columns, each further one is a record."
        ) from error
    except pl.exceptions.PolarsError as error:
        if "more fields" in str(error):
            raise SourceFileError(f"The file {path} cannot be read as {kind_of_file(path)}: {too_long(path)}.") from error
        text = str(error).partition("\n")[0]
        raise SourceFileError(f"The file {path} cannot be read as {kind_of_file(path)}: {text}.") from error
