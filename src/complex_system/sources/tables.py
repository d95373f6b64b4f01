"""Tables in files: their columns, their rows in chunks, values as their declared column has them.

CSV and similar, Excel, JSON lines and Parquet; the one reader for replay and for ``describe-data``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from typing_extensions import override

from complex_system.domain.columns import Column
from complex_system.domain.types import column_type
from complex_system.errors import SourceFileError
from complex_system.sources.dialect import Dialect, as_utf8, decompressed, dialect_of, is_compressed
from complex_system.sources.values import has_decimal_commas, is_missing, values

CHUNK_ROWS = 5000
"""Rows that are in memory at once."""

_ROW = "__row__"
_SAMPLE_ROWS = 1000
_DUPLICATE = re.compile(r"(.+)_duplicated_\d+", re.DOTALL)
"""polars' name of the second column with the same name."""
_NUMBERED = re.compile(r"(.+)_\d+", re.DOTALL)
"""The same in a spreadsheet, where a column may have such a name itself."""

Columns = Mapping[str, Column | None]
"""The columns to read, by name; None stands for a text."""
Value = dict[str, Any] | str
"""A row by column name, or the reason why it could not be read."""


class Table(ABC):
    """A table in a file."""

    def __init__(self, path: Path, shown: Path | None = None) -> None:
        """Make a table; nothing is read yet.

        Args:
            path: The file to read.
            shown: The file's name in messages, where ``path`` is a decompressed copy of it.
        """
        self.path = path
        self.shown = shown or path

    @abstractmethod
    def outline(self) -> tuple[list[str], int]:
        """Return the names of all columns, and the number of rows."""

    @abstractmethod
    def chunks(self, columns: Columns, size: int) -> Iterator[tuple[list[int], list[Value]]]:
        """Yield numbers (from 1) and values of at most ``size`` rows at a time, in order.

        Values are as the declared column has them (``sources.values``); empty fields and NaN are missing, so None. A value that does
        not fit its declared column is passed on unchanged.
        """

    @abstractmethod
    def frame(self) -> pl.DataFrame:
        """Return all rows, in the types of the file; texts where it has none."""

    @property
    def decimal_commas(self) -> bool:
        """Whether numbers in texts are written 1,5."""
        return False


class FrameTable(Table):
    """A table that polars reads lazily."""

    @override
    def outline(self) -> tuple[list[str], int]:
        frame = self._scan()
        names = frame.collect_schema().names()
        return names, int(self._rows(frame, names).select(pl.len()).collect(engine="streaming").item())

    @override
    def chunks(self, columns: Columns, size: int) -> Iterator[tuple[list[int], list[Value]]]:
        frame = self._scan()
        names = frame.collect_schema().names()
        frame = self._rows(frame.with_row_index(_ROW, 1), names)
        fields = [name for name in columns if name in names]
        for chunk in frame.collect_batches(chunk_size=size, lazy=True):
            read = [self._values(chunk[name], columns[name]) for name in fields]
            yield chunk[_ROW].to_list(), [dict(zip(fields, row, strict=True)) for row in zip(*read, strict=True)]

    @override
    def frame(self) -> pl.DataFrame:
        frame = self._scan()
        return self._rows(frame, frame.collect_schema().names()).collect()

    @abstractmethod
    def _scan(self) -> pl.LazyFrame:
        """Return the columns of the file."""

    def _rows(self, frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        return frame

    def _values(self, series: pl.Series, column: Column | None) -> list[Any]:
        wanted_list = column is not None and column_type(column).is_list
        if (series.dtype.is_nested() and not wanted_list) or series.dtype in (pl.Binary, pl.Object):
            raise SourceFileError(
                f"The file {self.shown} has the column '{series.name}' of type {series.dtype}, which does not hold numbers or texts."
            )
        return values(series, column, decimal_commas=self.decimal_commas)


class CsvTable(FrameTable):
    """CSV with a header, of any usual separator and encoding. Fields are read as texts: a guess would make a 0 of 00000000."""

    @cached_property
    def dialect(self) -> Dialect:
        """How the file is written."""
        return dialect_of(self.path, self.shown)

    @property
    @override
    def decimal_commas(self) -> bool:
        return self.dialect.decimal_commas

    @cached_property
    def _readable(self) -> Path:
        if self.dialect.encoding == "utf-8-sig":
            return self.path
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        copy = Path(folder) / "utf-8.csv"
        as_utf8(self.path, self.dialect, copy)
        return copy

    @override
    def _scan(self) -> pl.LazyFrame:
        frame = pl.scan_csv(self._readable, infer_schema=False, glob=False, separator=self.dialect.separator)
        names = frame.collect_schema().names()
        duplicates = [name for name in names if (match := _DUPLICATE.fullmatch(name)) and match[1] in names]
        if duplicates:
            name = _DUPLICATE.sub(r"\1", duplicates[0])
            raise SourceFileError(
                f"The file {self.shown} has the column '{name}' more than once; give each a name of its own."
            )
        if "" not in names:
            return frame
        # Programs write an empty header above their row numbers.
        new = next(name for name in (f"column {number}" for number in range(1, len(names) + 2)) if name not in names)
        return frame.rename({"": new})

    @override
    def _rows(self, frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        # All columns are read, so a row of another length is found before the first record is sent. Empty lines are not rows.
        return frame.filter(pl.any_horizontal(pl.col(names).is_not_null()))


class ParquetTable(FrameTable):
    """Parquet."""

    @override
    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=False)

    @cached_property
    def decimal_commas(self) -> bool:
        """Whether numbers in its texts are written 1,5."""
        return _commas(self._scan().head(_SAMPLE_ROWS).collect())


class ExcelTable(FrameTable):
    """The first sheet of an Excel or OpenDocument file, with a header; held in memory as a whole."""

    @cached_property
    def _sheet(self) -> pl.DataFrame:
        import fastexcel

        try:
            sheet = pl.read_excel(self.path, engine="calamine", infer_schema_length=None, raise_if_empty=False)
        except fastexcel.FastExcelError as error:
            text = str(error).partition("\n")[0].replace(str(self.path), str(self.shown))
            raise SourceFileError(f"The file {self.shown} cannot be read as {self.path.suffix[1:]}: {text}.") from error
        except IndexError as error:  # polars takes the first one
            raise SourceFileError(f"The file {self.shown} has no sheet.") from error
        if any((match := _NUMBERED.fullmatch(name)) and match[1] in sheet.columns for name in sheet.columns):
            self._refuse_duplicates()
        return sheet.with_columns(pl.col(pl.Null).cast(pl.String))

    def _refuse_duplicates(self) -> None:
        """Read the header itself: reading the sheet gives a number to the second column with the same name."""
        header = pl.read_excel(self.path, engine="calamine", has_header=False, read_options={"n_rows": 1}).row(0)
        duplicates = [name for place, name in enumerate(header) if name is not None and name in header[:place]]
        if duplicates:
            raise SourceFileError(
                f"The file {self.shown} has the column '{duplicates[0]}' more than once; give each a name of its own."
            )

    @cached_property
    def decimal_commas(self) -> bool:
        """Whether numbers in its texts are written 1,5."""
        return _commas(self._sheet.head(_SAMPLE_ROWS))

    @override
    def _scan(self) -> pl.LazyFrame:
        return self._sheet.lazy()

    @override
    def _rows(self, frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        return frame.filter(pl.any_horizontal(pl.col(names).is_not_null())) if names else frame


class LinesTable(Table):
    """JSON lines. Empty lines are not rows, but they count in the row numbers, which are line numbers."""

    @override
    def outline(self) -> tuple[list[str], int]:
        names: dict[str, None] = {}
        rows = 0
        for _, value in self._lines():
            rows += 1
            if isinstance(value, dict):
                names.update(dict.fromkeys(value))
        return list(names), rows

    @override
    def chunks(self, columns: Columns, size: int) -> Iterator[tuple[list[int], list[Value]]]:
        lines = self._lines()
        while chunk := list(islice(lines, size)):
            yield [number for number, _ in chunk], [_without_empty(value, columns) for _, value in chunk]

    @override
    def frame(self) -> pl.DataFrame:
        names, _ = self.outline()
        if "" in names:
            raise SourceFileError(f"The file {self.shown} has a column without a name; give it one.")
        rows = [value if isinstance(value, dict) else {} for _, value in self._lines()]
        return pl.DataFrame([_series(name, [row.get(name) for row in rows]) for name in names])

    def _lines(self) -> Iterator[tuple[int, Value]]:
        decode = msgspec.json.Decoder().decode
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.strip() if number > 1 else line.removeprefix(b"\xef\xbb\xbf").strip()
                if not text:
                    continue
                try:
                    value = decode(text)
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    yield number, f"is not JSON: {error}"
                    continue
                yield number, value if isinstance(value, dict) else "is not a JSON object"


_READERS: dict[str, type[Table]] = {
    ".csv": CsvTable, ".tsv": CsvTable, ".tab": CsvTable, ".txt": CsvTable,
    ".parquet": ParquetTable, ".pq": ParquetTable,
    ".xlsx": ExcelTable, ".xls": ExcelTable, ".xlsm": ExcelTable, ".xlsb": ExcelTable, ".ods": ExcelTable,
    ".jsonl": LinesTable, ".ndjson": LinesTable,
}  # fmt: skip


def table_at(path: Path) -> Table:
    """Return the table in a file, by the file's suffix.

    Raises:
        SourceFileError: The suffix is not known, or the file is a damaged gzip file.
    """
    if not is_compressed(path):
        return _reader(path, path)(path)
    folder = Path(tempfile.mkdtemp())  # for as long as the table is in use
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    try:
        copy = decompressed(path, folder)
        table = _reader(copy, path)(copy, path)
    except BaseException:
        remove()
        raise
    weakref.finalize(table, remove)
    return table


def _reader(path: Path, shown: Path) -> type[Table]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SourceFileError(
            f"The file {shown} ends with '{''.join(shown.suffixes[-2:]) if shown != path else path.suffix}'; known are .csv, .tsv, "
            ".tab and .txt (fields with a separator), .jsonl and .ndjson (JSON lines), .xlsx, .xlsm, .xlsb, .xls and .ods "
            "(spreadsheets), .parquet and .pq, each also with .gz."
        )
    return reader


def _commas(frame: pl.DataFrame) -> bool:
    texts = (text for series in frame.iter_columns() if series.dtype == pl.String for text in series.drop_nulls().to_list())
    return has_decimal_commas(texts)


def _series(name: str, found: list[Any]) -> pl.Series:
    """Return a column of JSON values in their common type, else as texts."""
    kinds = {type(value) for value in found if value is not None}
    if kinds <= {int, float} and kinds:
        return pl.Series(name, [None if value is None else float(value) for value in found], pl.Float64)
    if kinds == {bool}:
        return pl.Series(name, found, pl.Boolean)
    if kinds == {list}:
        inside = {type(each) for value in found for each in value or ()}
        kind = pl.Float64 if inside and inside <= {int, float} else pl.String
        return pl.Series(name, found, pl.List(kind), strict=False)
    texts = [value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode() for value in found]
    return pl.Series(name, texts, pl.String)


def _without_empty(value: Value, columns: Columns) -> Value:
    if isinstance(value, str):
        return value
    return {
        name: None if isinstance(field, str) and name in columns and is_missing(field, columns[name]) else field
        for name, field in value.items()
    }
