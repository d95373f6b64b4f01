"""What every table in a file can do: its columns, its rows in chunks, values as their declared column has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from typing_extensions import override

from complex_system.domain.columns import Column
from complex_system.domain.types import column_type
from complex_system.errors import SourceFileError
from complex_system.sources.json_objects import text_of
from complex_system.sources.notation import Evidence, Notation, evidence_in, notations
from complex_system.sources.values import Values, unwritten_times, values

CHUNK_ROWS = 5000
"""Rows that are in memory at once."""
ROW = "\0row"
"""Name of the column with the row numbers, from 1; no column of a file has it."""
_SHARES = {0.5: "half", 1: "all"}
_PART_ROWS = 50_000
"""Rows that are looked at together for how numbers are written."""

Columns = Mapping[str, Column | None]
"""The columns to read, by name; None stands for a text."""
Value = dict[str, Any] | str
"""A row by column name, or the reason why it could not be read."""


@dataclass(frozen=True)
class Part:
    """Some rows of a table, column by column.

    Attributes:
        numbers: Of the rows, from 1.
        columns: Their values by column name.
        faults: By place, why a row could not be read; its values are not valid.
    """

    numbers: list[int]
    columns: Mapping[str, Values]
    faults: Mapping[int, str]

    def rows(self, places: Sequence[int]) -> list[Value]:
        """Return the rows of some places: values by column name, None where one is missing; for a row that is not read, the reason."""
        rows: list[Value] = [{} for _ in places]
        if self.columns:
            names = tuple(self.columns)
            each = zip(*(found.at(places) for found in self.columns.values()), strict=True)
            rows = [dict(zip(names, row, strict=True)) for row in each]
        return [self.faults.get(place, row) for place, row in zip(places, rows, strict=True)] if self.faults else rows


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
    def parts(self, columns: Columns, size: int) -> Iterator[Part]:
        """Yield at most ``size`` rows at a time, in order.

        Values are as the declared column has them (``sources.values``); empty fields and NaN are missing. A value that does not fit
        its declared column is passed on unchanged.
        """

    def chunks(self, columns: Columns, size: int) -> Iterator[tuple[list[int], list[Value]]]:
        """Yield the parts row by row: numbers, and values by column name, None where one is missing."""
        for part in self.parts(columns, size):
            yield part.numbers, part.rows(range(len(part.numbers)))

    @abstractmethod
    def frame(self) -> pl.DataFrame:
        """Return all rows, in the types of the file; texts where it has none."""

    @abstractmethod
    def frames(self, size: int) -> Iterator[pl.DataFrame]:
        """Yield the same, at most ``size`` rows at a time, with their numbers as the column ``ROW``."""

    def cut_times(self, columns: Columns) -> list[str]:
        """Return the columns of times of which the declared formats write less than the file has, such as no fractions of a second."""
        return []

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the file is not a record, or read in a way of its own, a sentence each."""
        return ()

    def limits_in(self, columns: Iterable[Column]) -> tuple[str, ...]:
        """Return how many values of declared columns are beyond a limit and what stands in for them, a sentence a column."""
        found: list[str] = []
        for column in columns:
            below, above = self.beyond_limits(column.name) if column.censored else (0, 0)
            if below and column.censored != "right":
                used = _SHARES.get(column.limit_share, f"{column.limit_share:g}")
                found.append(f"{_counted(below, column)} below a detection limit: {used} of it stands in for each")
            if above and column.censored != "left":
                found.append(f"{_counted(above, column)} above a limit: the limit stands in for each")
        return tuple(found)

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

    def beyond_limits(self, name: str) -> tuple[int, int]:
        """Return how many values of a column are written as below a limit, such as <0.01, and how many as above one."""
        return 0, 0


class FrameTable(Table):
    """A table that polars reads lazily."""

    @override
    def outline(self) -> tuple[list[str], int]:
        frame = self._scan()
        names = frame.collect_schema().names()
        return names, int(self._rows(frame, names).select(pl.len()).collect(engine="streaming").item())

    @override
    def parts(self, columns: Columns, size: int) -> Iterator[Part]:
        frame = self._scan()
        names = frame.collect_schema().names()
        frame = self._rows(frame.with_row_index(ROW, 1), names)
        fields = [name for name in columns if name in names]
        for chunk in frame.collect_batches(chunk_size=size, lazy=True):
            yield self._part(chunk[ROW].to_list(), chunk.select(fields), columns)

    def _part(self, numbers: list[int], frame: pl.DataFrame, columns: Columns) -> Part:
        """Return rows with the values that the declared columns have."""
        read = {series.name: self._values(series, columns[series.name]) for series in frame.iter_columns()}
        faults: dict[int, str] = {}
        for name, found in read.items():
            column = columns[name]
            if column and column.is_numeric and column.type != "boolean":
                for place, value in found.others.items():  # a number with two readings costs its row
                    if isinstance(value, str) and (doubt := self.notation(name).doubt(value)):
                        faults[place] = f"field '{name}': {doubt}"
        return Part(numbers, read, faults)

    @cached_property
    def _evidence(self) -> dict[str, Evidence]:
        return evidence_in(self._scan().collect_batches(chunk_size=_PART_ROWS, lazy=True))

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
        return notations(self._evidence, self.usual_decimal)

    @property
    def usual_decimal(self) -> str:
        """The decimal sign where no value of the file proves one."""
        return "."

    @override
    def notation(self, name: str) -> Notation:
        return self._notations.get(name, Notation())

    @override
    def beyond_limits(self, name: str) -> tuple[int, int]:
        found = self._evidence.get(name, Evidence())
        return found.below, found.above

    @override
    def frame(self) -> pl.DataFrame:
        frame = self._scan()
        return self._rows(frame, frame.collect_schema().names()).collect()

    @override
    def frames(self, size: int) -> Iterator[pl.DataFrame]:
        frame = self._scan()
        rows = self._rows(frame.with_row_index(ROW, 1), frame.collect_schema().names())
        yield from rows.collect_batches(chunk_size=size, lazy=True)

    @abstractmethod
    def _scan(self) -> pl.LazyFrame:
        """Return the columns of the file."""

    def _rows(self, frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        return frame

    def _values(self, series: pl.Series, column: Column | None) -> Values:
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


def _counted(count: int, column: Column) -> str:
    return f"1 value of '{column.name}' is" if count == 1 else f"{count} values of '{column.name}' are"
