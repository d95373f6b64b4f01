"""Models to serve from MLflow's registry."""

from __future__ import annotations

from typing_extensions import override

from complex_system.errors import ModelRefusedError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.runtimes import FlavorRuntime
from complex_system.serving.models.source import ListedModel, LoadedTwin, ModelReference, ModelSource
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef


class MlflowChampionSource(ModelSource):
    """The version that carries the alias ``champion``; every other registered model by name."""

    label = "the champion in MLflow's registry"

    def __init__(self, registry: ModelRegistry, pipeline: Pipeline | None = None) -> None:
        """Makes a source.

        Args:
            registry: Where the models are registered.
            pipeline: Given, a model without a twin is served through its MLflow flavor; without it such a model is refused.
        """
        self._registry = registry
        self._pipeline = pipeline

    @override
    def newest(self) -> ModelReference | None:
        champion = self._registry.champion()
        return _reference(champion) if champion else None

    @override
    def listed(self) -> list[ListedModel]:
        return [ListedModel(_reference(ref), ref.framework, aliases) for ref, aliases in self._registry.listed()]

    @override
    def find(self, name: str, version: str | None = None) -> ModelReference:
        return _reference(self._registry.find(name, version))

    @override
    def versions(self, name: str) -> list[str]:
        return self._registry.versions(name)

    @override
    def load(self, reference: ModelReference) -> LoadedTwin:
        ref: ModelVersionRef = reference.origin
        if self._pipeline is None or self._registry.has_onnx_model(ref):
            return LoadedTwin(*self._registry.load_onnx_model(ref))
        dataset = self._pipeline.dataset
        if ref.pipeline_version and ref.pipeline_version != dataset.version:
            raise ModelRefusedError(
                f"{reference} was trained for pipeline version {ref.pipeline_version}, and this service runs {dataset.version}."
            )
        runtime = FlavorRuntime(str(reference), self._registry.load_flavor(ref), dataset.feature_names)
        metadata = {"framework": ref.framework or "mlflow", "trainer": ref.trainer, "run_id": ref.run_id}
        return LoadedTwin(None, metadata, runtime)


def _reference(ref: ModelVersionRef) -> ModelReference:
    return ModelReference(ref.model, ref.version, ref)
