"""What a model must beat: the mean of the training data, and a linear model of the same features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from complex_system.evaluation.statistics import Evaluation
from complex_system.protocol.scores import CrossValidation
from complex_system.training.cross_validation import Fit, Keyed, Predict, cross_validate
from complex_system.training.data import Samples
from complex_system.training.executor import Look, never
from complex_system.training.linear import LINEAR, fit_linear


def fit_mean(train: Samples) -> Predict:
    """Predict the mean of the training targets, whatever the features."""
    mean = float(np.mean(train.y, dtype=np.float64))
    return lambda x: np.full(len(x), mean, dtype=np.float32)


MEAN = "mean"
BASELINES: dict[str, Callable[[Samples], Predict]] = {MEAN: fit_mean, LINEAR: fit_linear}
"""The baselines by name."""


def for_folds(fit: Callable[[Samples], Predict]) -> Fit:
    """Return a baseline as :func:`~complex_system.training.cross_validation.cross_validate` takes it.

    It does not stop early, so it is fitted on everything outside the fold: the models see no more.
    """

    def fitted(train: Samples, validation: Samples, look: Look = never) -> Predict:
        del look  # it takes a moment
        return fit(Samples(np.concatenate([train.x, validation.x]), np.concatenate([train.y, validation.y])))

    return fitted


def cross_validated_baseline(name: str, records: Keyed) -> CrossValidation:
    """Cross-validate a baseline with the folds of the trainers."""
    return cross_validate(for_folds(BASELINES[name]), records)


def evaluate_baselines(
    train: Samples, holdout: Samples, few: Keyed | None = None, split_by: str = "key"
) -> dict[str, Evaluation]:
    """Evaluate the baselines on the hold-out part, fitted on the training part, and in the trainers' folds."""
    return {
        name: Evaluation.of(fit(train)(holdout.x), holdout, cross_validated_baseline(name, few) if few else None, split_by)
        for name, fit in BASELINES.items()
    }
