"""A source of models: what ``FolderTracker`` has kept of one trainer, the newest version first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from complex_system.errors import ModelRefusedError
from complex_system.serving.models.source import ListedModel, LoadedModel, ModelReference, ModelSource


class FolderSource(ModelSource):
    """Reads ``<folder>/models/<name>/<version>``."""

    label: ClassVar[str] = "the folder of models"

    def __init__(self, folder: Path, name: str) -> None:
        self._models, self._name = folder / "models" / name, name

    @override
    def newest(self) -> ModelReference | None:
        versions = self.versions(self._name)
        return self._reference(versions[-1]) if versions else None

    @override
    def load(self, reference: ModelReference) -> LoadedModel:
        folder = self._models / reference.version
        try:
            onnx_model = (folder / "model.onnx").read_bytes()
            metadata: dict[str, Any] = json.loads((folder / "metadata.json").read_bytes())
        except FileNotFoundError as error:
            raise ModelRefusedError(f"{reference} has no {Path(error.filename).name}.") from error
        if hashlib.sha256(onnx_model).hexdigest() != metadata["sha256"]:
            raise ModelRefusedError(f"The ONNX model of {reference} is damaged: it has not the digest of its metadata.")
        files = {path.name: path.read_bytes() for path in folder.glob("files/*")}
        return LoadedModel(onnx_model, metadata, files=files)

    @override
    def listed(self) -> list[ListedModel]:
        newest = self.newest()
        return [ListedModel(newest, aliases={"newest": newest.version})] if newest else []

    @override
    def find(self, name: str, version: str | None = None) -> ModelReference:
        versions = self.versions(name)
        if versions and version in (None, "newest"):
            return self._reference(versions[-1])
        if version not in versions:
            raise self.unknown(name, version)
        return self._reference(version)

    @override
    def versions(self, name: str) -> list[str]:
        if name != self._name or not self._models.is_dir():
            return []
        whole = (path.parent.name for path in self._models.glob("*/metadata.json"))
        return sorted(whole, key=int)

    def _reference(self, version: str) -> ModelReference:
        return ModelReference(self._name, version)
