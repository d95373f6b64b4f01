"""The input of one request: records, columns, or processed features. Each kind becomes features in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from typing_extensions import override

from complex_system.domain.records import MAX_FAULTS, Record, faults_message, shown
from complex_system.errors import InvalidRecordError, RecordFault
from complex_system.pipeline.pipeline import OutsideRange, Pipeline
from complex_system.pipeline.rows import Matrix
from complex_system.serving.requests.wanted import NOTHING

_MAX_FLOAT32 = float(np.finfo(np.float32).max)


class Batch(ABC):
    """Well-formed input of one request.

    Attributes:
        size: Number of predictions that are asked for.
        wanted: What is asked for beside them.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.wanted = NOTHING
        self._pipeline: Pipeline | None = None

    @abstractmethod
    def features(self, pipeline: Pipeline) -> Matrix:
        """Return the features as models take them.

        Raises:
            InvalidRecordError: A record cannot be processed.
        """

    def outside(self, pipeline: Pipeline) -> tuple[OutsideRange, ...]:
        """Return what lies outside of its range and is taken all the same; of records that can be processed."""
        return ()

    @abstractmethod
    def head(self, limit: int) -> list[Record]:
        """Return the first ``limit`` raw records."""

    def _known(self, records: list[Record]) -> list[Record]:
        # Decoded without a look at every value: what stands for a missing one is still there.
        return records if self._pipeline is None else self._pipeline.known(records)


class RecordBatch(Batch):
    """Raw records as mappings; the fastest form of up to some hundreds."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__(len(records))
        self.records = records

    @override
    def features(self, pipeline: Pipeline) -> Matrix:
        self._pipeline = pipeline
        return pipeline.features(self.records)

    @override
    def outside(self, pipeline: Pipeline) -> tuple[OutsideRange, ...]:
        return pipeline.outside(self.records)

    @override
    def head(self, limit: int) -> list[Record]:
        return self._known(self.records[:limit])


class ColumnBatch(Batch):
    """Raw records as typed columns; the fastest form of many."""

    def __init__(self, frame: pl.DataFrame) -> None:
        super().__init__(frame.height)
        self.frame = frame

    @override
    def features(self, pipeline: Pipeline) -> Matrix:
        self._pipeline = pipeline
        return pipeline.features_of(self.frame)

    @override
    def outside(self, pipeline: Pipeline) -> tuple[OutsideRange, ...]:
        return pipeline.outside(self.frame)

    @override
    def head(self, limit: int) -> list[Record]:
        return self._known(self.frame.head(limit).to_dicts())


class FeatureBatch(Batch):
    """Processed features; there are no raw records.

    Attributes:
        matrix: Shape (n, features), columns in the order of ``Dataset.feature_names``.
    """

    def __init__(self, values: Sequence[Any] | NDArray[Any], shape: Sequence[int], names: Sequence[str]) -> None:
        """Make the matrix.

        Args:
            values: The elements in row-major order, as the client sent them, or an array of them, which is kept where it can be.
            shape: Rows and features; it fits the elements and the names.
            names: Names of the features.

        Raises:
            InvalidRecordError: An element is not a finite number within float32.
        """
        super().__init__(shape[0])
        try:
            if isinstance(values, np.ndarray):
                matrix = values.reshape(shape)
            elif set(map(type, values)) <= {int, float}:
                matrix = np.array(values, dtype=np.float64).reshape(shape)
            else:
                raise TypeError
        except (OverflowError, TypeError):
            raise _bad_features(enumerate(values), names) from None
        bad = ~(np.abs(matrix) <= _MAX_FLOAT32)
        if bad.any():
            places = np.argwhere(bad).tolist()
            raise _bad_features(((i * len(names) + j, matrix[i, j].item()) for i, j in places), names)
        self.matrix: Matrix = np.require(matrix, np.float32, ["C", "ALIGNED"])

    @override
    def features(self, pipeline: Pipeline) -> Matrix:
        return self.matrix

    @override
    def head(self, limit: int) -> list[Record]:
        return []


def _bad_features(elements: Iterable[tuple[int, Any]], names: Sequence[str]) -> InvalidRecordError:
    """Return the error that names the first elements, by their place in row-major order, that are not features."""
    faults: list[RecordFault] = []
    for place, value in elements:
        if value is None:
            problem = "is missing, and processed features must all be numbers"
        elif type(value) not in (int, float):
            problem = f"must be a number, not {shown(value)}"
        elif not -_MAX_FLOAT32 <= value <= _MAX_FLOAT32:
            problem = f"must be a finite number within {_MAX_FLOAT32:.2g} in size, not {shown(value)}"
        else:
            continue
        row, column = divmod(place, len(names))
        faults.append({"record": row, "id": None, "field": names[column], "problem": problem})
        if len(faults) == MAX_FAULTS:
            break
    return InvalidRecordError(faults_message(faults), faults)
