"""A file of raw records, read again and again with the same keys, in bounded batches, in an order of choice.

CSV, spreadsheets, JSON lines and Parquet (``sources.tables``). Columns are found by their declared names. A row without a key gets
one that follows from the file's content and the row's number, so the same file read again gives the same records.
"""

from __future__ import annotations

import difflib
import hashlib
import random
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import polars as pl

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.datetimes import TimeFormat
from complex_system.domain.keys import MAX_KEY, repeated_key, row_key, row_keys
from complex_system.domain.records import Record, raw_check
from complex_system.errors import SourceFileError
from complex_system.pipeline.expressions import frame_type
from complex_system.sources.base import CHUNK_ROWS, ROW, Columns, Part, Table
from complex_system.sources.dialect import file_type, too_long
from complex_system.sources.rows import Row, checked_rows
from complex_system.sources.tables import table_at
from complex_system.sources.values import Values, are_good

FILE_ORDER, SHUFFLED = "file", "shuffled"
MAX_ORDERED = 1_000_000
"""Rows of a file that is replayed in another order than its own: all of them are in memory then."""
_MAX_HINTS = 5


@dataclass(frozen=True)
class RecordFrame:
    """Some rows of the file, column by column.

    Attributes:
        records: Their numbers (``ROW``), keys and declared columns, in the types of the pipeline.
        faults: Why the other rows are not records of the data set, by number.
        keys_made: Records whose key was made here.
    """

    records: pl.DataFrame
    faults: Mapping[int, str]
    keys_made: int


@dataclass(frozen=True)
class FileVersion:
    """A file at one moment.

    Attributes:
        modified: When it was changed last, seconds since 1970: the order of its records.
        identity: Its exact time, its size and its place on the disk; another file has another one.
    """

    modified: float
    identity: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> FileVersion | None:
        """Return the version that is there; None where there is no file."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_mtime, (found.st_mtime_ns, found.st_size, found.st_ino))


class ReplayFile:
    """A file whose columns fit the declared data set.

    Attributes:
        path: Where it is.
        rows: How many rows it has, faulty ones included.
        keyed: Whether it has the key column.
        absent: Declared columns that may be missing, and that the file does not have.
        limits: How many values are beyond a limit, and what stands in for them, a sentence each.
        notes: What of the file is not a record, or read in a way of its own, a sentence each.
    """

    def __init__(self, path: Path, dataset: Dataset, table: Table | None = None, digest: bytes | None = None) -> None:
        """Open the file and read it once, for its columns, its number of rows and its digest; this takes a while.

        Args:
            path: The file.
            dataset: What its records are.
            table: The table in it, where it is open already.
            digest: What made keys follow from, instead of the file's content.

        Raises:
            SourceFileError: It does not exist, has an unknown format, is damaged, or its columns are not the declared ones.
        """
        self.path = path
        self._dataset = dataset
        self._key = dataset.id or ID
        self._columns: Columns = {self._key: None, **dataset.by_name}
        self._check = raw_check(dataset)
        with readable(path):
            if digest is None:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
            self._digest = digest
            # Without objects a table is the same whatever is declared.
            self._table = table if table and not table.nested else table_at(path, dataset.by_name)
            names, self.rows = self._table.outline()
            self.keyed = self._key in names
            self.absent, ignored = self._require_columns(names)
            self.limits = self._table.limits_in(dataset.columns)
            self.notes = (*self._table.notes, *self._losses(ignored))

    def batches(self, size: int) -> Iterator[list[Row]]:
        """Yield the rows in the order of the file, at most ``size`` at once; the last batch may be smaller.

        Raises:
            SourceFileError: The file cannot be read to its end.
        """
        with readable(self.path):
            chunks = self._table.chunks(self._columns, max(size, CHUNK_ROWS))
            rows = chain.from_iterable(self._checked(*chunk) for chunk in chunks)
            while batch := list(islice(rows, size)):
                yield batch

    def frames(self, size: int) -> Iterator[RecordFrame]:
        """Yield the same rows column by column, which is several times as fast."""
        with readable(self.path):
            for part in self._table.parts(self._columns, size):
                yield self._frame(part)

    def _frame(self, part: Part) -> RecordFrame:
        """Return the rows of a part: good values stay in their columns, and rows with another value are checked as in ``batches``."""
        empty = pl.repeat(None, len(part.numbers), dtype=pl.String, eager=True)
        keys = part.columns.get(self._key, Values(empty))
        good = (keys.series.str.len_bytes() <= MAX_KEY).fill_null(value=True)
        good = good.scatter([*keys.others, *part.faults], values=False)
        columns = [pl.Series(ROW, part.numbers, pl.Int64), keys.series.alias(ID)]
        for name, column in self._dataset.by_name.items():
            found, kind = part.columns.get(name, Values(empty)), frame_type(column)
            good &= are_good(found, column)
            columns.append((found.series if found.series.dtype == kind else pl.Series(empty, dtype=kind)).alias(name))
        frame = pl.DataFrame(columns).filter(good)
        made = (without_key := frame[ID].is_null()).arg_true()
        frame = frame.with_columns(frame[ID].scatter(made, row_keys(self._digest, frame[ROW].filter(without_key))))
        others = (~good).arg_true().to_list()
        rows = list(self._checked([part.numbers[place] for place in others], part.rows(others)))
        if records := [{**row.record, ROW: row.number} for row in rows if not row.fault]:
            looked_at = [pl.Series(name, [each[name] for each in records], kind) for name, kind in frame.schema.items()]
            frame = pl.concat([frame, pl.DataFrame(looked_at)]).sort(ROW)
        faults = {row.number: row.fault for row in rows if row.fault}
        return RecordFrame(frame, faults, len(made) + sum(row.key_made for row in rows))

    def _checked(self, numbers: list[int], values: list[Record | str]) -> Iterator[Row]:
        return checked_rows(numbers, values, self._dataset, self._check, partial(row_key, self._digest))

    def _losses(self, ignored: list[str]) -> Iterator[str]:
        """Say what of the file is not in its records."""
        if ignored:
            yield f"the fields of objects and lists {listed(ignored)} are not declared, and are ignored"
        declared = self._dataset.by_name
        for name in self._table.cut_times(declared):
            yield (
                f"the times of '{name}' are written as its format {declared[name].format} says, and the file has more of them, "
                "such as fractions of a second (%f)"
            )

    def _require_columns(self, names: list[str]) -> tuple[tuple[str, ...], list[str]]:
        """Return the declared columns that are absent, and fields of objects that are not declared."""
        declared = self._dataset.by_name
        undeclared = [name for name in names if name != self._key and name not in declared]
        missing = [name for name, column in declared.items() if not column.optional and name not in names]
        absent = tuple(name for name in declared if name not in names)
        free = absent if self._key in names or not self._dataset.id else (*absent, self._key)
        nested = self._table.nested if undeclared else frozenset[str]()
        # A field under another name would be missing in all records, without a fault.
        unknown = [name for name in undeclared if name not in nested or _similar_column(name, free)]
        faults, advice = [], ""
        if unknown:
            faults.append(f"has unknown column(s) {listed(unknown)}")
            advice += "".join(f" {hint}" for name in unknown[:_MAX_HINTS] if (hint := _similar_column(name, free)))
            advice += (
                " Declare the unknown columns (unused ones: type text, and in the step drop), or take them out of the file."
            )
        if missing:
            faults.append(f"lacks the column(s) {listed(missing)}")
            advice += " Rename the missing columns in the declaration, or give them 'optional: true' and a fill."
        if faults:
            raise SourceFileError(
                f"The file {self.path} {' and '.join(faults)}; the data set '{self._dataset.name}' declares "
                f"{listed(list(declared))}, and '{self._key}' may be there as the key.{advice}"
            )
        return absent, [name for name in undeclared if name not in unknown]


class Replay:
    """A file in a chosen order, as often as needed."""

    def __init__(self, file: ReplayFile, dataset: Dataset, order: str = FILE_ORDER, seed: int = 1) -> None:
        """Prepare the replay.

        Args:
            file: The file.
            dataset: What its records are.
            order: ``file``, ``shuffled``, or the name of a declared column of type ``datetime``.
            seed: Of the shuffling; every repetition is shuffled anew.

        Raises:
            SourceFileError: The order is not known, or the file is too large for another order than its own.
        """
        self._file = file
        self._order = order
        self._seed = seed
        self._time = None if order in (FILE_ORDER, SHUFFLED) else _time_format(dataset, order)
        if order != FILE_ORDER and file.rows > MAX_ORDERED:
            raise SourceFileError(
                f"The file {file.path} has {file.rows:,} rows; at most {MAX_ORDERED:,} can be replayed in another order than "
                "the file's. Sort the file itself, or split it."
            )

    def batches(self, size: int, number: int = 1) -> Iterator[list[Row]]:
        """Yield the rows of one repetition, at most ``size`` at once.

        Args:
            size: Of a batch.
            number: Of the repetition, from 1; from the second on the records have keys of their own.

        Raises:
            SourceFileError: The file cannot be read to its end.
        """
        if self._order == FILE_ORDER:
            for batch in self._file.batches(size):
                yield [_repeated(row, number) for row in batch]
            return
        rows = list(chain.from_iterable(self._file.batches(CHUNK_ROWS)))
        if self._order == SHUFFLED:
            random.Random(f"{self._seed} {number}").shuffle(rows)  # noqa: S311 - an order, no secret
        else:
            rows.sort(key=self._place)
        for start in range(0, len(rows), size):
            yield [_repeated(row, number) for row in rows[start : start + size]]

    def _place(self, row: Row) -> tuple[bool, tuple[int, ...]]:
        """Return what rows are sorted by: the time; rows without one come last, in the order of the file."""
        assert self._time is not None
        text = row.record.get(self._order)
        parts = self._time.parts(text) if isinstance(text, str) else None
        if parts is None:
            return True, (row.number,)
        moment = [parts[name] for name in ("year", "day_of_year", "hour", "minute", "second")]
        return False, (*moment, parts.get("fraction", 0), row.number)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into ours."""
    try:
        yield
    except OSError as error:
        raise SourceFileError(f"The file {path} cannot be read: {error.strerror or error}.") from error
    except pl.exceptions.NoDataError as error:
        raise SourceFileError(
            f"The file {path} is empty; its first line has to name the columns, each further line is a record."
        ) from error
    except pl.exceptions.PolarsError as error:
        text = too_long(path) if "more fields" in str(error) else str(error).partition("\n")[0]
        raise SourceFileError(f"The file {path} cannot be read as {file_type(path)}: {text}.") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # each library in Rust has its own, which is no Exception
            raise
        raise SourceFileError(f"The file {path} cannot be read as {file_type(path)}: it is damaged.") from error


def _time_format(dataset: Dataset, order: str) -> TimeFormat:
    times = {column.name: column for column in dataset.columns if column.type == "datetime"}
    if order not in times:
        named = f"({listed(list(times))})" if times else "(none is declared)"
        raise SourceFileError(
            f"The records cannot be ordered by '{order}'; allowed are '{FILE_ORDER}', '{SHUFFLED}' and a column of type datetime "
            f"{named}."
        )
    try:
        return TimeFormat(times[order].format)
    except ValueError as error:
        raise SourceFileError(f"The records cannot be ordered by the column '{order}': {error}.") from error


def _repeated(row: Row, number: int) -> Row:
    if number == 1 or row.fault:
        return row
    key = repeated_key(row.record[ID], number)
    if len(key) > MAX_KEY:
        return Row(row.number, {}, f"the key '{key}' of its repetition would have more than {MAX_KEY} characters")
    return Row(row.number, {**row.record, ID: key})


def _similar_column(name: str, declared: Sequence[str]) -> str:
    """Return a hint where a declared column that the file lacks is probably this one under another name."""
    plain = unicodedata.normalize("NFC", name).strip()
    if same := next((each for each in declared if unicodedata.normalize("NFC", each).strip() == plain), None):
        return f"'{name}' looks like the declared '{same}' but has other characters: copy the name out of the file."
    near = difflib.get_close_matches(name, declared, 1)
    return f"Is '{name}' the declared '{near[0]}'?" if near else ""


def listed(names: list[str], limit: int = 30) -> str:
    """Return names for a message, at most so many."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name[:80]}'" for name in names[:limit]) + more
