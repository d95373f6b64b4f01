"""Serves the newest Weights & Biases artifact over REST and NATS."""

from __future__ import annotations

import logging
from typing import Any

from typing_extensions import override

from complex_system.messaging.handlers import hears
from complex_system.messaging.subjects import PREDICT, PREDICT_WANDB
from complex_system.protocol.base import ArrowPage, Request
from complex_system.protocol.operations import SERVICE_HEARTBEAT, Heartbeat, State
from complex_system.protocol.serving import (
    EXPLAIN,
    EXPLAIN_WANDB,
    PREDICT_COLUMNS,
    PREDICT_COLUMNS_WANDB,
    ExplainedPredictions,
    ExplainRequest,
)
from complex_system.protocol.training import TRAINING_FINISHED, TrainingFinished
from complex_system.service_layer.serving.service import ServingService
from complex_system.serving.models.source import ModelSource
from complex_system.serving.models.wandb import wandb_source

log = logging.getLogger(__name__)

CHAMPION_SERVICE = "ml_serving_mlflow"


class MlServingService(ServingService):
    """Answers on a subject of its own, and on ``get-prediction`` where it is the only serving service.

    Two services with different models on one subject would answer at random, so this one leaves ``get-prediction`` to any other
    service that answers there, also to one that starts later.
    """

    port_field = "serving_port"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._left_to = ""

    @override
    def make_source(self) -> ModelSource:
        return wandb_source(self.settings)

    @override
    def subjects(self) -> list[Request[Any, Any]]:
        return [PREDICT_WANDB, PREDICT] if self._answers_prediction else [PREDICT_WANDB]

    @override
    def columns_subjects(self) -> list[Request[ArrowPage, ArrowPage]]:
        return [PREDICT_COLUMNS_WANDB, PREDICT_COLUMNS] if self._answers_prediction else [PREDICT_COLUMNS_WANDB]

    @override
    def explain_subjects(self) -> list[Request[ExplainRequest, ExplainedPredictions]]:
        return [EXPLAIN_WANDB, EXPLAIN] if self._answers_prediction else [EXPLAIN_WANDB]

    @override
    async def on_start(self) -> None:
        if self.settings.serving_answers_prediction:
            other = await self.answerer(PREDICT, [])
            if other and other != type(self).__name__:  # a replica of this service has the same model
                self._leave_to(other)
        await super().on_start()

    @override
    def initial_state(self) -> tuple[State, str]:
        state, detail = super().initial_state()
        if self._left_to:
            detail += f"; does not answer '{PREDICT.name}', because {self._left_to} does"
        return state, detail

    @hears(SERVICE_HEARTBEAT)
    async def heartbeat(self, beat: Heartbeat) -> None:
        """Stop answering ``get-prediction`` as soon as the champion's service is there."""
        if beat.service == CHAMPION_SERVICE and self._answers_prediction:
            self._leave_to(CHAMPION_SERVICE)
            for given_up in (PREDICT, PREDICT_COLUMNS, EXPLAIN, *(request for request, _ in self.trials)):
                await self.stop_answering(given_up)
            if self._state != "starting":
                await self.set_state(*self.initial_state())

    @hears(TRAINING_FINISHED)
    async def training_finished(self, _: TrainingFinished) -> None:
        """Look for a newer artifact: there is one as soon as its trainer ends, whether or not it becomes champion."""
        await self.look_for_model()

    @property
    def _answers_prediction(self) -> bool:
        return bool(self.settings.serving_answers_prediction) and not self._left_to

    def _leave_to(self, other: str) -> None:
        self._left_to = other
        log.error(
            "'%s' is answered by %s, so not by this service; set COMPLEX_SYSTEM_SERVING_ANSWERS_PREDICTION only where it is the "
            "only serving service",
            PREDICT.name,
            other,
        )
