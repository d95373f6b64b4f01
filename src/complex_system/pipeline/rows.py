"""The declared steps as plain Python, for few records: a frame of one row costs a hundred times its arithmetic.

The same operations in the same order as in ``expressions``, so both give the same bits; a property test compares them.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.domain.columns import Column
from complex_system.domain.dataset import Dataset
from complex_system.domain.datetimes import TimeFormat
from complex_system.domain.intervals import Intervals
from complex_system.domain.records import Record
from complex_system.domain.steps import (
    Arithmetic,
    Bins,
    DateParts,
    Drop,
    Impute,
    MultiHot,
    OneHot,
    Shares,
    Step,
)
from complex_system.pipeline.arithmetic import clip_number, for_numbers

Matrix = npt.NDArray[np.float32]
"""Features of shape (records, features), columns in the order of ``Dataset.feature_names``."""
_Fill = Callable[[Record, list[float]], None]
"""Writes the features of one record into a row of zeros."""
_Number = Callable[[Record], float]


class RowSteps:
    """Makes features record by record, from records that passed the checks."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        places = {name: place for place, name in enumerate(dataset.feature_names)}
        self._width = len(places)
        self._pack = struct.Struct(f"{len(places)}f").pack
        numbers = dataset.intervals
        results: dict[str, _Number] = {}
        fills = [
            _fill(step, dataset, [places[name] for name in dataset.features_of(step)], results, numbers)
            for step in dataset.pipeline
        ]
        self._fills = [fill for fill in fills if fill is not None]

    def __reduce__(self) -> tuple[type[RowSteps], tuple[Dataset]]:
        return RowSteps, (self._dataset,)  # closures cannot be pickled

    def __call__(self, records: Sequence[Record]) -> Matrix:
        """Return the features of records."""
        packed = []
        for record in records:
            row = [0.0] * self._width
            for fill in self._fills:
                fill(record, row)
            packed.append(self._pack(*row))
        # Bytes of float32, row after row: numpy takes them in a third of the time that lists of floats need.
        return np.frombuffer(bytearray().join(packed), np.float32).reshape(len(packed), self._width)


def _fill(  # noqa: PLR0911 - one return a step
    step: Step, dataset: Dataset, places: list[int], results: dict[str, _Number], numbers: Intervals
) -> _Fill | None:
    columns = dataset.by_name

    def number(name: str) -> _Number:
        return _number(columns[name], columns[name].fill) if name in columns else results[name]

    match step:
        case Drop():
            return None
        case OneHot():
            return _one_hot(columns[step.column], places)
        case MultiHot():
            return _multi_hot(columns[step.column], places)
        case Shares():
            return _shares(columns[step.column], step.shares, places)
        case DateParts():
            return _date_parts(step, columns[step.column], places)
        case Bins():
            return _bins(step, number(step.column), places)
        case Impute():
            result = _number(columns[step.column], step.value)
        case _:
            assert isinstance(step, Arithmetic)
            result = _applied(for_numbers(step, numbers), [number(name) for name in step.inputs])
    if step.as_ and step.as_ not in columns:
        results[step.as_] = result
    return _put(result, places[0]) if places else None


def _put(result: _Number, place: int) -> _Fill:
    def fill(record: Record, row: list[float]) -> None:
        row[place] = result(record)

    return fill


def _applied(function: Callable[..., float], inputs: list[_Number]) -> _Number:
    if len(inputs) == 1:
        only = inputs[0]
        return lambda record: function(only(record))
    return lambda record: function(*[each(record) for each in inputs])


def _number(column: Column, fill: Any) -> _Number:
    """Return a reader of a raw number. Without a fill the value is present: the check has passed."""
    name, missing = column.name, math.nan if fill is None else float(fill)
    if column.type == "boolean":
        return lambda record: missing if (value := record.get(name)) is None else float(value)

    if column.outside == "clip" and column.range:
        low, high = column.range

        def clipped(record: Record) -> float:
            value = record.get(name)
            return missing if value is None else clip_number(value, low, high)

        return clipped

    def number(record: Record) -> float:
        value = record.get(name)
        return missing if value is None else value

    return number


def _one_hot(column: Column, places: list[int]) -> _Fill:
    name = column.name
    missing = None if column.fill is None else str(column.fill)
    place_of = dict(zip(column.categories, places, strict=True))

    def fill(record: Record, row: list[float]) -> None:
        value = record.get(name)
        if value is None:
            value = missing
        if value is not None:
            row[place_of[value]] = 1.0

    return fill


def _multi_hot(column: Column, places: list[int]) -> _Fill:
    name = column.name
    place_of = dict(zip(column.categories, places, strict=True))

    def fill(record: Record, row: list[float]) -> None:
        for value in record.get(name) or ():
            row[place_of[value]] = 1.0

    return fill


def _shares(column: Column, of: str, places: list[int]) -> _Fill:
    name = column.name
    place_of = dict(zip(column.categories, places, strict=True))

    def fill(record: Record, row: list[float]) -> None:
        entries = record.get(name) or ()
        parts = record.get(of)
        for value, share in zip(entries, [1.0] if parts is None else parts, strict=False):
            row[place_of[value]] = share

    return fill


def _date_parts(step: DateParts, column: Column, places: list[int]) -> _Fill:
    time_format, name, missing = TimeFormat(column.format), column.name, column.fill
    wanted = list(zip(step.parts, places, strict=True))

    def fill(record: Record, row: list[float]) -> None:
        value = record.get(name)
        parts = time_format.parts(str(missing) if value is None else value)
        assert parts is not None  # the check has passed
        for part, place in wanted:
            row[place] = float(parts[part])

    return fill


def _bins(step: Bins, number: _Number, places: list[int]) -> _Fill:
    inner = step.edges[1:-1]

    def fill(record: Record, row: list[float]) -> None:
        # An inner edge belongs to the bin on its left, and what is taken outside of its range into the outer bin.
        row[places[bisect_left(inner, number(record))]] = 1.0

    return fill
