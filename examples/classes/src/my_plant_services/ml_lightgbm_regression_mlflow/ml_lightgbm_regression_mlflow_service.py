"""Trains with scikit-learn, in place of LightGBM's trainer."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from complex_system.service_layer.training.service import TrainerService
from complex_system.training.base import Trainer, TrainingParameters


class MlLightgbmRegressionMlflowService(TrainerService):
    """Trains with our own trainer."""

    trainer_name: ClassVar[str] = "lightgbm"
    framework: ClassVar[str] = "scikit-learn"

    @override
    def make_trainer(self, parameters: TrainingParameters) -> Trainer:
        from my_plant.boosting_trainer import BoostingTrainer

        return BoostingTrainer(parameters)
