"""Trains gradient boosted trees with LightGBM and registers them in MLflow."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from complex_system.service_layer.training.service import TrainerService
from complex_system.training.base import Trainer, TrainingParameters


class MlLightgbmRegressionMlflowService(TrainerService):
    """Trains with LightGBM."""

    trainer_name: ClassVar[str] = "lightgbm"
    framework: ClassVar[str] = "lightgbm"

    @override
    def make_trainer(self, parameters: TrainingParameters) -> Trainer:
        from complex_system.training.lightgbm import LightGBMTrainer

        return LightGBMTrainer(parameters)
