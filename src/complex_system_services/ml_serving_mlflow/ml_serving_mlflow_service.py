"""Serves the champion of the MLflow registry over REST and NATS."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from complex_system.messaging.subjects import PREDICT
from complex_system.protocol.base import ArrowPage, Request
from complex_system.protocol.serving import EXPLAIN, PREDICT_COLUMNS, ExplainedPredictions, ExplainRequest
from complex_system.service_layer.serving.service import ServingService
from complex_system.serving.models.mlflow import MlflowChampionSource
from complex_system.serving.models.source import ModelSource
from complex_system.tracking.registry import ModelRegistry


class MlServingMlflowService(ServingService):
    """Answers ``get-prediction`` with the champion."""

    port_field = "serving_mlflow_port"

    @override
    def make_source(self) -> ModelSource:
        settings = self.settings
        registry = ModelRegistry(
            settings.mlflow_tracking_uri, settings.model_prefix or self.dataset.name, settings.model_key
        )
        return MlflowChampionSource(registry, self.pipeline, settings.foreign_models)

    @override
    def subjects(self) -> list[Request[Any, Any]]:
        return [PREDICT]

    @override
    def columns_subjects(self) -> list[Request[ArrowPage, ArrowPage]]:
        return [PREDICT_COLUMNS]

    @override
    def explain_subjects(self) -> list[Request[ExplainRequest, ExplainedPredictions]]:
        return [EXPLAIN]
