"""Models to serve from Weights & Biases: the plain directory that the trainer writes, or the artifact read back online."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, TypeVar

from typing_extensions import override

from complex_system.background import started
from complex_system.errors import ModelRefusedError, TrackingUnavailableError
from complex_system.serving.models.source import ListedModel, LoadedTwin, ModelReference, ModelSource
from complex_system.settings import Settings
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.wandb import ARTIFACT, LATEST, ONNX_FILE, OnlineArtifact, artifact_folder, find_artifact

PATIENCE = 60.0
"""Seconds that Weights & Biases gets for an answer; its own client tries again for many minutes."""

T = TypeVar("T")


class WandbDirectorySource(ModelSource):
    """The newest artifact of the plain directory; needs neither account nor network."""

    label = "the newest W&B artifact in the trainer's directory"

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    @override
    def newest(self) -> ModelReference | None:
        digest = self._store.newest()
        return ModelReference(ARTIFACT, digest) if digest else None

    @override
    def listed(self) -> list[ListedModel]:
        return _listed(self.newest())

    @override
    def find(self, name: str, version: str | None = None) -> ModelReference:
        digest = self._store.newest() if version in (None, LATEST) else version
        if name != ARTIFACT or digest is None or not self._store.has(digest):
            raise self.unknown(name, version)
        return ModelReference(ARTIFACT, digest)

    @override
    def versions(self, name: str) -> list[str]:
        return self._store.digests() if name == ARTIFACT else []

    @override
    def load(self, reference: ModelReference) -> LoadedTwin:
        return _twin(reference, *self._store.read(reference.version))


class WandbOnlineSource(ModelSource):
    """The newest artifact of a project at Weights & Biases."""

    label = "the newest artifact at Weights & Biases"

    def __init__(self, project: str, patience: float = PATIENCE) -> None:
        self._project = project
        self._patience = patience
        self._looking: Future[OnlineArtifact | None] | None = None

    @override
    def newest(self) -> ModelReference | None:
        # A look that still hangs is waited for again, so that looks do not pile up while W&B is away.
        if self._looking is None:
            self._looking = started(lambda: find_artifact(self._project), "wandb")
        looking = self._looking
        try:
            found = self._within_patience(looking)
        finally:
            if looking.done():
                self._looking = None
        return ModelReference(ARTIFACT, found.digest, found) if found else None

    @override
    def listed(self) -> list[ListedModel]:
        return _listed(self.newest())

    @override
    def find(self, name: str, version: str | None = None) -> ModelReference:
        looking = started(lambda: find_artifact(self._project, version or LATEST), "wandb") if name == ARTIFACT else None
        found = self._within_patience(looking) if looking else None
        if found is None:
            raise self.unknown(name, version)
        return ModelReference(ARTIFACT, found.digest, found)

    @override
    def load(self, reference: ModelReference) -> LoadedTwin:
        artifact: OnlineArtifact = reference.origin
        return _twin(reference, *self._within_patience(started(artifact.read, "wandb")))

    def _within_patience(self, answer: Future[T]) -> T:
        try:
            return answer.result(self._patience)
        except TimeoutError:
            raise TrackingUnavailableError(f"Weights & Biases did not answer within {self._patience:g} s.") from None


def wandb_source(settings: Settings) -> ModelSource:
    """The source that the settings choose: online only where the trainer logs online."""
    if settings.wandb_mode == "online":
        return WandbOnlineSource(settings.wandb_project)
    return WandbDirectorySource(ArtifactStore(artifact_folder(settings.wandb_dir)))


def _listed(newest: ModelReference | None) -> list[ListedModel]:
    return [ListedModel(newest, "pytorch", {LATEST: newest.version})] if newest else []


def _twin(reference: ModelReference, files: dict[str, bytes], metadata: dict[str, Any]) -> LoadedTwin:
    if ONNX_FILE not in files:
        raise ModelRefusedError(f"{reference} holds no {ONNX_FILE}.")
    return LoadedTwin(files[ONNX_FILE], metadata)
