"""The trainer keeps the contract of trainers."""

from __future__ import annotations

from complex_system.testing.trainers import TrainerContract
from my_plant.boosting_trainer import BoostingTrainer


class TestBoostingTrainer(TrainerContract):
    quality = 14.9

    @staticmethod
    def trainer_class() -> type[BoostingTrainer]:
        return BoostingTrainer
