"""Finds numbers that are not what the others are: values far away, misplaced decimal signs."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from complex_system.describe.profile import ROWS_NAMED, ColumnProfile, Floats, Seen

OUTLIER = 6.0
"""Robust z from which a value is an outlier."""
MIN_VALUES = 12
"""Different values from which outliers are looked for."""
_MAX_SHARE = 0.05
_FACTORS = (10.0, 0.1, 1000.0, 0.001)


class Slip(NamedTuple):
    """A value that fits to the others when it is multiplied by a factor of 10 or 1,000, or divided by it."""

    row: int
    value: float
    factor: float


@dataclass(frozen=True)
class RobustScale:
    """Distances from the median in robust standard deviations, one for each side; of logarithms where these are more even."""

    median: float
    below: float
    above: float
    is_log: bool

    @classmethod
    def of(cls, values: Floats) -> RobustScale | None:
        """Return the scale of some values; None where more than half of them are equal."""
        if len(values) < MIN_VALUES:
            return None
        plain = cls._on(values, is_log=False)
        if plain is None or values.min() <= 0 or abs(_skew(values)) < 0.15:
            return plain
        logs = np.log(values)
        return cls._on(logs, is_log=True) if abs(_skew(logs)) < abs(_skew(values)) else plain

    @classmethod
    def _on(cls, values: Floats, *, is_log: bool) -> RobustScale | None:
        median = float(np.median(values))
        sides = [median - values[values <= median], values[values >= median] - median]
        below, above = (1.4826 * float(np.median(side)) for side in sides)
        both = 1.4826 * float(np.median(np.abs(values - median)))
        below, above = max(below, both / 4), max(above, both / 4)
        return cls(median, below, above, is_log) if min(below, above) > 0 else None

    def distance(self, values: Floats) -> Floats:
        """Return the robust z of values."""
        if self.is_log:
            values = np.log(np.maximum(values, np.finfo(float).tiny))
        away = values - self.median
        return np.where(away < 0, away / self.below, away / self.above)

    def inner(self, values: Floats) -> Floats:
        """Return the values that are not outliers."""
        return values[np.abs(self.distance(values)) <= OUTLIER]


def _skew(values: Floats) -> float:
    """Return Bowley's skewness, of the quartiles."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float((high + low - 2 * median) / (high - low)) if high > low else 0.0


def outliers_of(
    kept: ColumnProfile, values: Floats, sentinels: Container[float], scale: RobustScale
) -> tuple[Seen, list[Slip]]:
    """Return how many values are outliers with their rows, the farthest first, and those with a misplaced decimal sign.

    Args:
        kept: The column.
        values: Its sampled values without sentinels.
        sentinels: Values that are not judged.
        scale: Of the values.
    """
    extremes = {value: seen for value, seen in kept.extremes.items() if value not in sentinels}
    distances = np.abs(scale.distance(np.array(list(extremes))))
    far = sorted((-float(away), value) for value, away in zip(extremes, distances, strict=True) if away > OUTLIER)
    count = sum(extremes[value].count for _, value in far)
    inner = scale.inner(values)
    if len(far) == len(extremes):  # there are more than were kept with their rows
        count = max(count, len(values) - len(inner))
    if not far or count > _MAX_SHARE * len(values):  # so many are a part of their own
        return Seen(), []
    low, high = np.quantile(inner, (0.005, 0.995))
    found, slips = Seen(count), []
    for _, value in far:
        rows = extremes[value].rows
        found.rows += rows[: ROWS_NAMED - len(found.rows)]
        factor = next((factor for factor in _FACTORS if low <= value * factor <= high), None)
        if value and factor is not None:
            slips += [Slip(row, value, factor) for row in rows]
    return found, slips
