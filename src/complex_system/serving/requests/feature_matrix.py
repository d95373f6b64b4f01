"""Processed features of a request as the matrix that models take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from complex_system.domain.records import MAX_FAULTS, faults_message, shown
from complex_system.errors import InvalidRecordError
from complex_system.pipeline.arrays import Matrix

_LARGEST = float(np.finfo(np.float32).max)


def feature_matrix(values: Sequence[Any], shape: Sequence[int], names: Sequence[str]) -> Matrix:
    """The matrix of some elements.

    Args:
        values: The elements in row-major order, as they came.
        shape: Rows and features; it fits the elements and the names.
        names: Names of the features.

    Raises:
        InvalidRecordError: An element is no finite number that a float32 can hold.
    """
    try:
        if not set(map(type, values)) <= {int, float}:
            raise TypeError
        matrix = np.array(values, dtype=np.float64).reshape(shape)
    except (OverflowError, TypeError):
        raise _no_features(enumerate(values), names) from None
    bad = ~(np.abs(matrix) <= _LARGEST)
    if bad.any():
        places = np.argwhere(bad).tolist()
        raise _no_features(((i * len(names) + j, matrix[i, j].item()) for i, j in places), names)
    return np.ascontiguousarray(matrix, dtype=np.float32)


def _no_features(elements: Iterable[tuple[int, Any]], names: Sequence[str]) -> InvalidRecordError:
    """The error for those of the elements, each with its place in row-major order, that are no features; the first 20."""
    faults: list[dict[str, Any]] = []
    for place, value in elements:
        if value is None:
            problem = "is missing, and processed features must all be numbers"
        elif type(value) not in (int, float):
            problem = f"must be a number, not {shown(value)}"
        elif not -_LARGEST <= value <= _LARGEST:
            problem = f"must be a finite number within {_LARGEST:.2g} in size, not {shown(value)}"
        else:
            continue
        row, column = divmod(place, len(names))
        faults.append({"record": row, "id": None, "field": names[column], "problem": problem})
        if len(faults) == MAX_FAULTS:
            break
    return InvalidRecordError(faults_message(faults), faults)
