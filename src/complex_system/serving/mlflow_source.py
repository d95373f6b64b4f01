"""Models to serve from MLflow's registry."""

from __future__ import annotations

from typing_extensions import override

from complex_system.serving.sources import LoadedTwin, ModelReference, ModelSource
from complex_system.tracking.registry import ModelRegistry


class MlflowChampionSource(ModelSource):
    """The version that carries the alias ``champion``."""

    label = "the champion in MLflow's registry"

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    @override
    def newest(self) -> ModelReference | None:
        champion = self._registry.champion()
        return ModelReference(champion.model, champion.version, champion) if champion else None

    @override
    def load(self, reference: ModelReference) -> LoadedTwin:
        return LoadedTwin(*self._registry.load_twin(reference.origin))
