"""Load models to serve from MLflow's registry."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override

from complex_system.errors import ModelRefusedError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.foreign import ForeignRuntime, ModelInput
from complex_system.serving.models.source import SERVED_FILES, ListedModel, LoadedModel, ModelReference, ModelSource
from complex_system.tracking.connection import is_refusal, load_mlflow, translated
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef


class MlflowChampionSource(ModelSource):
    """The version that carries the alias ``champion``; every other registered model by name."""

    label = "the champion in MLflow's registry"

    def __init__(self, registry: ModelRegistry, pipeline: Pipeline | None = None, foreign: Collection[str] = ()) -> None:
        """Make a source.

        Args:
            registry: Where the models are registered.
            pipeline: Makes the features of foreign models.
            foreign: Registered names of foreign models that are served although they have no ONNX model, which runs their code.
        """
        self._registry = registry
        self._pipeline = pipeline
        self._foreign = frozenset(foreign)

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
    def load(self, reference: ModelReference) -> LoadedModel:
        ref: ModelVersionRef = reference.origin
        if self._registry.has_onnx_model(ref):
            onnx_model, metadata = self._registry.load_onnx_model(ref)
            return LoadedModel(onnx_model, metadata, files=self._registry.load_files(ref, metadata, SERVED_FILES))
        if self._pipeline is None or ref.model not in self._foreign:
            raise ModelRefusedError(
                f"{reference} has no ONNX model. To serve it through its MLflow flavor, which runs the code that it contains, name "
                "it in COMPLEX_SYSTEM_SERVING_FOREIGN_MODELS."
            )
        dataset = self._pipeline.dataset
        if ref.pipeline_version and ref.pipeline_version != dataset.version:
            raise ModelRefusedError(
                f"{reference} was trained for pipeline version {ref.pipeline_version}, and this service runs {dataset.version}."
            )
        takes = ModelInput(str(reference), _flavor_signature(self._registry.uri, ref), dataset.feature_names)
        runtime = ForeignRuntime(str(reference), _download_flavor(self._registry.uri, ref), takes)
        metadata = {"framework": ref.framework or "mlflow", "trainer": ref.trainer, "run_id": ref.run_id}
        return LoadedModel(None, metadata, runtime)


def _reference(ref: ModelVersionRef) -> ModelReference:
    return ModelReference(ref.model, ref.version, ref)


def _flavor_signature(uri: str, ref: ModelVersionRef) -> Any:
    """Return the signature of a version's MLflow flavor, None where it has none; no code of the model is loaded.

    Raises:
        ModelRefusedError: It has no ``python_function`` flavor.
    """
    what = f"{ref.model} version {ref.version}"
    with _at(uri, "looking at a model") as mlflow:
        try:
            found = mlflow.models.get_model_info(f"models:/{ref.model}/{ref.version}")
        except mlflow.exceptions.MlflowException as error:
            if is_refusal(error, "RESOURCE_DOES_NOT_EXIST"):
                raise ModelRefusedError(f"{what} has neither an ONNX model nor a python_function flavor.") from error
            raise
    if "python_function" not in found.flavors:
        raise ModelRefusedError(f"{what} has neither an ONNX model nor a python_function flavor.")
    return found.signature


def _download_flavor(uri: str, ref: ModelVersionRef) -> Path:
    """Download the files of a version's MLflow flavor into a new folder, which belongs to the caller."""
    folder = Path(tempfile.mkdtemp(prefix="foreign-model-"))
    try:
        with _at(uri, "downloading a model") as mlflow:
            mlflow.artifacts.download_artifacts(f"models:/{ref.model}/{ref.version}", dst_path=str(folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


@contextmanager
def _at(uri: str, doing: str) -> Iterator[Any]:
    """Give MLflow for functions that know no client: they take the address of the process."""
    mlflow = load_mlflow()
    with translated(uri, doing):
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        yield mlflow
