"""What every source of models promises to serving. A new one is one more subclass."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import ModelRefusedError, UnknownModelError
from complex_system.local.servers import Server
from complex_system.serving.models.mlflow import MlflowChampionSource
from complex_system.serving.models.source import ModelSource
from complex_system.serving.models.wandb import WandbDirectorySource
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.registry import ModelRegistry
from models import linear_twin, register_twin, twin_metadata

# MLflow's client and the libraries below it warn of their own deprecated parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Place(ABC):
    """Where models are published for a source."""

    source: ModelSource

    @abstractmethod
    def publish(self, twin: bytes, **changes: Any) -> dict[str, Any]:
        """Publishes a twin as the newest and returns its metadata; keyword arguments replace entries."""

    @abstractmethod
    def replace(self, content: bytes) -> None:
        """Puts something else in place of the newest twin."""

    @abstractmethod
    def publish_without_twin(self) -> None:
        """Makes something the newest that holds no twin."""


class SourceContract(ABC):
    __test__ = False

    @pytest.fixture
    @abstractmethod
    def place(self) -> Place:
        """A place with nothing in it."""

    @pytest.fixture
    def twin(self, dataset: Dataset) -> bytes:
        return linear_twin(dataset, 1.0)

    def test_there_is_nothing_at_first(self, place: Place) -> None:
        assert place.source.newest() is None
        assert place.source.label

    def test_what_was_published_last_is_the_newest_and_earlier_ones_can_still_be_loaded(
        self, place: Place, dataset: Dataset, twin: bytes
    ) -> None:
        metadata = place.publish(twin)
        first = place.source.newest()
        assert first is not None
        assert place.source.newest() == first
        other = linear_twin(dataset, 2.0)
        other_metadata = place.publish(other)
        second = place.source.newest()
        assert second is not None
        assert second != first
        assert second.name == first.name
        for reference, content, about in ((second, other, other_metadata), (first, twin, metadata)):
            loaded = place.source.load(reference)
            assert loaded.onnx == content
            assert loaded.metadata == about

    def test_every_version_can_be_asked_for_by_name(self, place: Place, dataset: Dataset, twin: bytes) -> None:
        references = []
        for bias in (1.0, 2.0, 3.0):
            place.publish(linear_twin(dataset, bias))
            references.append(place.source.newest())
        name = references[0].name
        assert place.source.versions(name) == [each.version for each in references]
        assert place.source.versions("nobody's") == []
        for reference in references:
            assert place.source.find(name, reference.version) == reference
        assert place.source.find(name) == references[-1]
        [listed] = place.source.listed()
        assert listed.newest == references[-1]
        for alias, version in listed.aliases.items():
            assert place.source.find(name, alias).version == version
        for unknown in (("nobody", None), (name, "99"), (name, "nobody"), (name, "0123456789abcdef")):
            with pytest.raises(UnknownModelError):
                place.source.find(*unknown)

    def test_a_damaged_twin_is_refused(self, place: Place, twin: bytes) -> None:
        place.publish(twin)
        reference = place.source.newest()
        assert reference is not None
        place.replace(twin[:-1])
        with pytest.raises(ModelRefusedError, match="damaged"):
            place.source.load(reference)

    def test_a_missing_twin_is_refused(self, place: Place) -> None:
        place.publish_without_twin()
        reference = place.source.newest()
        assert reference is not None
        with pytest.raises(ModelRefusedError):
            place.source.load(reference)


class MlflowPlace(Place):
    def __init__(self, uri: str, dataset: Dataset) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._uri, self._dataset, self._prefix = uri, dataset, f"t{uuid.uuid4().hex[:8]}"
        self._registry = ModelRegistry(uri, self._prefix)
        self.source = MlflowChampionSource(self._registry)

    def publish(self, twin: bytes, **changes: Any) -> dict[str, Any]:
        register_twin(self._uri, self._dataset, twin, prefix=self._prefix, **changes)
        champion = self._registry.champion()
        assert champion is not None
        return self._registry.load_onnx_model(champion)[1]

    def replace(self, content: bytes) -> None:
        champion = self._registry.champion()
        assert champion is not None
        self._client.log_text(champion.run_id, content.decode("latin-1"), "twin/model.onnx")

    def publish_without_twin(self) -> None:
        run = self._client.create_run("0").info
        name = f"{self._prefix}-lightgbm"
        self._client.create_registered_model(name)
        tags = {"prefix": self._prefix}
        version = self._client.create_model_version(name, f"{run.artifact_uri}/none", run.run_id, tags=tags)
        self._registry.set_champion(self._registry.find(name, version.version))


class TestMlflowChampionSource(SourceContract):
    __test__ = True

    @pytest.fixture
    def place(self, mlflow_server: Server, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Place:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)  # where MLflow resolves addresses of artifacts
        return MlflowPlace(mlflow_server.url, dataset)


class WandbDirectoryPlace(Place):
    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._dataset, self._folder, self._store = dataset, folder, ArtifactStore(folder)
        self.source = WandbDirectorySource(self._store)

    def publish(self, twin: bytes, **changes: Any) -> dict[str, Any]:
        metadata = twin_metadata(self._dataset, twin, "lab-pytorch-wandb", "pytorch-wandb") | changes
        self._store.write({"model.pt": b"a state dict", "model.onnx": twin}, metadata)
        return metadata

    def replace(self, content: bytes) -> None:
        newest = self._store.newest()
        assert newest is not None
        (self._folder / newest / "model.onnx").write_bytes(content)

    def publish_without_twin(self) -> None:
        self._store.write({"model.pt": b"a state dict"}, {})


class TestWandbDirectorySource(SourceContract):
    __test__ = True

    @pytest.fixture
    def place(self, tmp_path: Path, dataset: Dataset) -> Place:
        return WandbDirectoryPlace(tmp_path, dataset)
