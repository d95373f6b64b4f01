"""Trains an ensemble on piecewise-linear encodings with PyTorch and registers it in MLflow."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from complex_system.service_layer.training.service import TrainerService
from complex_system.training.base import Trainer, TrainingParameters


class MlPytorchRegressionMlflowService(TrainerService):
    """Trains with PyTorch."""

    trainer_name: ClassVar[str] = "pytorch"
    framework: ClassVar[str] = "pytorch"

    @override
    def make_trainer(self, parameters: TrainingParameters) -> Trainer:
        from complex_system.training.pytorch import PiecewiseTrainer

        return PiecewiseTrainer(parameters)
