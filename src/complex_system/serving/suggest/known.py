"""How far records are from those that a model was trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from complex_system.pipeline.rows import Matrix

Numbers = npt.NDArray[np.float64]
TYPICAL = 95.0
"""Percentile of the known records' distances from their nearest neighbour that counts as the distance 1."""
_AT_ONCE = 256
_SMALLEST = 1e-9
_LEAST = 0.05
"""Distance that is 1 at least, in standard deviations: where most records are copies of others, half of them have the distance 0."""


class KnownRecords:
    """Distances from the nearest of some records, in the space of the features.

    A feature counts in its standard deviations by the interquartile range, and by the plain one where that is 0 (one-hot features). A
    distance is the root of the mean of the squares, in units of the distance that 95 % of the records have from their nearest.
    """

    def __init__(self, features: Matrix) -> None:
        """Measure the records.

        Args:
            features: Shape (n, F), n at least 2.
        """
        values = features.astype(np.float64)
        low, high = np.percentile(values, [25.0, 75.0], axis=0)
        plain = values.std(axis=0)
        scale = np.where(high > low, (high - low) / 1.349, plain)
        self._scale = np.where(scale > _SMALLEST, scale, 1.0) * np.sqrt(values.shape[1])
        self._known = values / self._scale
        self._squares = (self._known**2).sum(axis=1)
        own = np.array([np.partition(self._distances(self._known[[i]])[0], 1)[1] for i in range(len(values))])
        self._typical = max(float(np.percentile(own, TYPICAL)), _LEAST)

    def distance(self, features: Matrix) -> Numbers:
        """Return the distance of each row of features from the nearest known record, shape (n,)."""
        values = features.astype(np.float64) / self._scale
        parts = [self._distances(values[start : start + _AT_ONCE]).min(axis=1) for start in range(0, len(values), _AT_ONCE)]
        return np.concatenate(parts) / self._typical

    def _distances(self, values: Numbers) -> Numbers:
        squares = (values**2).sum(axis=1)[:, None] + self._squares - 2.0 * values @ self._known.T
        found: Numbers = np.sqrt(np.maximum(squares, 0.0))
        return found
