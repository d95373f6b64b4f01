"""The interface of trainers, and of the models that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from complex_system.protocol.scores import Residuals, Scores
from complex_system.training.data import Matrix, TrainingData
from complex_system.training.executor import SEQUENTIAL, Executor, Look, never
from complex_system.training.peers import ALONE, Peers

if TYPE_CHECKING:
    from complex_system.training.cross_validation import Keyed

Parameter = str | int | float | bool


@dataclass(frozen=True)
class Progress:
    """Progress of a training. ``train_rmse`` and ``validation_rmse`` are in the target's own unit."""

    step: int
    steps: int
    train_rmse: float
    validation_rmse: float


ProgressCallback = Callable[[Progress], None]
"""Called after every epoch or boosting round, in the training thread. An exception that it raises ends the training."""


@dataclass(frozen=True)
class TrainingParameters:
    """The settings of a training."""

    seed: int = 1
    epochs: int = 200
    patience: int = 20
    learning_rate: float = 0.001
    network_batch: int = 64
    boosting_rounds: int = 2000
    lightgbm_trials: int = 30
    lightgbm_seconds: float = 20.0
    device: Literal["auto", "cpu"] = "auto"

    @classmethod
    def of(cls, settings: object) -> TrainingParameters:
        """Take the parameters from the settings of the same names."""
        return cls(**{each.name: getattr(settings, each.name) for each in fields(cls)})


@dataclass(eq=False)
class TrainedModel(ABC):
    """A trained model with scaling inside: it takes features and predicts in the target's own unit.

    Attributes:
        feature_names: Columns of ``x``, in order.
        parameters: What the training used, as it is logged.
        history: Progress of every step.
        best_step: The step that this model is of.
        native: The framework's own model object, as its MLflow flavor logs it.
        validation_predictions: Of the validation part, by a fit that stopped early by it, where the model was then trained again on
            that part, too; else None.
    """

    flavor: ClassVar[str]
    """MLflow flavor: ``lightgbm``, ``pytorch`` or ``tensorflow``."""

    feature_names: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    history: list[Progress]
    best_step: int
    native: Any
    validation_predictions: Matrix | None = None

    def predicted_validation(self, data: TrainingData) -> Matrix:
        """Return predictions of shape (n,) of the validation part that no fit was trained on; early stopping has seen it."""
        found = self.validation_predictions
        return self.predict(data.validation.x) if found is None else found

    @abstractmethod
    def predict(self, x: Matrix) -> Matrix:
        """Return predictions of shape (n,) for features of shape (n, features)."""

    @abstractmethod
    def saved(self) -> bytes:
        """Return the native model as bytes that hold no code; :meth:`Trainer.restored` reads them."""

    @abstractmethod
    def to_onnx(self) -> bytes:
        """Return the model as ONNX with input ``ONNX_INPUT``, output ``ONNX_OUTPUT`` and a free batch size."""


class Trainer(ABC):
    """Trains one framework's model. Seeded: the same data and parameters give the same model on the same machine."""

    framework: ClassVar[str]
    """``lightgbm``, ``pytorch`` or ``tensorflow``."""
    distributes: ClassVar[bool] = False
    """Whether several workers can train one model, each on its share of the samples."""
    on_gpus: ClassVar[bool] = False
    """Whether it trains on a GPU where there is one."""

    def __init__(self, parameters: TrainingParameters | None = None) -> None:
        self.parameters = parameters or TrainingParameters()

    @abstractmethod
    def prepare(self) -> None:
        """Import the framework, which may take seconds. Called in a thread before the first training."""

    @property
    def searches(self) -> bool:
        """Whether :meth:`tuned` takes time."""
        return False

    def tuned(self, data: TrainingData, few: Keyed | None, look: Look = never, executor: Executor = SEQUENTIAL) -> Trainer:
        """Return a trainer with the parameters that suit such data best; this one, where the framework has no search.

        Args:
            data: What the next model is trained on.
            few: All labelled records, where they are few.
            look: Called often; an exception that it raises ends the search.
            executor: Runs the fits of the search.
        """
        del data, few, look, executor
        return self

    @property
    def searched(self) -> dict[str, Any]:
        """What :meth:`tuned` found, as JSON values; empty without a search."""
        return {}

    def with_searched(self, found: Mapping[str, Any]) -> Trainer:
        """Return a trainer with what :attr:`searched` of an earlier one was, without another search."""
        del found
        return self

    @abstractmethod
    def fit(self, data: TrainingData, on_progress: ProgressCallback, peers: Peers = ALONE) -> TrainedModel:
        """Train on ``data.train``, stop early on ``data.validation``, and return the best step's model.

        Feature and target scaling are estimated on ``data.train`` alone and become part of the model. A trainer may then train again
        on both parts; its model has ``validation_predictions``. Blocking; runs in a thread.

        Args:
            data: All samples, or the share of this worker.
            on_progress: Called after every step, with the errors on everybody's samples.
            peers: Who else trains this model, where the trainer :attr:`distributes`; all return the same one.
        """

    @abstractmethod
    def restored(
        self,
        saved: bytes,
        feature_names: tuple[str, ...],
        parameters: Mapping[str, Parameter],
        history: list[Progress],
        best_step: int,
    ) -> TrainedModel:
        """Return the model that :meth:`TrainedModel.saved` made bytes of.

        Raises:
            ValueError: The bytes are not such a model.
        """


KEPT_ERRORS = 101
"""Quantiles that are kept of the errors of an evaluation."""


def residuals_of(errors: npt.NDArray[Any], groups: Sequence[str] | npt.NDArray[Any] = ()) -> Residuals:
    """Return the sizes of the errors of an evaluation.

    Where errors of one group are alike, n records tell as much as n / (1 + (m - 1) r) independent ones, with m the mean size of a
    record's group and r the correlation within groups (L. Kish, Survey Sampling, 1965), by analysis of variance of their ranks.

    Args:
        errors: Prediction less truth, shape (n,), or (repeats, n) where every record was predicted several times.
        groups: The group of every record; empty where each is one of its own.
    """
    sizes = np.abs(np.atleast_2d(errors).astype(np.float64))
    kept = np.quantile(sizes, np.linspace(0, 1, min(KEPT_ERRORS, sizes.size)))
    alike = _design_effect(sizes.mean(axis=0), groups) if len(groups) else 1.0
    return Residuals(count=sizes.shape[1], quantiles=tuple(float(f"{value:.5g}") for value in kept), alike=round(alike, 3))


def _design_effect(sizes: npt.NDArray[np.float64], groups: Sequence[str] | npt.NDArray[Any]) -> float:
    _, numbers = np.unique(groups, return_inverse=True)
    counts, n = np.bincount(numbers), len(sizes)
    k = len(counts)
    if k in (1, n):
        return 1.0 if k == n else float(n)
    ranks = np.argsort(np.argsort(sizes)) / n
    means = np.bincount(numbers, weights=ranks) / counts
    between = float(np.sum(counts * (means - ranks.mean()) ** 2)) / (k - 1)
    within = float(np.sum((ranks - means[numbers]) ** 2)) / (n - k)
    typical = (n - float(np.sum(counts**2)) / n) / (k - 1)
    correlation = max(0.0, (between - within) / (between + (typical - 1) * within)) if between + within else 0.0
    return 1.0 + (float(np.sum(counts**2)) / n - 1) * correlation


def huber_threshold(y: Matrix) -> float:
    """Return the residual beyond which Huber's loss grows with the distance only, in the target's unit.

    It is 1.345 times the spread, which costs 5 % efficiency where nothing is wrong: P. Huber, Robust Estimation of a Location
    Parameter, Ann. Math. Stat. 35 (1964). The spread is that of the training targets (:func:`robust_spread`): that of the residuals is
    not known before the training, and labels that are wrong by a factor lie beyond either.
    """
    return 1.345 * robust_spread(y)


def robust_spread(y: Matrix) -> float:
    """Return the standard deviation by the median absolute deviation; the plain one where more than half of the values are equal."""
    values = y.astype(np.float64)
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return spread or float(values.std()) or 1.0


def score(truth: Matrix, predicted: Matrix) -> Scores:
    """Score predictions of shape (n,).

    R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2, and 0 for a constant truth.
    """
    error = truth.astype(np.float64) - predicted.astype(np.float64)
    spread = float(np.sum((truth - truth.mean(dtype=np.float64)) ** 2))
    return Scores(
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.mean(np.abs(error))),
        r2=1.0 - float(np.sum(error**2)) / spread if spread else 0.0,
    )
