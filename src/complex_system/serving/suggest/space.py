"""The free columns as a box of numbers that a search moves in, and the records that its points stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.columns import LARGEST_INTEGER, Column
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.domain.steps import Drop
from complex_system.errors import InvalidRequestError
from complex_system.pipeline.checks import range_text
from complex_system.pipeline.expressions import frame_type
from complex_system.serving.known import Numbers

FREE_TYPES = ("number", "integer", "boolean", "category")
_STEPS = 1000
"""A number is rounded to a power of ten, so that its bounds hold so many steps or more: settings are read by people."""


_NARROWEST = 1e-30
"""Width of a number's bounds that is searched, at least: models take single precision, which has no steps below."""


@dataclass(frozen=True)
class Dimension:
    """A free column: a number within bounds, or one of some choices, of which the search moves the position.

    Attributes:
        column: Its declaration.
        low: Smallest number, or 0.
        high: Largest number, or the position of the last choice.
        choices: Of a boolean or a category.
        digits: Decimals of a number.
    """

    column: Column
    low: float
    high: float
    choices: tuple[Any, ...] = ()
    digits: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether only whole positions exist."""
        return bool(self.choices) or self.column.type == "integer"

    def values(self, positions: Numbers) -> list[Any]:
        """Return the column's values at positions of the search."""
        if self.choices:
            return [self.choices[round(position)] for position in positions]
        if self.is_whole:
            return list(np.rint(positions).astype(np.int64).tolist())
        return list(np.clip(np.round(positions, self.digits), self.low, self.high).tolist())

    def positions(self, values: pa.ChunkedArray) -> Numbers:
        """Return where known values are, NaN for those that are missing or out of the bounds."""
        if self.choices:
            places = {choice: float(place) for place, choice in enumerate(self.choices)}
            return np.array([places.get(value, math.nan) for value in values.to_pylist()])
        known = np.array(pc.cast(values, pa.float64()).to_numpy(), dtype=np.float64)
        return np.asarray(np.where((known >= self.low) & (known <= self.high), known, math.nan), dtype=np.float64)

    def apart(self, positions: Numbers, other: float) -> Numbers:
        """Return how far positions are from another one: the part of the bounds, or 1 for another choice."""
        if self.choices:
            return np.asarray(np.rint(positions) != round(other), dtype=np.float64)
        return np.asarray(np.abs(positions - other) / (self.high - self.low), dtype=np.float64)


def dimensions(
    dataset: Dataset, sample: pa.Table, free: Sequence[str], within: Mapping[str, Sequence[Any]]
) -> list[Dimension]:
    """Return the free columns with their bounds: the declared range or categories, else those of known records.

    Args:
        dataset: Declares the columns.
        sample: Known records.
        free: Names of columns.
        within: Narrower bounds by name.

    Raises:
        InvalidRequestError: A column is not known, not used, cannot be free, or has nothing to choose from.
    """
    if not free:
        raise InvalidRequestError("No column is free: name one at least in 'free'.")
    allowed = free_columns(dataset)
    for name in (*free, *within):
        if name not in allowed:
            raise InvalidRequestError(
                f"The column '{name[:100]}' {_why_not(dataset, name)}. Free may be: {', '.join(allowed)}."
            )
    if further := [name for name in within if name not in free]:
        raise InvalidRequestError(f"'within' names '{further[0]}', which is not free: name it in 'free', too.")
    if len(set(free)) != len(free):
        raise InvalidRequestError("A column is named in 'free' more than once.")
    return [_dimension(dataset.column(name), sample, within.get(name)) for name in free]


def used_columns(dataset: Dataset) -> list[Column]:
    """Return the raw columns that features are made of, as declared."""
    used = {name for step in dataset.pipeline if not isinstance(step, Drop) for name in step.inputs} - {dataset.target}
    return [each for each in dataset.columns if each.name in used]


def free_columns(dataset: Dataset) -> list[str]:
    """Return the names of the columns that may be free: those that features are made of, of a type that can be searched."""
    return [each.name for each in used_columns(dataset) if each.type in FREE_TYPES]


def _why_not(dataset: Dataset, name: str) -> str:
    column = dataset.by_name.get(name)
    if column is None:
        return "is not declared"
    if name == dataset.target:
        return "is what is predicted"
    return f"is a {column.type}, which is not searched" if column.type not in FREE_TYPES else "is not used by the model"


def _dimension(column: Column, sample: pa.Table, within: Sequence[Any] | None) -> Dimension:
    if column.type in ("boolean", "category"):
        every: tuple[Any, ...] = column.categories or (False, True)
        if within is not None and (unknown := [each for each in within if each not in every]):
            raise InvalidRequestError(
                f"'within' of '{column.name}' names {unknown[0]!r}, which is not one of {list(every)}."
            )
        choices = every if within is None else tuple(choice for choice in every if choice in within)
        if not choices:
            raise InvalidRequestError(f"'within' of '{column.name}' leaves nothing to choose from.")
        return Dimension(column, 0.0, len(choices) - 1.0, choices)
    low, high = _bounds(column, sample, within)
    if column.type == "integer":
        low, high = math.ceil(max(low, -LARGEST_INTEGER)), math.floor(min(high, LARGEST_INTEGER))
    if not low < high:
        raise InvalidRequestError(
            f"The range {range_text((low, high))} of '{column.name}' is empty: give two different bounds in 'within', or fix it."
        )
    if high - low < _NARROWEST:
        raise InvalidRequestError(
            f"The range {range_text((low, high))} of '{column.name}' cannot be searched: give wider bounds in 'within'."
        )
    return Dimension(column, low, high, digits=digits_of(low, high))


def digits_of(low: float, high: float) -> int:
    """Return the decimals of a number within two different bounds."""
    return math.ceil(math.log10(_STEPS / (high - low)))


def _bounds(column: Column, sample: pa.Table, within: Sequence[Any] | None) -> tuple[float, float]:
    if within is not None:
        if len(within) != 2 or not all(type(end) in (int, float) and math.isfinite(end) for end in within):
            raise InvalidRequestError(f"'within' of '{column.name}' must be [smallest, largest], two finite numbers.")
        low, high = (float(end) for end in within)
        if column.range and not column.range[0] <= low <= high <= column.range[1]:
            raise InvalidRequestError(
                f"'within' of '{column.name}' must be within its declared range {range_text(column.range)}, smallest first."
            )
        return low, high
    if column.range:
        return column.range
    known = known_range(column, sample)
    if known is None:
        raise InvalidRequestError(
            f"The range of '{column.name}' is not known: none is declared, and the model's sample has no value of it. "
            "Give it in 'within'."
        )
    return known


def known_range(column: Column, sample: pa.Table) -> tuple[float, float] | None:
    """Return the smallest and the largest known value of a numeric column; None where there is none."""
    if column.name not in sample.column_names:
        return None
    ends = pc.min_max(sample.column(column.name)).as_py()
    low, high = ends["min"], ends["max"]
    return None if low is None or not math.isfinite(low) or not math.isfinite(high) else (float(low), float(high))


class SearchSpace:
    """Points of the box as columns of the pipeline; the other columns have the values of one record.

    Attributes:
        dimensions: The free columns.
        low: Lower bounds, shape (d,).
        high: Upper bounds.
    """

    def __init__(self, dataset: Dataset, fixed: Record, free: list[Dimension]) -> None:
        """Make the box.

        Args:
            dataset: Declares the columns.
            fixed: A checked record; its values of free columns do not count.
            free: The free columns.
        """
        self.dimensions = free
        self.low = np.array([each.low for each in free])
        self.high = np.array([each.high for each in free])
        self._fixed = fixed
        names = {each.column.name for each in free}
        self._others = [
            pl.Series(each.name, [fixed.get(each.name)], frame_type(each))
            for each in dataset.columns
            if each.name not in names
        ]

    def frame(self, points: Numbers) -> pl.DataFrame:
        """Return the raw columns of points, shape (n, d)."""
        free = [
            pl.Series(each.column.name, each.values(points[:, place]), frame_type(each.column), strict=False)
            for place, each in enumerate(self.dimensions)
        ]
        return pl.DataFrame([*(each.new_from_index(0, len(points)) for each in self._others), *free])

    def record(self, point: Numbers) -> Record:
        """Return the raw record of one point."""
        found = {each.column.name: each.values(point[[place]])[0] for place, each in enumerate(self.dimensions)}
        return {name: value for name, value in (self._fixed | found).items() if value is not None}

    def known(self, sample: pa.Table) -> Numbers:
        """Return the points of known records that lie in the box, shape (n, d)."""
        if not {each.column.name for each in self.dimensions} <= {*sample.column_names}:
            return np.empty((0, len(self.low)))
        places = np.column_stack([each.positions(sample.column(each.column.name)) for each in self.dimensions])
        return places[~np.isnan(places).any(axis=1)]

    def apart(self, points: Numbers, other: Numbers) -> Numbers:
        """Return how different points are from another one: the largest difference of a column, as a part of its bounds."""
        by_column = [each.apart(points[:, place], other[place]) for place, each in enumerate(self.dimensions)]
        return np.asarray(np.max(by_column, axis=0), dtype=np.float64)
