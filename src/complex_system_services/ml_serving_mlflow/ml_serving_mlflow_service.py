"""Serves the champion of the MLflow registry over REST and NATS."""

from __future__ import annotations

from typing_extensions import override

from complex_system.service_layer.serving.service import ServingService
from complex_system.serving.models.mlflow import MlflowChampionSource
from complex_system.serving.models.source import ModelSource
from complex_system.tracking.registry import ModelRegistry


class MlServingMlflowService(ServingService):
    """Answers ``get-prediction`` with the champion."""

    @override
    def make_source(self) -> ModelSource:
        settings = self.settings
        registry = ModelRegistry(
            settings.mlflow_tracking_uri, settings.model_prefix or self.dataset.name, settings.model_key
        )
        return MlflowChampionSource(registry, self.pipeline, settings.foreign_models)
