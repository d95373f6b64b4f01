"""What a framework must be able to do to train here, and what comes out of a training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from complex_system.training.data import Matrix, TrainingData


@dataclass(frozen=True)
class Progress:
    """Where a training is. ``train_rmse`` and ``validation_rmse`` are in the target's own unit."""

    step: int
    steps: int
    train_rmse: float
    validation_rmse: float


ProgressCallback = Callable[[Progress], None]
"""Called after every epoch or boosting round, in the training thread. An exception that it raises ends the training."""


@dataclass(frozen=True)
class TrainingParameters:
    """What trainers take from the settings."""

    seed: int = 1
    epochs: int = 200
    patience: int = 20
    learning_rate: float = 0.001
    network_batch: int = 64
    boosting_rounds: int = 2000


class TrainedModel(ABC):
    """A trained model with scaling inside: takes features, answers in the target's own unit.

    Attributes:
        feature_names: Columns of ``x``, in order.
        parameters: What the training used, as it is logged.
        history: Progress of every step.
        best_step: The step whose model this is.
        native: The framework's own model object, as its MLflow flavor logs it.
    """

    flavor: ClassVar[str]
    """MLflow flavor: ``lightgbm``, ``pytorch`` or ``tensorflow``."""

    def __init__(
        self,
        feature_names: tuple[str, ...],
        parameters: dict[str, Any],
        history: list[Progress],
        best_step: int,
        native: Any,
    ) -> None:
        self.feature_names = feature_names
        self.parameters = parameters
        self.history = history
        self.best_step = best_step
        self.native = native

    @abstractmethod
    def predict(self, x: Matrix) -> Matrix:
        """Predictions of shape (n,) for features of shape (n, features)."""

    @abstractmethod
    def to_onnx(self) -> bytes:
        """The model as ONNX with ``ONNX_INPUT`` and ``ONNX_OUTPUT``, batch size free."""


class Trainer(ABC):
    """Trains one framework's model. Seeded: the same data and parameters give the same model on the same machine."""

    framework: ClassVar[str]
    """``lightgbm``, ``pytorch`` or ``tensorflow``."""

    def __init__(self, parameters: TrainingParameters | None = None) -> None:
        self.parameters = parameters or TrainingParameters()

    @abstractmethod
    def prepare(self) -> None:
        """Imports the framework; seconds for some. Called in a thread before the first training."""

    @abstractmethod
    def fit(self, data: TrainingData, on_progress: ProgressCallback) -> TrainedModel:
        """Trains on ``data.train``, stops early on ``data.validation``, and returns the best step's model.

        Feature and target scaling are estimated on ``data.train`` alone and become part of the model. Blocking; runs in a
        thread.
        """


@dataclass(frozen=True)
class Scores:
    """How far predictions are from the truth: root mean square and mean absolute error in the target's unit, and R2."""

    rmse: float
    mae: float
    r2: float

    @classmethod
    def of(cls, truth: Matrix, predicted: Matrix) -> Scores:
        """Scores of predictions of shape (n,); R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2, and 0 for a constant truth."""
        error = truth.astype(np.float64) - predicted.astype(np.float64)
        spread = float(np.sum((truth - truth.mean(dtype=np.float64)) ** 2))
        return cls(
            rmse=float(np.sqrt(np.mean(error**2))),
            mae=float(np.mean(np.abs(error))),
            r2=1.0 - float(np.sum(error**2)) / spread if spread else 0.0,
        )

    def as_dict(self) -> dict[str, float]:
        """The three as JSON."""
        return {"rmse": self.rmse, "mae": self.mae, "r2": self.r2}
