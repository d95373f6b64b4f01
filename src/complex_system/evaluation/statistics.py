"""How sure an error is, and how sure it is that one error is larger than another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.training.cross_validation import CrossValidation, standard_error

LEVEL = 0.95
DRAWS = 2000
_BLOCK = 100
MOST_FOR_BOOTSTRAP = 2000
"""Records from which on the interval of the normal distribution is taken: it is the same then to a few parts in a hundred."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure, and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """The three as JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def fold_interval(values: Sequence[float], folds: int) -> Interval:
    """The mean of fold scores with Student's interval, its standard error corrected for the folds' overlap.

    Source: Nadeau and Bengio, see :func:`~complex_system.training.cross_validation.standard_error`.
    """
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    mean = float(np.mean(values))
    reach = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * standard_error(values, folds)
    return Interval(mean, mean - reach, mean + reach)


def cross_interval(cross: CrossValidation) -> Interval:
    """The RMSE of a cross-validation; no end is below 0."""
    found = fold_interval(cross.rmses, cross.folds)
    return Interval(found.value, max(0.0, found.low), found.high)


def cross_difference(one: CrossValidation, other: CrossValidation) -> Interval:
    """How much larger the RMSE of the other is than that of the one, fold by fold; both must have the same records."""
    return fold_interval([b - a for a, b in zip(one.rmses, other.rmses, strict=True)], one.folds)


def rmse_interval(errors: npt.NDArray[Any], seed: int = 0) -> Interval:
    """The RMSE on the hold-out part with its interval over the records: bootstrap, bias-corrected and accelerated (BCa).

    Args:
        errors: Prediction less truth, shape (n,).
        seed: Of the draws.
    """
    squares = np.square(errors.astype(np.float64))[:, None]
    return _interval(squares, lambda means: np.sqrt(means[..., 0]), seed)


def rmse_difference(one: npt.NDArray[Any], other: npt.NDArray[Any], seed: int = 0) -> Interval:
    """How much larger the RMSE of the other is than that of the one on the same records; BCa with the records drawn in pairs.

    Args:
        one: Errors, shape (n,).
        other: Errors of the same records, in the same order.
        seed: Of the draws.
    """
    squares = np.column_stack([np.square(one.astype(np.float64)), np.square(other.astype(np.float64))])
    return _interval(squares, lambda means: np.sqrt(means[..., 1]) - np.sqrt(means[..., 0]), seed)


def _interval(values: Array, statistic: Callable[[Array], Array], seed: int) -> Interval:
    """BCa interval of a function of the columns' means.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 14.3. For many records the delta method:
    the jackknife's standard error and the normal distribution.
    """
    n = len(values)
    found = float(statistic(values.mean(axis=0)))
    left_out = statistic((values.sum(axis=0) - values) / max(1, n - 1))
    off = left_out.mean() - left_out
    squares = float(np.sum(off**2))
    if n < 2 or squares == 0.0:  # all records are alike
        return Interval(found, found, found)
    normal = NormalDist()
    if n > MOST_FOR_BOOTSTRAP:
        reach = normal.inv_cdf((1 + LEVEL) / 2) * math.sqrt((n - 1) / n * squares)
        return Interval(found, found - reach, found + reach)
    random = np.random.default_rng(seed)
    # In blocks, so that it needs little memory.
    draws = np.concatenate(
        [statistic(values[random.integers(0, n, (_BLOCK, n))].mean(axis=1)) for _ in range(DRAWS // _BLOCK)]
    )
    below = float(np.mean(draws < found) + np.mean(draws == found) / 2)
    bias = normal.inv_cdf(min(max(below, 1 / DRAWS), 1 - 1 / DRAWS))
    acceleration = float(np.sum(off**3)) / (6 * squares**1.5)

    def share(level: float) -> float:
        z = bias + normal.inv_cdf(level)
        return normal.cdf(bias + z / (1 - acceleration * z))

    low, high = np.quantile(draws, [share((1 - LEVEL) / 2), share((1 + LEVEL) / 2)])
    return Interval(found, float(low), float(high))
