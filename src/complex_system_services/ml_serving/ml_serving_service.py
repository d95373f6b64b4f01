"""Serves the newest Weights & Biases artifact by REST and by the broker."""

from __future__ import annotations

import logging
from typing import Any

from fastiot.core import ReplySubject
from typing_extensions import override

from complex_system.messaging.handlers import hears
from complex_system.messaging.subjects import (
    ML_SERVING_COLUMNS_SUBJECT,
    ML_SERVING_SUBJECT,
    ML_SERVING_WANDB_COLUMNS_SUBJECT,
    ML_SERVING_WANDB_SUBJECT,
    SERVICE_HEARTBEAT,
    TRAINING_FINISHED,
)
from complex_system.protocol.operations import State
from complex_system.service_layer.serving.service import ServingService
from complex_system.serving.models.source import ModelSource
from complex_system.serving.models.wandb import wandb_source

log = logging.getLogger(__name__)

CHAMPION_SERVICE = "ml_serving_mlflow"


class MlServingService(ServingService):
    """Answers on a subject of its own, and on ``get-prediction`` where it is the one serving service.

    Two services with different models on one subject would give a client the one's predictions or the other's by chance, so it
    leaves ``get-prediction`` to whoever else answers there, also to one that comes later.
    """

    port_field = "serving_port"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._left_to = ""

    @override
    def make_source(self) -> ModelSource:
        return wandb_source(self.settings)

    @override
    def subjects(self) -> list[ReplySubject]:
        own = [ML_SERVING_WANDB_SUBJECT]
        return [*own, ML_SERVING_SUBJECT] if self.settings.serving_answers_prediction and not self._left_to else own

    @override
    def columns_subjects(self) -> list[ReplySubject]:
        own = [ML_SERVING_WANDB_COLUMNS_SUBJECT]
        return [*own, ML_SERVING_COLUMNS_SUBJECT] if self.settings.serving_answers_prediction and not self._left_to else own

    @override
    async def on_start(self) -> None:
        if self.settings.serving_answers_prediction:
            other = await self.answerer(ML_SERVING_SUBJECT, [])
            if other and other != type(self).__name__:  # not a replica of ours, which serves the same model
                self._leave_to(other)
        await super().on_start()

    @override
    def initial_state(self) -> tuple[State, str]:
        state, detail = super().initial_state()
        if self._left_to:
            detail += f"; does not answer '{ML_SERVING_SUBJECT.name}', because {self._left_to} does"
        return state, detail

    @hears(SERVICE_HEARTBEAT)
    async def another_is_there(self, beat: Any) -> None:
        """Gives ``get-prediction`` up as soon as the champion's service is there."""
        if beat["service"] == CHAMPION_SERVICE and self.settings.serving_answers_prediction and not self._left_to:
            self._leave_to(CHAMPION_SERVICE)
            await self.stop_answering(ML_SERVING_SUBJECT)
            await self.stop_answering(ML_SERVING_COLUMNS_SUBJECT)
            if self._state != "starting":
                await self.set_state(*self.initial_state())

    @hears(TRAINING_FINISHED)
    async def training_finished(self, _: Any) -> None:
        """The artifact is newer as soon as its trainer ends, whether or not it becomes champion."""
        await self.look_for_model()

    def _leave_to(self, other: str) -> None:
        self._left_to = other
        log.error(
            "'%s' is answered by %s, so not by this service; set COMPLEX_SYSTEM_SERVING_ANSWERS_PREDICTION only where it is the "
            "one serving service",
            ML_SERVING_SUBJECT.name,
            other,
        )
