"""What a model must beat: the mean of the training data, and a linear model of the same features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from complex_system.training.cross_validation import CrossValidation, Fit, Keyed, Predict, cross_validate
from complex_system.training.data import Samples


def fit_mean(train: Samples) -> Predict:
    """Predicts the mean of the training targets, whatever comes."""
    mean = float(np.mean(train.y, dtype=np.float64))
    return lambda x: np.full(len(x), mean, dtype=np.float32)


def fit_linear(train: Samples) -> Predict:
    """Least squares with an intercept; of several solutions, as one-hot features have them, the one of the smallest norm."""
    centre_x, centre_y = train.x.mean(axis=0, dtype=np.float64), train.y.mean(dtype=np.float64)
    weights, *_ = np.linalg.lstsq(train.x - centre_x, train.y - centre_y, rcond=None)
    return lambda x: ((x - centre_x) @ weights + centre_y).astype(np.float32)


MEAN, LINEAR = "mean", "linear"
BASELINES: dict[str, Callable[[Samples], Predict]] = {MEAN: fit_mean, LINEAR: fit_linear}
"""The baselines by name."""


def for_folds(fit: Callable[[Samples], Predict]) -> Fit:
    """A baseline as :func:`~complex_system.training.cross_validation.cross_validate` takes it.

    Nothing stops it early, so it is fitted on all that lies outside the fold: the models see no more.
    """

    def fitted(train: Samples, validation: Samples) -> Predict:
        return fit(Samples(np.concatenate([train.x, validation.x]), np.concatenate([train.y, validation.y])))

    return fitted


def cross_validated_baseline(name: str, records: Keyed) -> CrossValidation:
    """How a baseline does in the folds of the trainers."""
    return cross_validate(for_folds(BASELINES[name]), records)
