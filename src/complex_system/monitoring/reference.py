"""The training data of a model as histograms, quantiles and shares of every raw column and every processed feature.

The trainers log it with the run as ``reference/reference.json``; monitoring compares what is predicted with the champion's. It is
computed from the labelled records of the training part, which the model has seen: from all of their features, in their order, and
from an even sample of ``RAW_SAMPLE`` of the raw records with the same keys.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.polynomial.legendre import legvander

from complex_system.domain.columns import NUMERIC
from complex_system.domain.dataset import Column, Dataset
from complex_system.domain.records import Record
from complex_system.training.data import Matrix

RAW_SAMPLE = 5000
"""Raw training records that the reference of the raw columns is computed from, at most."""
BINS = 10
"""Quantile bins of a number, over which the stability index is computed."""
DRAWN_BINS = 20
"""Even bins of a number, for a picture."""
QUANTILES = 101
"""Quantiles that are kept of a number: the smallest value, each percent, the largest."""
DEGREES = 4
"""Scores of a number: location, spread, skewness and tails. An indicator has one."""
MIN_BATCHES = 10
"""Batches that the training records are divided into, at least, to find out how long records depend on each other."""

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
ColumnValues = Values | list[str | None]
"""Of a raw column: numbers, or categories."""


class Score(msgspec.Struct, frozen=True):
    """A score (:func:`scores_of`) in the training data.

    Attributes:
        mean: Its mean.
        deviation: Its standard deviation.
        dependence: Training records, in their order, that tell as much as one independent record.
        at_most: The same if the dependence reaches further than the training data can tell.
    """

    mean: float
    deviation: float
    dependence: float = 1.0
    at_most: float = 1.0


class NumberReference(msgspec.Struct, frozen=True, tag_field="type", tag="number"):
    """A number in the reference.

    Attributes:
        samples: Records, those without a value included.
        missing: Share of the records without a value.
        edges: Inner edges of the bins; a bin ends with its edge included. Indicators have one, 0.5.
        counts: Values by bin.
        drawn_edges: Edges of even bins from the smallest to the largest.
        drawn_counts: Values by even bin.
        quantiles: ``QUANTILES`` of them.
        deviation: Standard deviation.
        indicator: Whether it is a boolean, or a feature of a one-hot, multi-hot or bin step: 0 or 1.
        scores: Of a feature; empty in a raw column, and in the reference of an earlier release.
    """

    samples: int
    missing: float
    edges: Values
    counts: Counts
    drawn_edges: Values
    drawn_counts: Counts
    quantiles: Values
    deviation: float
    indicator: bool = False
    scores: tuple[Score, ...] = ()

    @classmethod
    def of(cls, values: Values, *, indicator: bool = False, scored: bool = False) -> NumberReference:
        """Count values.

        Args:
            values: In their order; NaN stands for a missing one, and at least one must be there.
            indicator: Whether they are 0 and 1.
            scored: Whether live records will be tested against it.
        """
        known = values[np.isfinite(values)]
        edges = np.array([0.5]) if indicator else inner_edges(known)
        drawn = np.linspace(0.0, 1.0, 3) if indicator else even_edges(known)
        quantiles = np.quantile(known, np.linspace(0, 1, QUANTILES))
        series = scores_of(quantiles, known, indicator=indicator).T if scored else ()
        return cls(
            samples=len(values),
            missing=1 - len(known) / len(values),
            edges=edges,
            counts=binned(known, edges),
            drawn_edges=drawn,
            drawn_counts=drawn_count(known, drawn),
            quantiles=quantiles,
            deviation=float(known.std()),
            indicator=indicator,
            scores=tuple(Score(float(each.mean()), float(each.std()), *dependence_of(each)) for each in series),
        )


class CategoryReference(msgspec.Struct, frozen=True, tag_field="type", tag="category"):
    """A category in the reference.

    Attributes:
        samples: Records, those without a value included.
        missing: Share of the records without a value.
        counts: Records by category, those declared that did not occur included.
        shares: The same as shares of the records with a value.
    """

    samples: int
    missing: float
    counts: dict[str, int]
    shares: dict[str, float] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, values: Sequence[str | None], categories: Sequence[str]) -> CategoryReference:
        """Count values; None stands for a missing one."""
        counts = {**dict.fromkeys(categories, 0), **Counter(value for value in values if value is not None)}
        known = sum(counts.values())
        shares = {name: count / max(1, known) for name, count in counts.items()}
        return cls(len(values), 1 - known / len(values), counts, shares)


ColumnReference = NumberReference | CategoryReference


class _Artifact(msgspec.Struct):
    """A reference as it is logged."""

    pipeline_version: str
    raw: dict[str, ColumnReference]
    processed: dict[str, ColumnReference]
    density: float = 1.0


@dataclass(frozen=True)
class Reference:
    """The reference of a model.

    Attributes:
        pipeline_version: Of the features.
        raw: By raw column: numbers and categories. Empty where the raw records could not be read.
        processed: By feature.
        source: Where it comes from: ``champion`` (the run's artifact) or ``database``.
        density: Training records for each record of the source, labelled or not, in the same time: at most 1.
    """

    pipeline_version: str
    raw: dict[str, ColumnReference]
    processed: dict[str, ColumnReference]
    source: str = field(default="champion", compare=False)
    density: float = 1.0

    @property
    def samples(self) -> int:
        """Training records behind the features."""
        return max((column.samples for column in self.processed.values()), default=0)

    @classmethod
    def of(
        cls, dataset: Dataset, features: Matrix, raw: pa.Table | None = None, source: str = "champion", density: float = 1.0
    ) -> Reference:
        """Compute a reference.

        Args:
            dataset: Declares columns and features.
            features: Of the training part in its order, shape (n, features), n at least 1, columns as ``dataset.feature_names``.
            raw: Raw records of the training part; None or empty where there are none.
            source: Where it comes from.
            density: Training records for each record of the source, at most 1.
        """
        indicators = indicator_names(dataset)
        processed: dict[str, ColumnReference] = {
            name: NumberReference.of(features[:, i].astype(np.float64), indicator=name in indicators, scored=True)
            for i, name in enumerate(dataset.feature_names)
        }
        columns = columns_of(dataset, raw.to_pylist()) if raw is not None and raw.num_rows else {}
        made = {name: _of_column(dataset.column(name), values) for name, values in columns.items()}
        raws = {name: each for name, each in made.items() if each is not None}
        return cls(dataset.version, raws, processed, source, density)

    def encoded(self) -> bytes:
        """Return it as JSON, as the artifact holds it."""
        artifact = _Artifact(self.pipeline_version, self.raw, self.processed, self.density)
        return msgspec.json.encode(artifact, enc_hook=lambda array: array.tolist())

    @classmethod
    def decoded(cls, encoded: bytes) -> Reference:
        """Read what :meth:`encoded` made.

        Raises:
            ValueError: It is something else.
        """
        try:
            read = msgspec.json.decode(encoded, type=_Artifact, dec_hook=_array)
        except msgspec.MsgspecError as error:
            raise ValueError(f"This is not a reference: {error}") from error
        return cls(read.pipeline_version, read.raw, read.processed, density=read.density)


def density_of(dataset: Dataset, training: int, labelled: int) -> float:
    """Return the training records for each labelled record in the same time: all of them with a split by time."""
    return 1.0 if dataset.split.by == "time" else training / max(training, labelled)


def places_of(quantiles: Values, values: Values) -> Values:
    """Return the places of finite values in a distribution, 0 to 1; equal values have the middle of theirs.

    Args:
        quantiles: Evenly spaced quantiles of the distribution.
        values: Any number of values.
    """
    left, right = np.searchsorted(quantiles, values, side="left"), np.searchsorted(quantiles, values, side="right")
    last = len(quantiles) - 1
    below = np.clip(left - 1, 0, last - 1)
    width = quantiles[below + 1] - quantiles[below]
    between = below + np.clip((values - quantiles[below]) / np.where(width > 0, width, 1.0), 0.0, 1.0)
    places: Values = np.where(right > left, (left + right - 1) / 2, between) / last
    return places


def scores_of(quantiles: Values, values: Values, *, indicator: bool) -> Values:
    """Return the scores of finite values, shape (values, ``DEGREES``), or (values, 1) of an indicator.

    Those of a number are the first Legendre polynomials of its place in the training data, normalized: location, spread, skewness
    and tails, the components of J. Neyman's smooth test (1937). They are bounded, so that one value proves nothing.
    """
    if indicator:
        return values[:, None]
    polynomials = legvander(2 * places_of(quantiles, values) - 1, DEGREES)[:, 1:].astype(np.float64)
    scores: Values = polynomials * np.sqrt(2 * np.arange(1, DEGREES + 1) + 1)
    return scores


def dependence_of(series: Values) -> tuple[float, float]:
    """Return how many values of a series, in its order, tell as much about its mean as one independent value, and an upper estimate.

    The variance of the mean of a batch of values as a multiple of what it would be if the values were independent, for overlapping
    batches (M. S. Meketon, B. Schmeiser, 1984) of 2, 4, 8, ... values, of which ``MIN_BATCHES`` fit beside each other. Each is divided
    by one plus its relative standard error for independent batches, sqrt(4 / 3 batches); then the largest counts. The upper estimate
    is what it would be if it grew on with longer batches, the over-lugsail estimate of the longest (D. Vats, J. M. Flegal, 2022), or
    what quarters of the series tell.
    """
    n, variance = len(series), float(series.var())
    longest = n // MIN_BATCHES
    if variance == 0 or longest < 3:
        return 1.0, 1.0
    sums = np.concatenate([[0.0], np.cumsum(series - series.mean())])

    def ratio(size: int) -> float:
        return float(np.mean((sums[size:] - sums[:-size]) ** 2)) / (size * (1 - size / n) * variance)

    sizes = {min(2**power, longest) for power in range(1, longest.bit_length() + 1)}
    found = max(1.0, *(ratio(size) / (1 + math.sqrt(4 * size / (3 * n))) for size in sizes))
    return found, max(found, 2 * ratio(longest) - ratio(longest // 3), ratio(n // 4))


def _array(kind: Any, values: Any) -> Any:
    return np.asarray(values, dtype=np.int64 if kind == Counts else np.float64)


def watched_columns(dataset: Dataset) -> list[Column]:
    """Return the raw columns that are compared: numbers, integers, booleans and categories, without the target."""
    return [c for c in dataset.columns if c.type in (*NUMERIC, "category") and c.name != dataset.target]


def columns_of(dataset: Dataset, records: Sequence[Record]) -> dict[str, ColumnValues]:
    """Return the watched columns of raw records: float64 arrays (NaN is missing, booleans are 0 and 1), and lists of texts."""
    columns: dict[str, ColumnValues] = {}
    for column in watched_columns(dataset):
        values = [record.get(column.name) for record in records]
        if column.type in NUMERIC:
            columns[column.name] = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        else:
            columns[column.name] = [None if value is None else str(value) for value in values]
    return columns


def indicator_names(dataset: Dataset) -> set[str]:
    """Return the features that are 0 or 1."""
    steps = (step for step in dataset.pipeline if step.step in ("one_hot", "multi_hot", "bins"))
    return {name for step in steps for name in dataset.features_of(step)}


def inner_edges(values: Values) -> Values:
    """Return the inner edges between the quantile bins; fewer where many values are equal."""
    inner = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    if len(inner) == 1:
        # All but a few values are the same: without an edge below it, a shift downwards would not be seen.
        below: float = np.nextafter(np.float32(inner[0]), np.float32(-np.inf))
        return np.array([float(below), inner[0]])
    return inner


def even_edges(values: Values) -> Values:
    """Return the edges of even bins over all values."""
    low, high = float(values.min()), float(values.max())
    return np.linspace(low, high if high > low else low + 1.0, DRAWN_BINS + 1)


def binned(values: Values, edges: Values) -> Counts:
    """Return the number of values by bin between inner edges; a bin ends with its edge included."""
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def drawn_count(values: Values, edges: Values) -> Counts:
    """Return the number of values by even bin; what lies outside counts in the first or the last."""
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].astype(np.int64)


def _of_column(column: Column, values: Any) -> ColumnReference | None:
    if column.type == "category":
        return CategoryReference.of(values, column.categories)
    return NumberReference.of(values, indicator=column.type == "boolean") if np.isfinite(values).any() else None
