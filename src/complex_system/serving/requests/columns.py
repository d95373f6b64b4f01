"""Columns of Python values, checked column by column."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from complex_system.domain.dataset import ID, Column, Dataset
from complex_system.domain.keys import MAX_KEY
from complex_system.domain.types import MAX_TEXT, column_type
from complex_system.pipeline.expressions import frame_type
from complex_system.pipeline.raw_columns import RawColumns


class ColumnReader:
    """Takes good columns quickly, and refuses the others without words; these the check of the records finds.

    Attributes:
        kinds: polars' type of each column that may come, by name.
        needed: The columns that must come.
    """

    def __init__(self, declared: Iterable[Column], names: Iterable[str], dataset: Dataset) -> None:
        """Makes a reader.

        Args:
            declared: The columns that are known.
            names: Names of all that may come, the key among them.
            dataset: Says which columns are needed.
        """
        known = {column.name: column for column in declared}
        self.kinds: dict[str, Any] = {name: frame_type(known[name]) if name in known else pl.String for name in names}
        self.needed = {column.name for column in dataset.columns if not column.optional}
        # Columns whose values need more than a look at their types are checked record by record.
        simple = (column.name for column in known.values() if column.type != "integer" and not column_type(column).is_list)
        self._simple = {ID, *simple}
        self._longest = {name: MAX_KEY if name == ID else MAX_TEXT for name in self.kinds}

    def values(self, columns: Mapping[str, Sequence[Any]], size: int) -> RawColumns:
        """The columns, every declared one among them, if they are well-formed.

        Raises:
            TypeError, ValueError, OverflowError: They are not, or it takes a look at each record to tell.
        """
        made: dict[str, Sequence[Any]] = {}
        for name, kind in self.kinds.items():
            given = columns.get(name)
            if given is None:
                made[name] = [None] * size
                continue
            found = self._types(name, kind, given)
            if kind == pl.Float64:
                values = given if int not in found else [None if value is None else float(value) for value in given]
                if not all(map(math.isfinite, values if type(None) not in found else [v for v in values if v is not None])):
                    raise ValueError(name)
                made[name] = values
                continue
            if kind == pl.String:
                lengths = list(map(len, given if type(None) not in found else [v for v in given if v is not None]))
                if lengths and (max(lengths) > self._longest[name] or (name == ID and min(lengths) < 1)):
                    raise ValueError(name)
            made[name] = given
        return RawColumns(made, size)

    def frame(self, columns: Mapping[str, Sequence[Any]], size: int) -> pl.DataFrame:
        """The same as :meth:`values`, as a typed frame; the quickest form of many.

        Raises:
            TypeError, ValueError, OverflowError, PolarsError: As there.
        """
        made = []
        for name, kind in self.kinds.items():
            values = columns.get(name)
            if values is None:
                made.append(pl.Series(name, [None], kind).new_from_index(0, size))
                continue
            self._types(name, kind, values)
            series = pl.Series(name, values, kind, strict=True)
            if kind == pl.Float64 and not series.is_finite().all():
                raise ValueError(name)
            if kind == pl.String and not series.str.len_chars().is_between(int(name == ID), self._longest[name]).all():
                raise ValueError(name)
            made.append(series)
        return pl.DataFrame(made)

    def _types(self, name: str, kind: Any, values: Sequence[Any]) -> set[type]:
        """The types of a column's values.

        Raises:
            TypeError: One is not the column's, or is missing where it must not.
        """
        # numpy and polars take a boolean for a number, and with mixed types more than that: the record check does not.
        wanted = {float, int} if kind == pl.Float64 else {bool} if kind == pl.Boolean else {str}
        found = set(map(type, values))
        if name not in self._simple or not found <= wanted | {type(None)} or (name in self.needed and type(None) in found):
            raise TypeError(name)
        return found
