"""Tables in files: their columns, their rows in chunks, values as a declared column has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from typing_extensions import override

from complex_system.domain.dataset import Column
from complex_system.errors import SourceFileError

CHUNK_ROWS = 5000
"""Rows that are in memory at once."""

_ROW = "__row__"

Columns = Mapping[str, Column | None]
"""The columns to read by their names; None is a text."""
Value = dict[str, Any] | str
"""A row by column name, or the reason why it could not be read."""


class Table(ABC):
    """A table in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def outline(self) -> tuple[list[str], int]:
        """Names of all columns, and the number of rows."""

    @abstractmethod
    def chunks(self, columns: Columns, size: int) -> Iterator[tuple[list[int], list[Value]]]:
        """Numbers (from 1) and values of at most ``size`` rows at once, in order.

        Numbers are floats, everything else texts; what is empty, and a number that is NaN, is missing and so None. A value
        that is not what its column declares is given as it is.
        """


class FrameTable(Table):
    """CSV and Parquet, which polars reads."""

    def __init__(self, path: Path, *, csv: bool) -> None:
        super().__init__(path)
        self._csv = csv

    @override
    def outline(self) -> tuple[list[str], int]:
        frame = self._scan()
        names = frame.collect_schema().names()
        # All columns of a CSV file are looked at, so that a row of another length is found before the first record is sent.
        counted = frame.filter(_not_empty(names)) if self._csv else frame
        return names, int(counted.select(pl.len()).collect(engine="streaming").item())

    @override
    def chunks(self, columns: Columns, size: int) -> Iterator[tuple[list[int], list[Value]]]:
        frame = self._scan()
        names = frame.collect_schema().names()
        frame = frame.with_row_index(_ROW, 1)
        if self._csv:
            frame = frame.filter(_not_empty(names))
        fields = [name for name in columns if name in names]
        for chunk in frame.collect_batches(chunk_size=size, lazy=True):
            values = [self._values(chunk[name], columns[name]) for name in fields]
            yield chunk[_ROW].to_list(), [dict(zip(fields, row, strict=True)) for row in zip(*values, strict=True)]

    def _scan(self) -> pl.LazyFrame:
        if self._csv:
            # As texts: a guess would read "00000000" as the number 0.
            return pl.scan_csv(self.path, infer_schema=False, glob=False)
        return pl.scan_parquet(self.path, glob=False)

    def _values(self, series: pl.Series, column: Column | None) -> list[Any]:
        if series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
            raise SourceFileError(
                f"The file {self.path} has the column '{series.name}' of type {series.dtype}, which holds no numbers or texts."
            )
        if column and column.type == "number":
            return _numbers(series)
        if column and column.format and series.dtype in (pl.Datetime, pl.Date, pl.Time):
            series = series.dt.strftime(column.format)
        return [text or None for text in series.cast(pl.String).to_list()]


class LinesTable(Table):
    """JSON lines. Empty lines are no rows; they count in the numbers, which are the lines'."""

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
                yield number, value if isinstance(value, dict) else "is no JSON object"


def table_at(path: Path) -> Table:
    """The table in a file, by the file's suffix.

    Raises:
        SourceFileError: It has none of the known ones.
    """
    match path.suffix.lower():
        case ".csv":
            return FrameTable(path, csv=True)
        case ".parquet" | ".pq":
            return FrameTable(path, csv=False)
        case ".jsonl" | ".ndjson":
            return LinesTable(path)
        case other:
            raise SourceFileError(
                f"The file {path} ends with '{other}'; known are .csv, .jsonl and .ndjson (JSON lines), .parquet and .pq."
            )


def _not_empty(names: list[str]) -> pl.Expr:
    """Not an empty line of a CSV file, such as the last one often is."""
    return pl.any_horizontal(pl.col(names).is_not_null())


def _numbers(series: pl.Series) -> list[Any]:
    if series.dtype != pl.String:
        return series.cast(pl.Float64).fill_nan(None).to_list()
    texts = series.str.strip_chars()
    numbers = texts.cast(pl.Float64, strict=False)
    values: list[Any] = numbers.fill_nan(None).to_list()
    if numbers.null_count() > texts.null_count():
        # What is no number stays a text, and its row is refused for it.
        read = numbers.is_not_null().to_list()
        values = [value if good else text or None for value, good, text in zip(values, read, texts.to_list(), strict=True)]
    return values


def _without_empty(value: Value, columns: Columns) -> Value:
    if isinstance(value, str):
        return value
    return {name: None if field == "" and name in columns else field for name, field in value.items()}
