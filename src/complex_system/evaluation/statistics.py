"""Errors of predictions with 95 % intervals, and the difference between two errors on the same records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from complex_system.protocol.scores import CrossValidation, Residuals
from complex_system.protocol.training import Quality, ScoresWithInterval
from complex_system.training.base import residuals_of, score
from complex_system.training.data import Matrix, Samples
from complex_system.training.out_of_fold import standard_error

LEVEL = 0.95
MIN_UNITS = 30
"""Independent units (records or groups) from which on an interval covers about what it says."""
HEAVY_TAILS = 5.0
"""Kurtosis above which errors have heavy tails; that of the normal distribution is 3."""

Array = npt.NDArray[np.float64]


def blocks(count: int) -> npt.NDArray[np.intp]:
    """Return the block of each of so many consecutive records: at most 30 blocks, of at least 10 records.

    Errors that follow each other in time are alike; the means of long blocks are about independent (method of batch means).
    Source: B. Schmeiser, Batch Size Effects in the Analysis of Simulation Output, Operations Research 30 (1982).
    """
    return np.arange(count) * min(30, max(2, count // 10)) // count


def units_of(samples: Samples, split_by: str) -> npt.NDArray[Any] | None:
    """Return for each sample the unit that it belongs to: blocks with a split by time, else its group; None where each is one."""
    if split_by == "time" and samples.times is not None:
        places = np.argsort(np.argsort(samples.times, kind="stable"), kind="stable")
        return blocks(len(samples))[places]
    return samples.groups


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """By how much the RMSE of one model is lower than that of another on the same records.

    Attributes:
        p: Probability of a difference at least as large if the one is not better.
    """

    p: float


@dataclass(frozen=True)
class Squares:
    """Squared errors, added up over each unit: a group of records whose errors may be alike, or a single record.

    Attributes:
        sums: Sum of the squared errors of each unit.
        sizes: Records of each unit.
        units: How many independent units there are.
    """

    sums: Array = field(repr=False, compare=False)
    sizes: Array = field(repr=False, compare=False)
    units: int

    @classmethod
    def of(cls, errors: npt.NDArray[Any], groups: npt.NDArray[Any] | None = None) -> Squares:
        """Add up squared errors.

        Args:
            errors: Prediction less truth, shape (n,).
            groups: Group of each record; None where records are independent. A single group tells nothing of other groups: then
                the units are the records, and only ``units`` says that they are not independent.
        """
        squares = np.square(errors.astype(np.float64))
        if groups is None:
            return cls(squares, np.ones(len(squares)), len(squares))
        _, numbers = np.unique(groups, return_inverse=True)
        sizes = np.bincount(numbers).astype(np.float64)
        if len(sizes) < 2:
            return cls(squares, np.ones(len(squares)), len(sizes))
        return cls(np.bincount(numbers, weights=squares).astype(np.float64), sizes, len(sizes))

    @classmethod
    def of_folds(cls, cross: CrossValidation, split_by: str, chosen: npt.NDArray[np.intp] | None = None) -> Squares:
        """Return those of a cross-validation; without any for a model of an earlier release.

        Args:
            cross: The cross-validation.
            split_by: What the split goes by (``Split.by``). By time, consecutive groups are one unit (``blocks``).
            chosen: Places of the groups that count; None for all.
        """
        sums, sizes = np.array(cross.squares), _sizes(cross)
        if chosen is not None:
            sums, sizes = sums[chosen], sizes[chosen]
        if split_by == "time" and len(sums):
            numbers = blocks(len(sums))
            sums, sizes = (np.bincount(numbers, weights=each).astype(np.float64) for each in (sums, sizes))
        return cls(sums, sizes, len(sums))

    @property
    def mse(self) -> float:
        """The mean squared error."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def kurtosis(self) -> float:
        """How much of the error a few units make: for records the kurtosis of the errors, 3 for normal ones."""
        means = self.sums / self.sizes
        return float(np.mean(means**2) / np.mean(means) ** 2) if means.any() else 0.0


def rmse_interval(squares: Squares) -> Interval:
    """Return the RMSE with its interval: Student's t of the logarithm of the mean squared error, over the units.

    The logarithm takes most of the skewness from a mean of squares; its standard error is the mean's over the mean (delta method).
    """
    mse = squares.mse
    value = math.sqrt(mse)
    if mse == 0.0 or len(squares.sums) < 2:
        return Interval(value, value, value)
    reach = _reach(len(squares.sums)) * _standard_error(squares.sums, squares.sizes) / mse / 2
    return Interval(value, value * math.exp(-reach), value * math.exp(reach))


def rmse_difference(one: Squares, other: Squares) -> Difference:
    """Return the RMSE of the other less that of the one on the same records: a paired t-test of the squared errors, over the units.

    The difference of two roots is that of the squares over their sum. Source: F. Diebold and R. Mariano, Comparing Predictive
    Accuracy, Journal of Business and Economic Statistics 13 (1995).

    Args:
        one: Of the one.
        other: Of the other, with the same units in the same order.
    """
    ours, theirs = math.sqrt(one.mse), math.sqrt(other.mse)
    if ours + theirs == 0.0:
        return Difference(0.0, 0.0, 0.0, 1.0)
    error = _standard_error((other.sums - one.sums) / (ours + theirs), one.sizes)
    return _difference(theirs - ours, error, len(one.sums))


def fold_interval(values: Sequence[float], folds: int) -> Interval:
    """Return the mean of fold scores with Student's interval, its standard error corrected for the folds' overlap.

    Source: Nadeau and Bengio, see :func:`~complex_system.training.out_of_fold.standard_error`.
    """
    mean = float(np.mean(values))
    reach = _reach(len(values)) * standard_error(values, folds)
    return Interval(mean, mean - reach, mean + reach)


def cross_interval(cross: CrossValidation) -> Interval:
    """Return the RMSE of a cross-validation; the interval does not go below 0."""
    found = fold_interval(cross.rmses, cross.folds)
    return Interval(found.value, max(0.0, found.low), found.high)


def cross_difference(one: CrossValidation, other: CrossValidation, split_by: str = "key") -> tuple[Difference | None, int]:
    """Return the RMSE of the other less that of the one, on the records that both were validated with, and how many these are.

    Record by record as on the hold-out part: each was predicted by models that had not seen it. The handful of folds (see
    :func:`fold_interval`) would hardly ever tell two models apart. None where fewer than two units are common.
    """
    _, ours, theirs = np.intersect1d(one.groups, other.groups, return_indices=True)
    if split_by == "time":
        order = np.argsort(ours)  # that of time; a group that has got records since may have another place in the other one
        ours, theirs = ours[order], theirs[order]
    complete = _sizes(one)[ours] == _sizes(other)[theirs]  # not a group that has got records since
    mine, others = (Squares.of_folds(cross, split_by, each[complete]) for cross, each in ((one, ours), (other, theirs)))
    if len(mine.sums) < 2:
        return None, 0
    found, records = rmse_difference(mine, others), int(mine.sizes.sum())
    if one.digest != other.digest:
        return found, records
    moved = other.rmse - one.rmse - found.value  # to the means over the folds, which are shown
    return Difference(found.value + moved, found.low + moved, found.high + moved, found.p), records


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a model or a baseline did.

    Attributes:
        quality: Its figures.
        errors: Prediction less truth of every hold-out sample.
        squares: The squared errors, by what is independent.
        units: What each hold-out sample belongs to (:func:`units_of`).
        cross: Its cross-validation, where the records are few.
    """

    quality: Quality
    errors: Matrix = field(repr=False, compare=False)
    squares: Squares
    units: npt.NDArray[Any] | None = field(default=None, repr=False, compare=False)
    cross: CrossValidation | None = None

    @classmethod
    def of(
        cls, predicted: Matrix, holdout: Samples, cross: CrossValidation | None = None, split_by: str = "key"
    ) -> Evaluation:
        """Evaluate predictions of the hold-out samples.

        Args:
            predicted: Shape (n,).
            holdout: The samples.
            cross: The cross-validation, where there is one.
            split_by: What the split goes by (``Split.by``), for what is independent.
        """
        errors = predicted - holdout.y
        units = units_of(holdout, split_by)
        squares = Squares.of(errors, units)
        interval = rmse_interval(squares)
        scores = msgspec.structs.asdict(score(holdout.y, predicted))
        quality = Quality(**scores, rmse_low=interval.low, rmse_high=interval.high, cv=_folds_quality(cross))
        return cls(quality=quality, errors=errors, squares=squares, units=units, cross=cross)

    def residuals(self, by: str) -> Residuals:
        """Return the errors of the folds where ``by`` is ``cross-validation`` and they are known, else those on the hold-out part."""
        folds = self.cross.residuals if self.cross is not None and by == "cross-validation" else None
        return folds or residuals_of(self.errors, () if self.units is None else self.units)


def _folds_quality(cross: CrossValidation | None) -> ScoresWithInterval | None:
    if cross is None:
        return None
    interval = cross_interval(cross)
    return ScoresWithInterval(
        rmse=interval.value, mae=cross.mae, r2=cross.r2, rmse_low=interval.low, rmse_high=interval.high
    )


def _sizes(cross: CrossValidation) -> Array:
    return np.array(cross.sizes or (1,) * len(cross.squares), dtype=np.float64)


def _reach(units: int) -> float:
    """Return how many standard errors an interval reaches to either side."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(units - 1, (1 + LEVEL) / 2))


def _standard_error(sums: Array, sizes: Array) -> float:
    """Return the standard error of the mean over all records of what is summed over each unit; units are independent."""
    units, n = len(sums), sizes.sum()
    if units < 2:
        return 0.0
    off = sums - sizes * (sums.sum() / n)
    return float(math.sqrt(units / (units - 1) * np.sum(off**2)) / n)


def _difference(value: float, error: float, units: int) -> Difference:
    from scipy.special import stdtr

    if units < 2 or error == 0.0:
        return Difference(value, value, value, 0.0 if value > 0 else 1.0)
    reach = _reach(units) * error
    return Difference(value, value - reach, value + reach, float(stdtr(units - 1, -value / error)))
