"""The rows of a file that its description is made of: all of them, or of a large file a random sample and what a sample may miss.

Counts of records and of missing values are always exact. Whatever was decided from a sample is then tried on every record of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from complex_system.describe.recognition import KEPT_AS_TEXT, without_markers
from complex_system.sources.base import ROW, Table
from complex_system.sources.notation import Notation

SAMPLE_ROWS = 200_000
"""Rows that are kept; of larger files a random sample of 100,000 to 200,000."""
PART_ROWS = 20_000
"""Rows that are read at once."""
_TEXTS = 100
"""Different texts of a column that are kept with the row in which they are first: more are not categories."""
_ODD = 20
"""Texts of a column that are kept because they are not numbers, or not as written."""


class RowSample:
    """A random sample of rows: each row stays with the same probability, which is halved when there are too many."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)
        self._limit = 1.0
        self._size = 0
        self._parts: list[tuple[npt.NDArray[np.float64], pl.DataFrame]] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Take the next rows of the file."""
        self._parts.append((self._random.random(rows.height), rows))
        self._size += rows.height
        if self._limit < 1.0:
            self._thin(-1)
        while self._size > SAMPLE_ROWS:
            self._limit /= 2
            self._thin(0)

    def _thin(self, start: int) -> None:
        for place in range(start % len(self._parts), len(self._parts)):
            draws, rows = self._parts[place]
            keep = draws < self._limit
            self._parts[place] = draws[keep], rows.filter(keep)
        self._size = sum(len(draws) for draws, _ in self._parts)

    def found(self) -> pl.DataFrame:
        """Return the rows that stayed, in the order of the file."""
        return pl.concat([rows for _, rows in self._parts])


@dataclass(frozen=True)
class LookedAt:
    """The rows of a file that its description is made of.

    Attributes:
        frame: Their values.
        records: Records of the file.
        numbers: Their row numbers, where they are not all rows.
        missing: Missing values of each column in all rows; empty where all rows are looked at.
    """

    frame: pl.DataFrame
    records: int
    numbers: Sequence[int] = ()
    missing: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table) -> LookedAt:
        """Read a table."""
        if table.outline()[1] <= SAMPLE_ROWS:
            frame = table.frame()
            return cls(frame, frame.height)
        sample, kept, records = RowSample(), list[pl.DataFrame](), 0
        columns: dict[str, _Telling] = {}
        for part in table.frames(PART_ROWS):
            records += part.height
            sample.add(part)
            places = set[int]()
            for series in part.drop(ROW).iter_columns():
                telling = columns.setdefault(series.name, _Telling(table.notation(series.name)))
                places.update(telling.places(series))
            kept.append(part[sorted(places)])
        frame = pl.concat([sample.found(), *kept]).unique(ROW).sort(ROW)
        missing = {name: telling.missing for name, telling in columns.items()}
        return cls(frame.drop(ROW), records, frame[ROW].to_list(), missing)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know of them, as a sentence; nothing where they are all rows."""
        if not self.numbers:
            return ()
        return (
            f"what is said of its columns, but for ranges and missing values, is of {len(self.numbers):,} of the {self.records:,} "
            "records: a random sample, and the rows with extremes and with what a sample may miss; all records were tried with the "
            "declaration",
        )

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows."""
        return not self.numbers

    def row(self, place: int) -> int:
        """Return the row number of a place in the frame."""
        return self.numbers[place] if self.numbers else place + 1

    def in_file(self, count: int) -> int:
        """Return about how many records of the file a number of looked at ones stands for."""
        return round(count * self.records / len(self.numbers)) if self.numbers else count


class _Telling:
    """What a sample may miss in one column: extremes, a fraction, the first different texts, the first that are not numbers.

    Attributes:
        missing: Missing values so far.
    """

    def __init__(self, notation: Notation) -> None:
        self._notation = notation
        self._texts: set[str] = set()
        self._odd = 0
        self._low, self._high = np.inf, -np.inf
        self._has_fraction = False
        self.missing = 0

    def places(self, series: pl.Series) -> list[int]:
        """Take the next values; return the places of those that tell something new."""
        if series.dtype == pl.String:
            texts = without_markers(series)
            self.missing += texts.null_count()
            numbers = self._notation.numbers(texts)
            return [*self._first_texts(texts, numbers), *self._extremes(numbers)]
        if series.dtype.is_nested() or series.dtype == pl.Binary:
            self.missing += series.null_count()
            return []
        numbers = series.to_physical().cast(pl.Float64).fill_nan(None)
        self.missing += numbers.null_count()
        return self._extremes(numbers)

    def _first_texts(self, texts: pl.Series, numbers: pl.Series) -> list[int]:
        is_odd = texts.is_not_null() & (numbers.is_null() | texts.str.contains(KEPT_AS_TEXT))
        places: list[int] = is_odd.arg_true().head(_ODD - self._odd).to_list()
        self._odd += len(places)
        if len(self._texts) <= _TEXTS:
            for place in texts.arg_unique().sort().to_list():
                text = texts[place]
                if text is not None and text not in self._texts:
                    self._texts.add(text)
                    places.append(place)
                if len(self._texts) > _TEXTS:
                    break
        return places

    def _extremes(self, numbers: pl.Series) -> list[int]:
        places: list[int] = []
        least, most = numbers.arg_min(), numbers.arg_max()
        if least is not None and numbers[least] < self._low:
            self._low = numbers[least]
            places.append(least)
        if most is not None and numbers[most] > self._high:
            self._high = numbers[most]
            places.append(most)
        if not self._has_fraction and (fractions := (numbers != numbers.round()).arg_true().head(1).to_list()):
            self._has_fraction = True
            places += fractions
        return places
