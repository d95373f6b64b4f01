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
from complex_system.training.cross_validation import standard_error, summed_by
from complex_system.training.data import Matrix, Samples

LEVEL = 0.95
MIN_UNITS = 30
"""Independent units (records or groups) from which on an interval covers about what it says."""
HEAVY_TAILS = 5.0
"""Kurtosis above which errors have heavy tails; that of the normal distribution is 3."""

Array = npt.NDArray[np.float64]


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
        sums, sizes = summed_by(groups, squares)
        if len(sums) < 2:
            return cls(squares, np.ones(len(squares)), len(sums))
        return cls(sums, sizes.astype(np.float64), len(sums))

    @classmethod
    def of_folds(cls, cross: CrossValidation) -> Squares | None:
        """Return those of a cross-validation; None for a model of an earlier release."""
        if not cross.squares:
            return None
        sums, sizes = np.array(cross.squares), np.array(cross.sizes or (1,) * len(cross.squares), dtype=np.float64)
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
    """Return the RMSE of the other less that of the one on the same records: a paired t-test over the units.

    Source: F. Diebold and R. Mariano, Comparing Predictive Accuracy, Journal of Business and Economic Statistics 13 (1995), with the
    delta method from mean squared errors to their roots.

    Args:
        one: Of the one.
        other: Of the other, with the same units in the same order.
    """
    return _difference(math.sqrt(other.mse) - math.sqrt(one.mse), *_paired(one, other))


def fold_interval(values: Sequence[float], folds: int) -> Interval:
    """Return the mean of fold scores with Student's interval, its standard error corrected for the folds' overlap.

    Source: Nadeau and Bengio, see :func:`~complex_system.training.cross_validation.standard_error`.
    """
    mean = float(np.mean(values))
    reach = _reach(len(values)) * standard_error(values, folds)
    return Interval(mean, mean - reach, mean + reach)


def cross_interval(cross: CrossValidation) -> Interval:
    """Return the RMSE of a cross-validation; the interval does not go below 0."""
    found = fold_interval(cross.rmses, cross.folds)
    return Interval(found.value, max(0.0, found.low), found.high)


def cross_difference(one: CrossValidation, other: CrossValidation) -> Difference:
    """Return the RMSE of the other less that of the one; both must have the same records.

    Record by record as on the hold-out part: each is predicted by models that have not seen it, and a handful of folds would
    hardly ever tell two models apart. With a model of an earlier release, fold by fold.
    """
    ours, theirs = Squares.of_folds(one), Squares.of_folds(other)
    value = other.rmse - one.rmse
    if ours is not None and theirs is not None and len(ours.sums) == len(theirs.sums):
        return _difference(value, *_paired(ours, theirs))
    differences = [b - a for a, b in zip(one.rmses, other.rmses, strict=True)]
    return _difference(value, standard_error(differences, one.folds), len(differences))


def same_records(one: CrossValidation | None, other: CrossValidation | None) -> bool:
    """Return whether two cross-validations can be compared."""
    return bool(one and other and one.digest == other.digest and len(one.rmses) == len(other.rmses))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a model or a baseline did.

    Attributes:
        quality: Its figures.
        errors: Prediction less truth of every hold-out sample.
        squares: The squared errors, by what is independent.
        cross: Its cross-validation, where the records are few.
    """

    quality: Quality
    errors: Matrix = field(repr=False, compare=False)
    squares: Squares
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
        squares = Squares.of(errors, holdout.units(split_by))
        interval = rmse_interval(squares)
        scores = msgspec.structs.asdict(score(holdout.y, predicted))
        quality = Quality(**scores, rmse_low=interval.low, rmse_high=interval.high, cv=_folds_quality(cross))
        return cls(quality=quality, errors=errors, squares=squares, cross=cross)

    def residuals(self, by: str) -> Residuals:
        """Return the errors of the folds where ``by`` is ``cross-validation`` and they are known, else those on the hold-out part."""
        folds = self.cross.residuals if self.cross is not None and by == "cross-validation" else None
        return folds or residuals_of(self.errors)


def _folds_quality(cross: CrossValidation | None) -> ScoresWithInterval | None:
    if cross is None:
        return None
    interval = cross_interval(cross)
    return ScoresWithInterval(
        rmse=interval.value, mae=cross.mae, r2=cross.r2, rmse_low=interval.low, rmse_high=interval.high
    )


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


def _paired(one: Squares, other: Squares) -> tuple[float, int]:
    """Return the standard error of the difference of two RMSEs, and the units that it is of."""
    parts = other.sums / (2 * math.sqrt(other.mse) or 1.0) - one.sums / (2 * math.sqrt(one.mse) or 1.0)
    return _standard_error(parts, one.sizes), len(parts)


def _difference(value: float, error: float, units: int) -> Difference:
    from scipy.special import stdtr

    if units < 2 or error == 0.0:
        return Difference(value, value, value, 0.0 if value > 0 else 1.0)
    reach = _reach(units) * error
    return Difference(value, value - reach, value + reach, float(stdtr(units - 1, -value / error)))
