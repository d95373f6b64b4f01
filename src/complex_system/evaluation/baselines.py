"""What a model must beat: the mean of the training data, and a linear model of the same features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from complex_system.training.base import Scores
from complex_system.training.data import Matrix, Samples

Predict = Callable[[Matrix], Matrix]
"""Features of shape (n, features) to predictions of shape (n,), in the target's unit."""


def fit_mean(train: Samples) -> Predict:
    """Predicts the mean of the training targets, whatever comes."""
    mean = float(np.mean(train.y, dtype=np.float64))
    return lambda x: np.full(len(x), mean, dtype=np.float32)


def fit_linear(train: Samples) -> Predict:
    """Least squares with an intercept; of several solutions, as one-hot features have them, the one of the smallest norm."""
    centre_x, centre_y = train.x.mean(axis=0, dtype=np.float64), train.y.mean(dtype=np.float64)
    weights, *_ = np.linalg.lstsq(train.x - centre_x, train.y - centre_y, rcond=None)
    return lambda x: ((x - centre_x) @ weights + centre_y).astype(np.float32)


BASELINES: dict[str, Callable[[Samples], Predict]] = {"mean": fit_mean, "linear": fit_linear}
"""The baselines by name."""


def baseline_scores(train: Samples, holdout: Samples) -> dict[str, Scores]:
    """How the baselines do on the hold-out part, fitted on what the trainers trained on."""
    return {name: Scores.of(holdout.y, fit(train)(holdout.x)) for name, fit in BASELINES.items()}
