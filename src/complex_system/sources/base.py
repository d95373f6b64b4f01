"""What every table in a file can do: its columns, its rows in chunks, values as their declared column has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from typing_extensions import override

from complex_system.domain.columns import Column
from complex_system.domain.types import column_type
from complex_system.errors import SourceFileError
from complex_system.sources.json_objects import text_of
from complex_system.sources.notation import Notation, evidence_in, notations
from complex_system.sources.values import unwritten_times, values

CHUNK_ROWS = 5000
"""Rows that are in memory at once."""
_ROW = "\0row"  # no column of a file has this name
_PART_ROWS = 50_000
"""Rows that are looked at together for how numbers are written."""

Columns = Mapping[str, Column | None]
"""The columns to read, by name; None stands for a text."""
Value = dict[str, Any] | str
"""A row by column name, or the reason why it could not be read."""


class Table(ABC):
    """A table in a file."""

    def __init__(self, path: Path, shown: Path | None = None, declared: Iterable[str] = ()) -> None:
        """Make a table; nothing is read yet.

        Args:
            path: The file to read.
            shown: The file's name in messages, where ``path`` is a decompressed copy of it.
            declared: Names of columns that are known; an object with such a name is not taken apart.
        """
        self.path = path
        self.shown = shown or path
        self.declared = frozenset(declared)

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

    def cut_times(self, columns: Columns) -> list[str]:
        """Return the columns of times of which the declared formats write less than the file has, such as no fractions of a second."""
        return []

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the file is not a record, or read in a way of its own, a sentence each."""
        return ()

    @property
    def nested(self) -> frozenset[str]:
        """The columns that are fields of objects, or hold lists."""
        return frozenset()

    @property
    def units(self) -> Mapping[str, str]:
        """The unit of each column that has one in a row of units."""
        return {}

    def notation(self, name: str) -> Notation:
        """Return how the numbers of a column of texts are written."""
        return Notation()


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
            yield chunk[_ROW].to_list(), self._read(chunk.select(fields), columns)

    def _read(self, frame: pl.DataFrame, columns: Columns) -> list[Value]:
        """Return rows with the values that the declared columns have."""
        read = [self._values(series, columns[series.name]) for series in frame.iter_columns()]
        rows: list[Value] = [dict(zip(frame.columns, row, strict=True)) for row in zip(*read, strict=True)]
        for name, found in zip(frame.columns, read, strict=True):
            column = columns[name]
            if column and column.is_numeric and column.type != "boolean" and str in set(map(type, found)):
                self._doubt(name, found, rows)
        return rows

    def _doubt(self, name: str, found: list[Any], rows: list[Value]) -> None:
        """Refuse the rows whose number in a column has two readings."""
        notation = self.notation(name)
        for place, value in enumerate(found):
            if isinstance(value, str) and (doubt := notation.doubt(value)):
                rows[place] = f"field '{name}': {doubt}"

    @override
    def cut_times(self, columns: Columns) -> list[str]:
        frame = self._scan()
        checks = [
            cut.any().alias(name)
            for name, dtype in frame.collect_schema().items()
            if dtype == pl.Datetime and (column := columns.get(name)) and column.format
            if (cut := unwritten_times(pl.col(name), column.format)) is not None
        ]
        found = frame.select(checks).collect(engine="streaming").row(0, named=True) if checks else {}
        return [name for name, is_cut in found.items() if is_cut]

    @cached_property
    def _notations(self) -> dict[str, Notation]:
        return notations(evidence_in(self._scan().collect_batches(chunk_size=_PART_ROWS, lazy=True)), self.usual_decimal)

    @property
    def usual_decimal(self) -> str:
        """The decimal sign where no value of the file proves one."""
        return "."

    @override
    def notation(self, name: str) -> Notation:
        return self._notations.get(name, Notation())

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
        is_list = isinstance(series.dtype, pl.List | pl.Array)
        if is_list and column is not None and column.type == "text":
            series = pl.Series(
                series.name, [None if each is None else text_of(each) for each in series.to_list()], pl.String
            )
        elif (
            series.dtype.is_nested() and not (is_list and column is not None and column_type(column).is_list)
        ) or series.dtype in (pl.Binary, pl.Object):
            raise SourceFileError(
                f"The file {self.shown} has the column '{series.name}' of type {series.dtype}, which does not hold numbers or texts."
            )
        return values(series, column, self.notation(series.name) if series.dtype == pl.String else Notation())
