"""Finds numbers that are not what the others are: codes for a missing value, values far away, misplaced decimal signs.

The robust z is the distance from the median in 1.4826 times the median absolute deviation: B. Iglewicz and D. Hoaglin, How to Detect
and Handle Outliers (1993). Each side of the median has a deviation of its own, because plant data are skewed.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
ROWS_NAMED = 8
"""Row numbers that are kept as examples."""
DISTINCT = 64
"""Different lowest and highest values that are kept with their rows."""
OUTLIER = 6.0
"""Robust z from which a value is an outlier."""
MIN_VALUES = 12
"""Different values from which outliers, and repeated codes, are looked for: a plan of experiments has fewer levels."""
_SENTINEL = re.compile(r"-?(9{2,}|8{4,})(\.9+)?|-[19]|-?(32767|32768|65535|2147483647|2147483648|1e\+?30)", re.IGNORECASE)
_MAX_SENTINELS = 3
_REPEATED = 3
"""Times that a value must be there to be taken for a code where it is not a usual one."""
_MAX_SHARE = 0.05
_FACTORS = (10.0, 0.1, 1000.0, 0.001)


@dataclass
class Seen:
    """How often a value is there, and in which rows first."""

    count: int = 0
    rows: list[int] = field(default_factory=list)

    def add(self, rows: Numbers) -> None:
        """Add the rows of a chunk that have the value."""
        self.count += len(rows)
        self.rows += rows[: ROWS_NAMED - len(self.rows)].tolist()


class Extremes(dict[float, Seen]):
    """The lowest and the highest values, with their rows, in memory that does not grow with the rows."""

    def __init__(self) -> None:
        super().__init__()
        self._inner = (np.inf, -np.inf)

    def take(self, values: Floats, rows: Numbers) -> None:
        """Take a chunk of values, none of them NaN, with the numbers of their rows."""
        low, high = self._inner
        keep = (values <= low) | (values >= high)
        values, rows = values[keep], rows[keep]
        if not len(values):
            return
        order = np.argsort(values, kind="stable")
        values, rows = values[order], rows[order]
        starts = np.append(0, np.flatnonzero(np.diff(values)) + 1)
        ends = np.append(starts[1:], len(values))
        for i in sorted({*range(len(starts))[:DISTINCT], *range(len(starts))[-DISTINCT:]}):
            self.setdefault(float(values[starts[i]]), Seen()).add(rows[starts[i] : ends[i]])
        if len(self) > 2 * DISTINCT:
            for value in sorted(self)[DISTINCT:-DISTINCT]:
                del self[value]
        if len(self) == 2 * DISTINCT:
            known = sorted(self)
            self._inner = known[DISTINCT - 1], known[DISTINCT]


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


def sentinels_of(values: Floats) -> tuple[float, ...]:
    """Return the lowest and highest numbers, far from all others, that are usual codes such as -9999 or 999, or repeat.

    Args:
        values: Of a column, without missing ones.
    """
    found: list[float] = []
    while len(found) < _MAX_SENTINELS:
        rest = values[~np.isin(values, found)]
        ends = (float(rest.min()), float(rest.max())) if len(rest) else ()
        new = next((value for value in ends if _is_code(value, rest)), None)
        if new is None:
            break
        found.append(new)
    return tuple(sorted(found))


def _is_code(value: float, values: Floats) -> bool:
    """Return whether the lowest or highest value is farther from the others than twice their width, and a usual code or repeated."""
    others = values[values != value]
    count = len(values) - len(others)
    if len(others) <= count:
        return False
    low, high = float(others.min()), float(others.max())
    gap = low - value if value < low else value - high
    if gap <= 2 * (high - low) or gap < abs(high if value > high else low):
        return False
    usual = _SENTINEL.fullmatch(f"{value:.15g}")
    return bool(usual) or (count >= _REPEATED and len(np.unique(others)) >= MIN_VALUES)


def outliers_of(
    extremes: Mapping[float, Seen], values: Floats, sentinels: Container[float], scale: RobustScale
) -> tuple[Seen, list[Slip]]:
    """Return how many values are outliers with their rows, the farthest first, and those with a misplaced decimal sign.

    Args:
        extremes: The lowest and highest values.
        values: All of them, or a sample, without sentinels.
        sentinels: Values that are not judged.
        scale: Of the values.
    """
    extremes = {value: seen for value, seen in extremes.items() if value not in sentinels}
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
