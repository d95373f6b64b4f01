"""Shared by the neural networks of both frameworks: scaling, steps of an epoch, averaging, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from complex_system.domain.dataset import Loss
from complex_system.errors import TrainingFailedError
from complex_system.training.base import Parameter, Progress, ProgressCallback, TrainingParameters, robust_spread
from complex_system.training.data import Matrix, Samples

W = TypeVar("W")

_LOSSES: dict[Loss, str] = {"squared": "mse", "absolute": "mae", "huber": "huber"}
CLIP = 4.0
"""Deviations from the mean beyond which a scaled feature counts as this many, also in the model: a record far outside of the others
neither decides the training nor gets a prediction far outside of theirs."""
AVERAGED_EPOCHS = 9
"""Epochs over whose steps the weights are averaged.

The average over the last few hundred steps is 0.1 to 0.5 RMSE better on the lab data than the weights themselves, which
scatter as the target does, and depends less on the seed. Polyak and Juditsky,
Acceleration of stochastic approximation by averaging, SIAM J. Control Optim. 30 (1992).
"""
MIN_STEPS = 50
"""Gradient steps of an epoch, at least: with few records 200 epochs of one step each end long before the minimum."""
MIN_BATCH = 16
"""Samples of a gradient step that are not reduced further to reach ``MIN_STEPS``; an epoch passes over the samples again instead."""
MEMBERS = 4
"""Networks of an ensemble, each from a random start of its own: their mean scatters less than they do."""
ONE_MEMBER_FROM = 20_000
"""Training samples from which one network takes the place of an ensemble: it scatters little there, and a training costs more."""
RATED_UNITS = 64
"""Units of a hidden layer that the learning rate of the settings is for."""
MAX_RATE_FACTOR = 4.0
"""By how much the learning rate of narrower layers is higher, at most."""
WARM_UP = 20
"""Epochs before patience counts: the average of the weights comes later than the weights."""
MIN_IMPROVEMENT = 0.001
"""Relative decrease of the validation loss that counts as an improvement for patience."""
_QUANTILE_SAMPLES = 50_000
"""Records that quantiles are estimated from, at most."""


@dataclass(frozen=True)
class Scaling:
    """Mean and scale of features and target, in their own units. A constant column has scale 1.

    The features' are those of winsorized values (:func:`winsorized`), so that a few extreme records do not move all others together.
    """

    feature_mean: Matrix
    feature_scale: Matrix
    target_mean: float
    target_scale: float

    @classmethod
    def of(cls, samples: Samples, loss: Loss = "squared") -> Scaling:
        """Return mean and standard deviation of the samples; the target's by its median for a loss that outliers do not decide."""
        columns = [winsorized(column) for column in samples.x.T]
        spread = np.array([column.std(dtype=np.float64) for column in columns])
        robust = loss != "squared"
        target_mean = float(np.median(samples.y)) if robust else float(samples.y.mean(dtype=np.float64))
        target_spread = robust_spread(samples.y) if robust else float(samples.y.std(dtype=np.float64))
        return cls(
            feature_mean=np.array([column.mean(dtype=np.float64) for column in columns], dtype=np.float32),
            feature_scale=np.where(spread > 1e-9, spread, 1.0).astype(np.float32),
            target_mean=target_mean,
            target_scale=target_spread if target_spread > 1e-9 else 1.0,
        )

    def apply(self, samples: Samples) -> tuple[Matrix, Matrix]:
        """Return features of shape (n, features) and targets of shape (n, 1), of mean 0 and deviation 1, features clipped."""
        x = (samples.x - self.feature_mean) / self.feature_scale
        return np.clip(x, -CLIP, CLIP, out=x), ((samples.y - self.target_mean) / self.target_scale).astype(np.float32)[
            :, None
        ]

    def rmse(self, mse: float) -> float:
        """Return the RMSE in the target's unit for a mean squared error of scaled targets."""
        return self.target_scale * math.sqrt(mse)


def winsorized(column: Matrix) -> Matrix:
    """Return a column of shape (n,), clipped at its 5 % and 95 % quantiles plus and minus the distance between them.

    A normal column is so clipped beyond 4.9 deviations. One whose quantiles are equal, such as a rare category, is returned as it is.
    """
    low, high = quantiles(column, (0.05, 0.95))
    return np.clip(column, 2 * low - high, 2 * high - low) if high > low else column


def quantiles(column: Matrix, at: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return quantiles of a column of shape (n,), of an even sample where it is long."""
    found: npt.NDArray[np.float64] = np.quantile(column[:: -(-len(column) // _QUANTILE_SAMPLES)].astype(np.float64), at)
    return found


@dataclass(frozen=True)
class Pace:
    """Steps of an epoch.

    Attributes:
        batch: Samples of a step.
        passes: How often an epoch goes over all samples.
        steps: Steps of an epoch.
    """

    batch: int
    passes: int
    steps: int

    @classmethod
    def of(cls, samples: int, largest_batch: int) -> Pace:
        """Return the largest batches that make ``MIN_STEPS`` steps, and as many passes as these need where samples are few."""
        batch = min(largest_batch, max(MIN_BATCH, samples // MIN_STEPS))
        passes = max(1, math.ceil(MIN_STEPS * batch / samples))
        return cls(batch, passes, math.ceil(passes * samples / batch))

    @property
    def averaging(self) -> float:
        """Decay of the moving average of the weights per step."""
        return 1.0 - 1.0 / (AVERAGED_EPOCHS * self.steps)

    def averaging_at(self, step: int) -> float:
        """Return the decay at a step from 1: small at first, so that the random start has no weight soon."""
        return min(self.averaging, step / (step + 10))


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


@dataclass
class Course(Generic[W]):
    """A training by epochs, as far as it has come.

    Attributes:
        history: The progress of every epoch.
        best: The smallest validation loss,
        best_step: the epoch that has it,
        best_weights: and the weights then; None where no loss was finite.
        to_beat: The validation loss that counts as an improvement for patience.
        last_improvement: The epoch of the last one; not before the end of the warm-up.
    """

    history: list[Progress] = field(default_factory=list)
    best: float = math.inf
    best_step: int = 0
    best_weights: W | None = None
    to_beat: float = math.inf
    last_improvement: int = WARM_UP

    def take(self, progress: Progress, loss: float, weights: Callable[[], W]) -> None:
        """Note an epoch and its validation loss; ``weights`` returns a copy of the present weights."""
        self.history.append(progress)
        if loss < self.best:
            self.best, self.best_step, self.best_weights = loss, progress.step, weights()
        if loss < self.to_beat:
            self.to_beat, self.last_improvement = (1 - MIN_IMPROVEMENT) * loss, max(progress.step, WARM_UP)

    def is_over(self, parameters: TrainingParameters) -> bool:
        """Whether all epochs are done, or the validation loss has not improved for ``parameters.patience`` of them."""
        step = len(self.history)
        return step >= parameters.epochs or step - self.last_improvement >= parameters.patience


def members_for(samples: int) -> int:
    """Return the number of networks of an ensemble for so many training samples."""
    return 1 if samples >= ONE_MEMBER_FROM else MEMBERS


def learning_rate(parameters: TrainingParameters, units: int) -> float:
    """Return Adam's learning rate for hidden layers of so many units: in inverse proportion to the width.

    Yang et al., Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer, NeurIPS 2021.
    """
    return parameters.learning_rate * min(MAX_RATE_FACTOR, RATED_UNITS / units)


def network_parameters(
    parameters: TrainingParameters, loss: Loss, pace: Pace, units: int, **others: Parameter
) -> dict[str, Parameter]:
    """Return what is logged of a network's training; ``others`` are its architecture and parameters of the framework.

    ``units`` are those of a hidden layer.
    """
    return {
        "activation": "relu", "optimizer": "adam", "loss": _LOSSES[loss],
        "learning_rate": learning_rate(parameters, units), **others, "weight_averaging": pace.averaging, "epochs": parameters.epochs,
        "patience": parameters.patience, "batch_size": pace.batch, "passes": pace.passes, "seed": parameters.seed,
    }  # fmt: skip


def train_epochs(
    parameters: TrainingParameters,
    one_epoch: Callable[[], Epoch],
    weights: Callable[[], W],
    on_progress: ProgressCallback,
    course: Course[W] | None = None,
) -> Course[W]:
    """Train epoch by epoch until the validation loss has not improved for ``parameters.patience`` epochs after the warm-up.

    Args:
        parameters: ``epochs`` and ``patience`` are used.
        one_epoch: Goes once over all training samples.
        weights: Returns a copy of the present weights.
        on_progress: Called after every epoch.
        course: What was trained before, which goes on; it is changed.

    Raises:
        TrainingFailedError: The validation error was never finite.
    """
    course = Course() if course is None else course
    while not course.is_over(parameters):
        epoch = one_epoch()
        step = len(course.history) + 1
        progress = Progress(step, parameters.epochs, epoch.train_rmse, epoch.validation_rmse)
        course.take(progress, epoch.validation_loss, weights)
        on_progress(progress)
    if course.best_weights is None:
        raise TrainingFailedError(
            "The validation error was never finite: the training diverged, or the data are not finite. "
            f"Learning rate {parameters.learning_rate:g}."
        )
    return course
