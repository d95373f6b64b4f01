"""Raw records of one request as columns of Python values; a column of numbers becomes an array once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.domain.records import Record

Numbers = npt.NDArray[np.float64]


class RawColumns:
    """Well-formed values (``domain.records.raw_check``) by column, None where one is missing.

    Attributes:
        size: How many records there are.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]], size: int) -> None:
        """Takes columns of ``size`` values each; in a column that is not there, every value is missing."""
        self.size = size
        self._values = values
        self._numbers: dict[str, Numbers] = {}
        self._records: list[Record] | None = None

    @classmethod
    def of(cls, records: Sequence[Record], names: Sequence[str]) -> RawColumns:
        """The named columns of records."""
        return cls({name: [record.get(name) for record in records] for name in names}, len(records))

    def values(self, name: str) -> Sequence[Any]:
        """A column's values as they came."""
        values = self._values.get(name)
        return [None] * self.size if values is None else values

    def numbers(self, name: str) -> Numbers:
        """A column of numbers or booleans; NaN where a value is missing."""
        made = self._numbers.get(name)
        if made is None:
            made = self._numbers[name] = np.array(self.values(name), dtype=np.float64)
        return made

    def head(self, most: int) -> list[Record]:
        """The first ``most`` records, with all columns that were given."""
        names = list(self._values)
        rows = zip(*(values[:most] for values in self._values.values()), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def records(self) -> list[Record]:
        """All records, made once."""
        if self._records is None:
            self._records = self.head(self.size)
        return self._records
