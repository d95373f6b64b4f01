"""Serves the models of a folder, in place of MLflow's champion."""

from __future__ import annotations

import os
from pathlib import Path

from typing_extensions import override

from complex_system.service_layer.serving.service import ServingService
from complex_system.serving.models.source import ModelSource


class MlServingMlflowService(ServingService):
    """Serves what our own tracker has kept."""

    @override
    def make_source(self) -> ModelSource:
        from my_plant.folder_source import FolderSource

        return FolderSource(Path(os.environ["PLANT_MODELS"]), f"{self.dataset.name}-lightgbm")
