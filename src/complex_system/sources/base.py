"""What every table in a file can do: its columns, its rows in chunks, values as their declared column has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from typing_extensions import override

from complex_system.domain.columns import Column
from complex_system.domain.types import column_type
from complex_system.errors import SourceFileError
from complex_system.sources.values import has_decimal_commas, values

CHUNK_ROWS = 5000
"""Rows that are in memory at once."""
SAMPLE_ROWS = 1000
"""Rows from which it is found how numbers in texts are written."""
_ROW = "\0row"  # no column of a file has this name

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


def decimal_commas_in(frame: pl.DataFrame) -> bool:
    """Return whether numbers in the texts of a table are written 1,5."""
    texts = (text for series in frame.iter_columns() if series.dtype == pl.String for text in series.drop_nulls().to_list())
    return has_decimal_commas(texts)
