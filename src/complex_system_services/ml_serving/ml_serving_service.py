"""Serves the newest Weights & Biases artifact by REST and by the broker."""

from __future__ import annotations

from typing import Any

from fastiot.core import ReplySubject
from typing_extensions import override

from complex_system.messaging.handlers import hears
from complex_system.messaging.subjects import (
    ML_SERVING_COLUMNS_SUBJECT,
    ML_SERVING_SUBJECT,
    ML_SERVING_WANDB_COLUMNS_SUBJECT,
    ML_SERVING_WANDB_SUBJECT,
    TRAINING_FINISHED,
)
from complex_system.roles.serving import ServingService
from complex_system.serving.sources import ModelSource
from complex_system.serving.wandb_source import wandb_source


class MlServingService(ServingService):
    """Answers on a subject of its own, and on ``get-prediction`` where it is the one serving service."""

    port_field = "serving_port"

    @override
    def make_source(self) -> ModelSource:
        return wandb_source(self.settings)

    @override
    def subjects(self) -> list[ReplySubject]:
        own = [ML_SERVING_WANDB_SUBJECT]
        return [*own, ML_SERVING_SUBJECT] if self.settings.serving_answers_prediction else own

    @override
    def columns_subjects(self) -> list[ReplySubject]:
        own = [ML_SERVING_WANDB_COLUMNS_SUBJECT]
        return [*own, ML_SERVING_COLUMNS_SUBJECT] if self.settings.serving_answers_prediction else own

    @hears(TRAINING_FINISHED)
    async def training_finished(self, _: Any) -> None:
        """The artifact is newer as soon as its trainer ends, whether or not it becomes champion."""
        await self.look_for_model()
