"""Errors of predictions with confidence intervals, and the difference between two errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from complex_system.protocol.scores import CrossValidation
from complex_system.protocol.training import Quality, ScoresWithInterval
from complex_system.training.base import score
from complex_system.training.cross_validation import standard_error
from complex_system.training.data import Matrix, Samples

LEVEL = 0.95
DRAWS = 2000
_BLOCK = 100
MAX_BOOTSTRAP_RECORDS = 2000
"""Records above which the interval of the normal distribution is taken; there it differs by a few percent only."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def fold_interval(values: Sequence[float], folds: int) -> Interval:
    """Return the mean of fold scores with Student's interval, its standard error corrected for the folds' overlap.

    Source: Nadeau and Bengio, see :func:`~complex_system.training.cross_validation.standard_error`.
    """
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    mean = float(np.mean(values))
    reach = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * standard_error(values, folds)
    return Interval(mean, mean - reach, mean + reach)


def cross_interval(cross: CrossValidation) -> Interval:
    """Return the RMSE of a cross-validation; the interval does not go below 0."""
    found = fold_interval(cross.rmses, cross.folds)
    return Interval(found.value, max(0.0, found.low), found.high)


def cross_difference(one: CrossValidation, other: CrossValidation) -> Interval:
    """Return the RMSE of the other less that of the one, fold by fold; both must have the same records."""
    return fold_interval([b - a for a, b in zip(one.rmses, other.rmses, strict=True)], one.folds)


def rmse_interval(errors: npt.NDArray[Any], seed: int = 0) -> Interval:
    """Return the RMSE on the hold-out part with its interval over the records: bootstrap, bias-corrected and accelerated (BCa).

    Args:
        errors: Prediction less truth, shape (n,).
        seed: Of the draws.
    """
    squares = np.square(errors.astype(np.float64))[:, None]
    return _interval(squares, lambda means: np.sqrt(means[..., 0]), seed)


def rmse_difference(one: npt.NDArray[Any], other: npt.NDArray[Any], seed: int = 0) -> Interval:
    """Return the RMSE of the other less that of the one on the same records; BCa with the records drawn in pairs.

    Args:
        one: Errors, shape (n,).
        other: Errors of the same records, in the same order.
        seed: Of the draws.
    """
    squares = np.column_stack([np.square(one.astype(np.float64)), np.square(other.astype(np.float64))])
    return _interval(squares, lambda means: np.sqrt(means[..., 1]) - np.sqrt(means[..., 0]), seed)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a model or a baseline did.

    Attributes:
        quality: Its figures.
        errors: Prediction less truth of every hold-out sample.
        cross: Its cross-validation, where the records are few.
    """

    quality: Quality
    errors: Matrix = field(repr=False, compare=False)
    cross: CrossValidation | None = None

    @classmethod
    def of(cls, predicted: Matrix, holdout: Samples, cross: CrossValidation | None = None) -> Evaluation:
        """Evaluate predictions of the hold-out samples."""
        errors = predicted - holdout.y
        interval = rmse_interval(errors)
        scores = msgspec.structs.asdict(score(holdout.y, predicted))
        quality = Quality(**scores, rmse_low=interval.low, rmse_high=interval.high, cv=_folds_quality(cross))
        return cls(quality=quality, errors=errors, cross=cross)


def _folds_quality(cross: CrossValidation | None) -> ScoresWithInterval | None:
    if cross is None:
        return None
    interval = cross_interval(cross)
    return ScoresWithInterval(
        rmse=interval.value, mae=cross.mae, r2=cross.r2, rmse_low=interval.low, rmse_high=interval.high
    )


def _interval(values: Array, statistic: Callable[[Array], Array], seed: int) -> Interval:
    """Return the BCa interval of a function of the columns' means.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 14.3. For many records the delta method:
    the jackknife's standard error and the normal distribution.
    """
    n = len(values)
    found = float(statistic(values.mean(axis=0)))
    left_out = statistic((values.sum(axis=0) - values) / max(1, n - 1))
    off = left_out.mean() - left_out
    squares = float(np.sum(off**2))
    if n < 2 or squares == 0.0:  # all records have the same error
        return Interval(found, found, found)
    normal = NormalDist()
    if n > MAX_BOOTSTRAP_RECORDS:
        reach = normal.inv_cdf((1 + LEVEL) / 2) * math.sqrt((n - 1) / n * squares)
        return Interval(found, found - reach, found + reach)
    random = np.random.default_rng(seed)
    # In blocks, to save memory.
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
