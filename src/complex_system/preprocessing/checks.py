"""Which values of a well-formed record can be processed: known categories, numbers within the declared range."""

from __future__ import annotations

import math
import sys
from typing import Any

import polars as pl

from complex_system.domain.dataset import Column, Dataset, OneHot

_SHOWN = 60
"""Characters of a bad value, and categories of a column, that a message shows."""


class Check:
    """What the values of one column must be.

    The same rule twice: for a value in Python, which is quicker for few records and finds the words, and for a whole
    column in polars. A property test holds them together.

    Attributes:
        field: Name of the column.
        one_hot: Features that are 1 where the value is one of the categories; empty for numbers.
        passes: Expression over raw records: true where the value can be processed, never null.
        all_pass: Expression over raw records: whether all present values can be processed; only for numbers.
    """

    def __init__(self, column: Column, *, needed: bool, one_hot: tuple[str, ...] = ()) -> None:
        self.field = column.name
        self.needed = needed
        self.one_hot = one_hot
        self._column = column
        self._categories = frozenset(column.categories)
        self._low, self._high = column.range or (-sys.float_info.max, sys.float_info.max)
        value = pl.col(column.name)
        # Comparisons with NaN are false.
        inside = value.is_in(list(column.categories)) if one_hot else value.is_between(self._low, self._high)
        self.passes = inside.fill_null(not needed)
        self.all_pass = inside.all()

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value; None if it can be processed."""
        if value is None:
            return "is missing" if self.needed else None
        if self.one_hot:
            return None if value in self._categories else self._unknown(str(value))
        if self._low <= value <= self._high:
            return None
        if self._column.range is None or not math.isfinite(value):
            return "must be a finite number"
        return f"{value} is outside of [{self._low:g}, {self._high:g}]"

    def all_fine(self, values: list[Any]) -> bool:
        """Whether no value has a problem; as :meth:`problem` for each, in a third of the time."""
        present = [value for value in values if value is not None]
        if self.needed and len(present) < len(values):
            return False
        if self.one_hot:
            return self._categories.issuperset(present)
        if not present:
            return True
        total = sum(present)  # NaN slips through min and max, but not through a sum
        return bool(total == total and self._low <= min(present) and max(present) <= self._high)  # noqa: PLR0124

    def _unknown(self, value: str) -> str:
        shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
        categories = self._column.categories
        more = ", ..." if len(categories) > _SHOWN else ""
        return f"'{shown}' is not one of {', '.join(categories[:_SHOWN])}{more}"


def checks(dataset: Dataset) -> list[Check]:
    """One check for every column that a step uses, and one for the target, which may always be missing."""
    made: dict[str, Check] = {}
    for step in dataset.pipeline:
        column = dataset.column(step.column)
        one_hot = tuple(step.feature_names(column)) if isinstance(step, OneHot) else ()
        made[column.name] = Check(column, needed=not column.optional, one_hot=one_hot)
    return [*made.values(), Check(dataset.column(dataset.target), needed=False)]
