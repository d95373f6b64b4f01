"""Shared by the neural networks of both frameworks: scaling, averaging, and epochs with early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from complex_system.domain.dataset import Loss
from complex_system.errors import TrainingFailedError
from complex_system.training.base import Parameter, Progress, ProgressCallback, TrainingParameters, robust_spread
from complex_system.training.data import Matrix, Samples

W = TypeVar("W")

_LOSSES: dict[Loss, str] = {"squared": "mse", "absolute": "mae", "huber": "huber"}
AVERAGING = 0.998
"""Decay of the moving average of the weights per step.

The average over the last few hundred steps is 0.1 to 0.5 RMSE better on the lab data than the weights themselves, which
scatter as the target does, and depends less on the seed. Polyak and Juditsky,
Acceleration of stochastic approximation by averaging, SIAM J. Control Optim. 30 (1992).
"""


@dataclass(frozen=True)
class Scaling:
    """Mean and scale of features and target, in their own units. A constant column has scale 1."""

    feature_mean: Matrix
    feature_scale: Matrix
    target_mean: float
    target_scale: float

    @classmethod
    def of(cls, samples: Samples, loss: Loss = "squared") -> Scaling:
        """Return mean and standard deviation of the samples; the target's by its median for a loss that outliers do not decide."""
        spread = samples.x.std(axis=0, dtype=np.float64)
        robust = loss != "squared"
        target_mean = float(np.median(samples.y)) if robust else float(samples.y.mean(dtype=np.float64))
        target_spread = robust_spread(samples.y) if robust else float(samples.y.std(dtype=np.float64))
        return cls(
            feature_mean=samples.x.mean(axis=0, dtype=np.float64).astype(np.float32),
            feature_scale=np.where(spread > 1e-9, spread, 1.0).astype(np.float32),
            target_mean=target_mean,
            target_scale=target_spread if target_spread > 1e-9 else 1.0,
        )

    def apply(self, samples: Samples) -> tuple[Matrix, Matrix]:
        """Return features of shape (n, features) and targets of shape (n, 1), scaled to mean 0 and deviation 1."""
        x = ((samples.x - self.feature_mean) / self.feature_scale).astype(np.float32)
        return x, ((samples.y - self.target_mean) / self.target_scale).astype(np.float32)[:, None]

    def rmse(self, mse: float) -> float:
        """Return the RMSE in the target's unit for a mean squared error of scaled targets."""
        return self.target_scale * math.sqrt(mse)


@dataclass(frozen=True)
class Epoch:
    """Errors of one epoch.

    Attributes:
        train_rmse: In the target's unit.
        validation_rmse: In the target's unit.
        validation_loss: What the training makes small, on the validation part; early stopping goes by it.
    """

    train_rmse: float
    validation_rmse: float
    validation_loss: float


@dataclass(frozen=True)
class Course(Generic[W]):
    """The progress of every epoch, and the weights of the best one."""

    history: list[Progress]
    best_step: int
    best_weights: W


def network_parameters(
    parameters: TrainingParameters, layers: Sequence[int], loss: Loss, **others: float
) -> dict[str, Parameter]:
    """Return what is logged of a network's training; ``others`` are parameters of the framework."""
    return {
        "layers": "-".join(map(str, layers)), "activation": "relu", "optimizer": "adam", "loss": _LOSSES[loss],
        "learning_rate": parameters.learning_rate, **others, "weight_averaging": AVERAGING, "epochs": parameters.epochs,
        "patience": parameters.patience, "batch_size": parameters.network_batch, "seed": parameters.seed,
    }  # fmt: skip


def averaging_at(step: int) -> float:
    """Return the decay of the weights' average at a step from 1: small at first, so that the random start has no weight soon."""
    return min(AVERAGING, step / (step + 10))


def train_epochs(
    parameters: TrainingParameters,
    one_epoch: Callable[[], Epoch],
    weights: Callable[[], W],
    on_progress: ProgressCallback,
) -> Course[W]:
    """Train epoch by epoch until the validation loss has not improved for ``parameters.patience`` epochs.

    Args:
        parameters: ``epochs`` and ``patience`` are used.
        one_epoch: Goes once over all training samples.
        weights: Returns a copy of the present weights.
        on_progress: Called after every epoch.

    Raises:
        TrainingFailedError: The validation error was never finite.
    """
    history: list[Progress] = []
    best = math.inf
    best_step = 0
    best_weights: W | None = None
    for step in range(1, parameters.epochs + 1):
        epoch = one_epoch()
        history.append(Progress(step, parameters.epochs, epoch.train_rmse, epoch.validation_rmse))
        if epoch.validation_loss < best:
            best, best_step, best_weights = epoch.validation_loss, step, weights()
        on_progress(history[-1])
        if step - best_step >= parameters.patience:
            break
    if best_weights is None:
        raise TrainingFailedError(
            "The validation error was never finite: the training diverged, or the data are not finite. "
            f"Learning rate {parameters.learning_rate:g}."
        )
    return Course(history, best_step, best_weights)
