"""Checks whether the values of a well-formed record can be processed: known categories, numbers within the range, times, shares.

Each rule is written twice: for a value in Python, which is faster for few records and makes the message, and for a whole column in
polars. A property test compares them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Any

import polars as pl
from typing_extensions import override

from complex_system.domain.columns import FAR, Column
from complex_system.domain.dataset import Dataset
from complex_system.domain.datetimes import TimeFormat
from complex_system.domain.records import Record
from complex_system.domain.steps import Arithmetic, Bins, DateParts, Drop, Impute, MultiHot, OneHot, Shares
from complex_system.pipeline.expressions import date_parts, shares

_SHOWN = 60
"""Characters of a bad value, and categories of a column, that a message shows."""
SHARES_TOLERANCE = 1e-6
"""How far the sum of a record's shares may be from 1."""


class Check(ABC):
    """The rule for the values of one column.

    Attributes:
        field: Name of the column.
        needed: Whether the value must not be missing.
        one_hot: Features that are 1 where the value is one of the categories; empty where there are none.
        passes: Expression over raw records: true where the value can be processed, never null.
        all_pass: Expression over raw records: whether all values that are present can be processed.
    """

    passes: pl.Expr
    all_pass: pl.Expr

    def __init__(self, column: Column, *, needed: bool, one_hot: tuple[str, ...] = ()) -> None:
        self.field = column.name
        self.needed = needed
        self.one_hot = one_hot
        self._column = column

    def _set(self, inside: pl.Expr) -> None:
        """Take the rule as an expression: true or false for a value, null where it is missing."""
        self.passes = inside.fill_null(not self.needed)
        self.all_pass = inside.all()

    def problem_in(self, record: Record) -> str | None:
        """Return what is wrong with a record's value; None if it can be processed."""
        value = record.get(self.field)
        if value is None:
            return "is missing" if self.needed else None
        return self.problem(value, record)

    def all_valid(self, records: Sequence[Record]) -> bool:
        """Return whether no record has a problem; where possible faster than :meth:`problem_in` for each."""
        return all(self.problem_in(record) is None for record in records)

    @abstractmethod
    def problem(self, value: Any, record: Record) -> str | None:
        """Return what is wrong with a value that is present."""


class NumberCheck(Check):
    """A finite number within the declared range, or beyond it as far as ``Column.outside`` allows. Every boolean is valid."""

    def __init__(self, column: Column, *, needed: bool) -> None:
        super().__init__(column, needed=needed)
        self._low, self._high = column.accepted
        value = pl.col(column.name)
        # Comparisons with NaN are false.
        inside = value.eq(value) if column.type == "boolean" else value.is_between(self._low, self._high)
        self._whole = column.type == "integer"
        self._set(inside & (value == value.floor()) if self._whole else inside)

    @override
    def problem(self, value: Any, record: Record) -> str | None:
        if self._low <= value <= self._high:
            return f"must be a whole number, not {value}" if self._whole and value != math.floor(value) else None
        if self._column.limits is None or not math.isfinite(value):
            return f"must be a finite number, not {value}"
        if self._whole and value == math.floor(value):
            value = int(value)
        too_far = f" by more than {FAR:g} times its width" if self._column.outside == "warn" else ""
        return f"{value} is outside of {range_text(self._column.limits)}{too_far}"

    @override
    def all_valid(self, records: Sequence[Record]) -> bool:
        name = self.field
        present = [value for record in records if (value := record.get(name)) is not None]
        if self.needed and len(present) < len(records):
            return False
        if not present:
            return True
        if self._whole and not all(self.problem_in(record) is None for record in records):
            return False
        total = sum(present)  # min and max may miss NaN, a sum does not
        return bool(total == total and self._low <= min(present) and max(present) <= self._high)  # noqa: PLR0124


class CategoryCheck(Check):
    """One of the declared categories."""

    def __init__(self, column: Column, *, needed: bool, one_hot: tuple[str, ...]) -> None:
        # With a fill, a feature is 1 for a missing value too, so the sum of the features does not count the known values.
        super().__init__(column, needed=needed, one_hot=one_hot if column.fill is None else ())
        self._categories = frozenset(column.categories)
        self._set(pl.col(column.name).is_in(list(column.categories)))

    @override
    def problem(self, value: Any, record: Record) -> str | None:
        return None if value in self._categories else _unknown(value, self._column)

    @override
    def all_valid(self, records: Sequence[Record]) -> bool:
        values = [record.get(self.field) for record in records]
        present = values if self.needed else [value for value in values if value is not None]
        return self._categories.issuperset(present)


class TimeCheck(Check):
    """A time of the declared format."""

    def __init__(self, column: Column, *, needed: bool) -> None:
        super().__init__(column, needed=needed)
        self._format = TimeFormat(column.format)
        present = pl.when(pl.col(column.name).is_not_null())
        self._set(present.then(date_parts(column)["valid"]))

    @override
    def problem(self, value: Any, record: Record) -> str | None:
        return (
            None if self._format.parts(value) else f"'{_shortened(value)}' is not a time of the format {self._column.format}"
        )


class ListCheck(Check):
    """Declared categories, each once."""

    def __init__(self, column: Column, *, needed: bool) -> None:
        super().__init__(column, needed=needed)
        self._categories = frozenset(column.categories)
        entries = pl.col(column.name)
        known = entries.list.eval(pl.element().is_in(list(column.categories)).fill_null(False)).list.all()
        self._set(known & (entries.list.n_unique() == entries.list.len()))

    @override
    def problem(self, value: Any, record: Record) -> str | None:
        unknown = next((each for each in value if each not in self._categories), None)
        if unknown is not None or None in value:
            return _unknown(str(unknown), self._column)
        return "has an entry more than once" if len(set(value)) < len(value) else None


class SharesCheck(Check):
    """As many shares as the other list has entries, each from 0 to 1, with the sum 1.

    They may be missing where the other list has one entry or none.
    """

    def __init__(self, column: Column, of: Column) -> None:
        super().__init__(column, needed=False)
        self._of, self._categories = of.name, of.categories
        parts, entries = pl.col(column.name), pl.col(of.name)
        # Added in the order of the categories, as below: a library's sum may add in another order.
        total = reduce(lambda made, each: made + each, shares(of, column.name))
        within = parts.list.eval(pl.element().is_between(0.0, 1.0).fill_null(False)).list.all()
        whole = (parts.list.len() == 0) | (total - 1.0).is_between(-SHARES_TOLERANCE, SHARES_TOLERANCE)
        given = (parts.list.len() == entries.list.len().fill_null(0)) & within & whole.fill_null(False)
        inside = pl.when(parts.is_null()).then(entries.list.len().fill_null(0) <= 1).otherwise(given)
        self._set(inside)

    @override
    def problem_in(self, record: Record) -> str | None:
        value, entries = record.get(self.field), record.get(self._of) or ()
        if value is None:
            return None if len(entries) <= 1 else f"is missing, and '{self._of}' has {len(entries)} entries"
        return self.problem(value, record)

    @override
    def problem(self, value: Any, record: Record) -> str | None:
        entries = record.get(self._of) or ()
        if len(value) != len(entries):
            return f"has {len(value)} shares, and '{self._of}' has {len(entries)} entries"
        if not all(each is not None and 0.0 <= each <= 1.0 for each in value):
            return "has a share outside of [0, 1]"
        if not value:
            return None
        share_of = dict(zip(reversed(entries), reversed(value), strict=True))
        total = 0.0
        for category in self._categories:
            total = total + share_of.get(category, 0.0)
        return (
            None
            if -SHARES_TOLERANCE <= total - 1.0 <= SHARES_TOLERANCE
            else f"has shares that add up to {total:g}, not to 1"
        )


def checks(dataset: Dataset) -> list[Check]:
    """Return one check for every column that a step uses, and one for the target, which may always be missing."""
    made: dict[str, Check] = {}
    imputed = {step.column for step in dataset.pipeline if isinstance(step, Impute)}
    for step in dataset.pipeline:
        for name in step.inputs:
            column = dataset.by_name.get(name)
            if column is None or (name in made and not isinstance(step, OneHot)):
                continue
            needed = not column.optional and name not in imputed
            match step:
                case OneHot():
                    made[name] = CategoryCheck(column, needed=needed, one_hot=tuple(dataset.features_of(step)))
                case DateParts():
                    made[name] = TimeCheck(column, needed=needed)
                case Shares() if name == step.shares:
                    made[name] = SharesCheck(column, dataset.column(step.column))
                case MultiHot() | Shares():
                    made[name] = ListCheck(column, needed=needed)
                case Bins() | Arithmetic() | Drop():
                    made[name] = NumberCheck(column, needed=needed)
                case _:
                    raise TypeError(f"The step {type(step).__name__} has no check here.")
    return [*made.values(), NumberCheck(dataset.column(dataset.target), needed=False)]


def range_text(limits: tuple[float, float]) -> str:
    """Return a range as messages have it."""
    return f"[{_plain(limits[0])}, {_plain(limits[1])}]"


def _plain(limit: float) -> str:
    """Return a limit to its last digit: a rounded one may lie on the other side of the refused value."""
    return str(int(limit)) if limit.is_integer() and abs(limit) < 1e16 else str(limit)


def _unknown(value: str, column: Column) -> str:
    more = ", ..." if len(column.categories) > _SHOWN else ""
    return f"'{_shortened(value)}' is not one of {', '.join(column.categories[:_SHOWN])}{more}"


def _shortened(value: str) -> str:
    return value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
