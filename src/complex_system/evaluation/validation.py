"""How sure an error is: cross-validation for few records, and an interval for the error on one hold-out part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from complex_system.errors import NotEnoughDataError
from complex_system.evaluation.baselines import Predict
from complex_system.training.base import Scores
from complex_system.training.data import Samples

FEW_LABELLED = 2000
"""Labelled records below which one hold-out part says too little and models are cross-validated."""
LEVEL = 0.95
_DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """An RMSE in the target's unit, and the ends of its 95 % confidence interval."""

    rmse: float
    low: float
    high: float


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found.

    Attributes:
        rmse: The mean over the folds, with its interval.
        folds: The scores of each fold.
    """

    rmse: Interval
    folds: tuple[Scores, ...]


def cross_validated(
    fit: Callable[[Samples], Predict], samples: Samples, *, folds: int = 5, repeats: int = 2, seed: int = 0
) -> CrossValidation:
    """Fits on all folds but one and scores that one, for every fold, and again with other folds.

    The interval is Student's with the variance corrected for the training sets' overlap: s^2 (1/m + 1/(k-1)) for m scores of k folds.
    Source: C. Nadeau and Y. Bengio, Inference for the Generalization Error, Machine Learning 52 (2003).

    Raises:
        NotEnoughDataError: There are fewer than two samples a fold.
    """
    if len(samples) < 2 * folds:
        raise NotEnoughDataError(
            f"Cross-validation in {folds} folds needs {2 * folds} labelled records; there are {len(samples)}."
        )
    random = np.random.default_rng(seed)
    scores: list[Scores] = []
    for _ in range(repeats):
        for held_out in np.array_split(random.permutation(len(samples)), folds):
            kept = np.ones(len(samples), dtype=bool)
            kept[held_out] = False
            predict = fit(Samples(samples.x[kept], samples.y[kept]))
            scores.append(Scores.of(samples.y[held_out], predict(samples.x[held_out])))
    errors = np.array([score.rmse for score in scores])
    spread = np.sqrt(errors.var(ddof=1) * (1 / len(errors) + 1 / (folds - 1)))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(errors) - 1) * spread)
    mean = float(errors.mean())
    return CrossValidation(Interval(mean, max(0.0, mean - reach), mean + reach), tuple(scores))


def holdout_interval(predict: Predict, holdout: Samples, *, seed: int = 0) -> Interval:
    """The RMSE on a hold-out part with its percentile bootstrap interval over the records.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    squares = (predict(holdout.x).astype(np.float64) - holdout.y) ** 2
    random = np.random.default_rng(seed)
    draws = np.array([squares[random.integers(0, len(squares), len(squares))].mean() for _ in range(_DRAWS)])
    low, high = np.sqrt(np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Interval(float(np.sqrt(squares.mean())), float(low), float(high))
