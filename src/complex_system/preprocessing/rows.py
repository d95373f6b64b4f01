"""The declared steps as plain Python, for few records: a frame of one row costs a hundred times its arithmetic.

The same operations in the same order as in ``steps``, so both give the same bits; a property test holds them together.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.domain.dataset import Bins, Column, Dataset, OneHot, Scale, Step
from complex_system.domain.records import Record

_Fill = Callable[[Any, list[float]], None]
"""Puts the features of one value into a row of zeros."""


class RowSteps:
    """Makes features record by record, for records that passed the checks."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        places = {name: place for place, name in enumerate(dataset.feature_names)}
        self._width = len(places)
        self._fills = [
            (step.column, _fill(step, dataset.column(step.column), [places[name] for name in _names(step, dataset)]))
            for step in dataset.pipeline
        ]

    def __reduce__(self) -> tuple[type[RowSteps], tuple[Dataset]]:
        return RowSteps, (self._dataset,)  # closures cannot be pickled

    def __call__(self, records: Sequence[Record]) -> npt.NDArray[np.float32]:
        """Features of shape (records, features), columns in the order of ``Dataset.feature_names``."""
        rows = []
        for record in records:
            row = [0.0] * self._width
            for column, fill in self._fills:
                fill(record.get(column), row)
            rows.append(row)
        return np.array(rows, dtype=np.float32).reshape(len(rows), self._width)


def _names(step: Step, dataset: Dataset) -> list[str]:
    return step.feature_names(dataset.column(step.column))


def _fill(step: Step, column: Column, places: list[int]) -> _Fill:
    if isinstance(step, OneHot):
        return _one_hot(column, places)
    return _bins(step, column, places) if isinstance(step, Bins) else _scale(step, column, places[0])


def _one_hot(column: Column, places: list[int]) -> _Fill:
    place_of = dict(zip(column.categories, places, strict=True))

    def fill(value: Any, row: list[float]) -> None:
        if value is not None:
            row[place_of[value]] = 1.0

    return fill


def _bins(step: Bins, column: Column, places: list[int]) -> _Fill:
    inner, missing = step.edges[1:-1], _missing(column)

    def fill(value: Any, row: list[float]) -> None:
        # The check has seen that the value lies within the outer edges; the inner ones belong to the bin on their left.
        row[places[bisect_left(inner, missing if value is None else value)]] = 1.0

    return fill


def _scale(step: Scale, column: Column, place: int) -> _Fill:
    assert column.range is not None  # the declaration was checked
    low, high = column.range
    factor = (step.to[1] - step.to[0]) / (high - low)
    start, missing = step.to[0], _missing(column)

    def fill(value: Any, row: list[float]) -> None:
        row[place] = ((missing if value is None else value) - low) * factor + start

    return fill


def _missing(column: Column) -> float:
    """What stands in for a missing number; a column that declares none must have a value, and the check has seen it."""
    return math.nan if column.fill is None else column.fill
