"""The source of models keeps the contract of its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.testing.model_sources import ModelPlace, ModelSourceContract
from complex_system.testing.models import onnx_metadata
from my_plant.folder_source import FolderSource

NAME = "lab-scikit-learn"


class Folder(ModelPlace):
    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self.source = FolderSource(folder, NAME)
        self._models, self._dataset = folder / "models" / NAME, dataset

    def publish(self, onnx_model: bytes, **changes: Any) -> dict[str, Any]:
        metadata = onnx_metadata(self._dataset, onnx_model, NAME, **changes)
        self._next().joinpath("model.onnx").write_bytes(onnx_model)
        self._newest().joinpath("metadata.json").write_text(json.dumps(metadata))
        return metadata

    def replace(self, content: bytes) -> None:
        self._newest().joinpath("model.onnx").write_bytes(content)

    def publish_without_onnx(self) -> None:
        self._next().joinpath("metadata.json").write_text("{}")

    def _newest(self) -> Path:
        return self._models / str(len(list(self._models.iterdir())))

    def _next(self) -> Path:
        folder = self._models / str(len(list(self._models.glob("*"))) + 1)
        folder.mkdir(parents=True)
        return folder


class TestFolderSource(ModelSourceContract):
    @pytest.fixture
    def place(self, tmp_path: Path, dataset: Dataset) -> ModelPlace:
        return Folder(tmp_path, dataset)
