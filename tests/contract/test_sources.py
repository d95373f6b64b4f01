"""Our sources of models keep the contract of ``complex_system.testing.model_sources``."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import UnknownModelError
from complex_system.local.servers import Server
from complex_system.serving.models import wandb
from complex_system.serving.models.mlflow import MlflowChampionSource
from complex_system.serving.models.wandb import WandbDirectorySource, WandbOnlineSource
from complex_system.testing.model_sources import ModelPlace, ModelSourceContract
from complex_system.testing.models import onnx_metadata
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.registry import ModelRegistry
from models import register_onnx

# MLflow's client and the libraries below it warn of their own deprecated parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class MlflowPlace(ModelPlace):
    def __init__(self, uri: str, dataset: Dataset) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._uri, self._dataset, self._prefix = uri, dataset, f"t{uuid.uuid4().hex[:8]}"
        self._registry = ModelRegistry(uri, self._prefix)
        self.source = MlflowChampionSource(self._registry)

    def publish(self, onnx_model: bytes, **changes: Any) -> dict[str, Any]:
        register_onnx(self._uri, self._dataset, onnx_model, prefix=self._prefix, **changes)
        champion = self._registry.champion()
        assert champion is not None
        return self._registry.load_onnx_model(champion)[1]

    def replace(self, content: bytes) -> None:
        champion = self._registry.champion()
        assert champion is not None
        self._client.log_text(champion.run_id, content.decode("latin-1"), "twin/model.onnx")

    def publish_without_onnx(self) -> None:
        run = self._client.create_run("0").info
        name = f"{self._prefix}-lightgbm"
        self._client.create_registered_model(name)
        tags = {"prefix": self._prefix}
        version = self._client.create_model_version(name, f"{run.artifact_uri}/none", run.run_id, tags=tags)
        self._registry.set_champion(self._registry.find(name, version.version))


class TestMlflowChampionSource(ModelSourceContract):
    @pytest.fixture
    def place(self, mlflow_server: Server, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> ModelPlace:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)  # where MLflow resolves addresses of artifacts
        return MlflowPlace(mlflow_server.url, dataset)


class WandbDirectoryPlace(ModelPlace):
    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._dataset, self._folder, self._store = dataset, folder, ArtifactStore(folder)
        self.source = WandbDirectorySource(self._store)

    def publish(self, onnx_model: bytes, **changes: Any) -> dict[str, Any]:
        metadata = onnx_metadata(self._dataset, onnx_model, "lab-pytorch-wandb", "pytorch-wandb") | changes
        self._store.write({"model.pt": b"a state dict", "model.onnx": onnx_model}, metadata)
        return metadata

    def replace(self, content: bytes) -> None:
        newest = self._store.newest()
        assert newest is not None
        (self._folder / newest / "model.onnx").write_bytes(content)

    def publish_without_onnx(self) -> None:
        self._store.write({"model.pt": b"a state dict"}, {})


class Artifact:
    """A version of an artifact, as far as a search returns it."""

    def __init__(self, digest: str) -> None:
        self.digest = digest


def test_an_online_artifact_is_found_by_what_it_is_called_here_and_at_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B promises to find numbers and aliases; the newest is asked for by its digest, which is its version everywhere here."""
    known = {"v0": Artifact("0a0a"), "v1": Artifact("1b1b"), "latest": Artifact("1b1b")}
    monkeypatch.setattr(wandb, "find_artifact", lambda project, version="latest": known.get(version))
    source = WandbOnlineSource("project")
    newest = source.newest()
    assert newest is not None
    for version, digest in ((None, "1b1b"), ("latest", "1b1b"), ("1b1b", "1b1b"), ("v1", "1b1b"), ("v0", "0a0a")):
        assert source.find(newest.name, version).version == digest
    for version in source.versions(newest.name):
        assert source.find(newest.name, version).version == version
    for name, unknown in (("nobody's", None), (newest.name, "v9"), (newest.name, "0a0a")):
        with pytest.raises(UnknownModelError):
            source.find(name, unknown)
    known.clear()
    assert source.newest() is None
    with pytest.raises(UnknownModelError):
        source.find(newest.name)


class TestWandbDirectorySource(ModelSourceContract):
    @pytest.fixture
    def place(self, tmp_path: Path, dataset: Dataset) -> ModelPlace:
        return WandbDirectoryPlace(tmp_path, dataset)
