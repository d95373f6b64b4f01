"""Serves the champion of the MLflow registry by REST and by the broker."""

from __future__ import annotations

from fastiot.core import ReplySubject
from typing_extensions import override

from complex_system.messaging.subjects import ML_SERVING_COLUMNS_SUBJECT, ML_SERVING_SUBJECT
from complex_system.service_layer.serving.service import ServingService
from complex_system.serving.models.mlflow import MlflowChampionSource
from complex_system.serving.models.source import ModelSource
from complex_system.tracking.registry import ModelRegistry


class MlServingMlflowService(ServingService):
    """Answers ``get-prediction`` with the champion."""

    port_field = "serving_mlflow_port"

    @override
    def make_source(self) -> ModelSource:
        prefix = self.settings.model_prefix or self.dataset.name
        registry = ModelRegistry(self.settings.mlflow_tracking_uri, prefix)
        return MlflowChampionSource(registry, self.pipeline if self.settings.serving_foreign_models else None)

    @override
    def subjects(self) -> list[ReplySubject]:
        return [ML_SERVING_SUBJECT]

    @override
    def columns_subjects(self) -> list[ReplySubject]:
        return [ML_SERVING_COLUMNS_SUBJECT]
