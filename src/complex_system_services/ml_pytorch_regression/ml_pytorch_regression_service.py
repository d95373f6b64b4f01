"""Trains the blueprint's network with PyTorch and logs it to Weights & Biases, and to MLflow."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from complex_system.service_layer.training.service import TrainerService
from complex_system.tracking.base import Tracker
from complex_system.training.base import Trainer, TrainingParameters


class MlPytorchRegressionService(TrainerService):
    """Trains with PyTorch; its models go to Weights & Biases, to the artifact store and to MLflow."""

    trainer_name: ClassVar[str] = "pytorch-wandb"
    framework: ClassVar[str] = "pytorch"

    @override
    def make_trainer(self, parameters: TrainingParameters) -> Trainer:
        from complex_system.training.pytorch import PyTorchTrainer

        return PyTorchTrainer(parameters)

    @override
    def make_tracker(self) -> Tracker:
        from complex_system.tracking.wandb import WandbTracker
        from complex_system.training.pytorch import state_bytes

        return WandbTracker(
            super().make_tracker(),
            state_bytes,
            mode=self.settings.wandb_mode,
            project=self.settings.wandb_project,
            group=self.settings.wandb_group,
            directory=self.settings.wandb_dir,
            model_key=self.settings.model_key,
        )
