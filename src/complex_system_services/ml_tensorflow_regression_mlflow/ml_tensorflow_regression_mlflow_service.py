"""Trains a network with TensorFlow and registers it in MLflow."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from complex_system.service_layer.training.service import TrainerService
from complex_system.training.base import Trainer, TrainingParameters


class MlTensorflowRegressionMlflowService(TrainerService):
    """Trains with TensorFlow."""

    trainer_name: ClassVar[str] = "tensorflow"
    framework: ClassVar[str] = "tensorflow"

    @override
    def make_trainer(self, parameters: TrainingParameters) -> Trainer:
        from complex_system.training.tensorflow import TensorFlowTrainer

        return TensorFlowTrainer(parameters)
