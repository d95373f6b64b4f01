"""How far records are from those that a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.background import Worker
from complex_system.errors import BusyError
from complex_system.pipeline.pipeline import OutsideRange, Pipeline
from complex_system.pipeline.rows import Matrix

Numbers = npt.NDArray[np.float64]
MIN_KNOWN, MAX_KNOWN = 10, 1000
"""Known records that distances can be judged by, at least and at most; the time of a request grows with them."""
TYPICAL, FAR = 95.0, 99.0
"""Percentiles of the known records' distances from their nearest neighbour: the first counts as the distance 1, what lies beyond the
second is far."""
_AT_ONCE = 256
"""Rows whose distances are held at the same time."""
MAX_REQUESTS = 16
"""Requests for the distances of many records that are measured or wait for it at the same time; further ones are refused as busy."""
_QUICK, _PART = 50_000, 500_000
"""Features that are measured on the event loop, about 2 ms at most, and that are one turn of the thread."""
_ALONE = 262_144
"""Multiplications of a matrix product up to which OpenBLAS starts no threads (``interface/gemm.c``: 65,536 x 4)."""
_SMALLEST = 1e-9
_LEAST = 0.05
"""Smallest distance that may count as 1, in standard deviations: where most records are copies, half of them have the distance 0."""


class KnownRecords:
    """Distances from the nearest of some records, in the space of the features.

    A feature counts in its standard deviations by the interquartile range, and by the plain one where that is 0 (one-hot features). A
    distance is the root of the mean of the squares, in units of the distance that 95 % of the records have from their nearest. Memory
    is that of the records and of 256 rows of distances, in single precision.

    Attributes:
        limit: 99 % of the records are within this distance of their nearest, in these units; a record beyond it is far.
    """

    def __init__(self, features: Matrix) -> None:
        """Measure the records.

        Args:
            features: Shape (n, F), n at least 2; of more than ``MAX_KNOWN`` an even choice counts.
        """
        if len(features) > MAX_KNOWN:
            features = features[np.linspace(0, len(features) - 1, MAX_KNOWN).astype(np.intp)]
        values = features.astype(np.float64)
        low, centre, high = np.percentile(values, [25.0, 50.0, 75.0], axis=0)
        plain = values.std(axis=0)
        scale = np.where(high > low, (high - low) / 1.349, plain)
        self._weights = (1.0 / np.where(scale > _SMALLEST, scale, 1.0) / np.sqrt(values.shape[1])).astype(np.float32)
        self._centre = centre.astype(np.float32)
        known = self._scaled(features)
        # |v - k|^2 = |v|^2 + (|k|^2 - 2 v k): only what is in brackets differs between the known records.
        self._squares = np.einsum("ij,ij->i", known, known)
        self._doubled = np.ascontiguousarray(-2.0 * known.T)
        own = np.concatenate(
            [self._nearest(known[start : start + _AT_ONCE], start) for start in range(0, len(known), _AT_ONCE)]
        )
        typical, far = (max(float(each), _LEAST) for each in np.percentile(own, [TYPICAL, FAR]))
        self._typical, self.limit = typical, far / typical

    def distance(self, features: Matrix) -> Numbers:
        """Return the distance of each row of features from the nearest known record, shape (n,)."""
        values = self._scaled(features)
        if len(values) <= _AT_ONCE:
            return self._nearest(values) / self._typical
        parts = [self._nearest(values[start : start + _AT_ONCE]) for start in range(0, len(values), _AT_ONCE)]
        return np.concatenate(parts) / self._typical

    def _scaled(self, features: Matrix) -> Matrix:
        scaled: Matrix = (features - self._centre) * self._weights
        return scaled

    def _nearest(self, values: Matrix, own: int | None = None) -> Numbers:
        """Return distances from the nearest record; from another one where the values are the records from a place on."""
        apart = self._products(values)
        apart += self._squares
        if own is not None:
            rows = np.arange(len(values))
            apart[rows, own + rows] = np.inf
        squares = apart.min(axis=1) + np.einsum("ij,ij->i", values, values)
        found: Numbers = np.sqrt(np.maximum(squares, 0.0), dtype=np.float64)
        return found

    def _products(self, values: Matrix) -> Matrix:
        """Return the matrix product with the known records, in this thread alone.

        The threads of the linear algebra library cost a few rows many times their time where cores are busy.
        """
        if (rows := _ALONE // self._doubled.size) == 0:
            products: Matrix = np.einsum("ij,jk->ik", values, self._doubled)
            return products
        products = np.empty((len(values), self._doubled.shape[1]), dtype=np.float32)
        for start in range(0, len(values), rows):
            np.matmul(values[start : start + rows], self._doubled, out=products[start : start + rows])
        return products


class DistanceThread:
    """Measures distances: of few records directly, of many in one thread and in parts, so that requests take turns.

    Predictions have the other cores meanwhile.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._requests = 0

    async def measure(self, distances: Callable[[Matrix], list[float]], features: Matrix) -> list[float]:
        """Return the distances of rows of features.

        Args:
            distances: Measures a part of them.
            features: Shape (n, F).

        Raises:
            BusyError: Too many requests wait.
        """
        if features.size <= _QUICK:
            return distances(features)
        if self._requests >= MAX_REQUESTS:
            raise BusyError(
                f"{MAX_REQUESTS} requests for warnings of many records are in progress; send this one again later, or without."
            )
        self._requests += 1
        try:
            self._worker = worker = self._worker or Worker("distances")
            rows = max(1, _PART // features.shape[1])
            found: list[float] = []
            for start in range(0, len(features), rows):
                found += await worker.run(partial(distances, features[start : start + rows]))
            return found
        finally:
            self._requests -= 1


def sample_features(pipeline: Pipeline, sample: pa.Table) -> Matrix:
    """Return the features of a model's sample of raw records, without those that cannot be processed."""
    processed, _ = pipeline.split(sample)
    features: Matrix = processed.select(pipeline.dataset.feature_names).to_numpy().astype(np.float32)
    return features


class RecordWarning(msgspec.Struct, frozen=True):
    """Why the prediction of a record is less sure than others.

    ``field`` is the column that is meant; null for the record as a whole.
    """

    field: str | None
    problem: str

    @property
    def text(self) -> str:
        """Field and problem as one text."""
        return f"{self.field} {self.problem}" if self.field is not None else f"the record {self.problem}"


def record_warnings(distances: Sequence[float], outside: Sequence[OutsideRange]) -> list[list[RecordWarning]]:
    """Return the warnings of every record.

    Args:
        distances: From what is known, in units of :attr:`KnownRecords.limit`.
        outside: Values outside of their ranges.
    """
    found: list[list[RecordWarning]] = [[] for _ in distances]
    for each in outside:
        for place in each.records:
            found[place].append(RecordWarning(each.column.name, each.problem))
    for place, distance in enumerate(distances):
        if distance > 1.0:
            problem = f"is {distance:.1f} times as far from the training data as {FAR:g} % of these are from each other"
            found[place].append(RecordWarning(None, problem))
    return found
