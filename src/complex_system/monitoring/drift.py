"""Drift of the features: the population stability index of what is predicted against what the models were trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.domain.dataset import Dataset
from complex_system.training.data import Matrix

BINS = 10
"""Quantile bins of a continuous feature."""
MIN_LIVE = 30
"""Fewest records in the live window for which the index is reported; below, it is noise."""

Counts = npt.NDArray[np.int64]


def population_stability_index(reference: Counts, live: Counts) -> float:
    """The population stability index of two histograms over the same bins.

    PSI = sum over the bins of (l - r) * ln(l / r), with the shares r of the reference and l of the live records. Source: N.
    Siddiqi, Credit Risk Scorecards (Wiley, 2006); it is the Jeffreys divergence of the two histograms (H. Jeffreys, 1946).
    The conventional reading is: below 0.1 no change, 0.1 to 0.25 some, above 0.25 a major change.

    A bin that is empty on one side counts as half a record there, so that the logarithm exists and a small sample's empty bin is no
    alarm; a bin that is empty on both sides counts nothing. Without any
    drift the expected value is still about (bins - 1) * (1 / n_reference + 1 / n_live) (B. Yurdakul, 2018).

    Args:
        reference: Counts of the bins, not all zero.
        live: Counts of the same bins, not all zero.
    """
    used = (reference > 0) | (live > 0)
    r, n = (np.maximum(counts[used], 0.5) / counts.sum() for counts in (reference, live))
    return float(np.sum((n - r) * np.log(n / r)))


class FeatureReference:
    """Histograms of the training data, one a feature: all that is kept of them.

    A continuous feature has ten bins between its quantiles, fewer where many values are equal; an indicator (one-hot or bin) has
    the bins 0 and 1.
    """

    def __init__(self, dataset: Dataset, features: Matrix) -> None:
        """Counts the training data.

        Args:
            dataset: Says which features are indicators.
            features: Shape (n, features), columns in the order of ``dataset.feature_names``; n at least 1.
        """
        self.samples = len(features)
        indicators = _indicators(dataset)
        self._edges = {
            name: np.array([0.5]) if name in indicators else _edges(features[:, i])
            for i, name in enumerate(dataset.feature_names)
        }
        self._counts = self._count(features)

    def drift(self, live: Matrix) -> dict[str, float]:
        """The index of every feature for live records of shape (n, features); empty for fewer than ``MIN_LIVE``."""
        if len(live) < MIN_LIVE:
            return {}
        counts = self._count(live)
        return {name: population_stability_index(self._counts[name], counts[name]) for name in self._edges}

    def as_dict(self) -> dict[str, Any]:
        """The histograms as JSON: ``{feature: {"edges", "counts"}}``; a bin ends with its edge included."""
        return {
            name: {"edges": edges.tolist(), "counts": self._counts[name].tolist()} for name, edges in self._edges.items()
        }

    def _count(self, features: Matrix) -> dict[str, Counts]:
        return {
            name: np.bincount(np.searchsorted(edges, features[:, i], side="left"), minlength=len(edges) + 1)
            for i, (name, edges) in enumerate(self._edges.items())
        }


def _indicators(dataset: Dataset) -> set[str]:
    steps = (step for step in dataset.pipeline if step.step in ("one_hot", "multi_hot", "bins"))
    return {name for step in steps for name in dataset.features_of(step)}


def _edges(values: Matrix) -> npt.NDArray[np.float64]:
    """Inner edges between the quantile bins."""
    inner = np.unique(np.quantile(values.astype(np.float64), np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    if len(inner) == 1:
        # All but a few values are the same: without an edge below it, a shift downwards would not be seen.
        below: float = np.nextafter(np.float32(inner[0]), np.float32(-np.inf))
        return np.array([float(below), inner[0]])
    return inner
