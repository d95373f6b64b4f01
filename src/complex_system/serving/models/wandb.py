"""Load models to serve from Weights & Biases: from the directory that the trainer writes, or online."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, TypeVar

from typing_extensions import override

from complex_system.background import started
from complex_system.errors import ModelRefusedError, TrackingUnavailableError
from complex_system.serving.models.source import SERVED_FILES, ListedModel, LoadedModel, ModelReference, ModelSource
from complex_system.settings import Settings
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.model_files import checked_files
from complex_system.tracking.signature import require_signature
from complex_system.tracking.wandb import ARTIFACT, LATEST, ONNX_FILE, OnlineArtifact, artifact_folder, find_artifact

TIMEOUT = 60.0
"""Seconds to wait for Weights & Biases; its own client retries for many minutes."""

T = TypeVar("T")


class WandbDirectorySource(ModelSource):
    """The newest artifact of the trainer's directory; needs neither account nor network."""

    label = "the newest W&B artifact in the trainer's directory"

    def __init__(self, store: ArtifactStore, model_key: str = "") -> None:
        self._store = store
        self._model_key = model_key

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
    def load(self, reference: ModelReference) -> LoadedModel:
        return _model(reference, *self._store.read(reference.version), self._model_key)


class WandbOnlineSource(ModelSource):
    """The newest artifact of a project at Weights & Biases.

    Earlier versions are found by W&B's numbers and aliases, and ``versions`` knows the newest one only. The contract suite asks for
    more, and is not run on this source: W&B's server is not among the programs that the tests can start, and a stand-in of ours would
    show what we think of W&B.
    """

    label = "the newest artifact at Weights & Biases"

    def __init__(self, project: str, timeout: float = TIMEOUT, model_key: str = "") -> None:
        self._project = project
        self._model_key = model_key
        self._timeout = timeout
        self._search: Future[OnlineArtifact | None] | None = None

    @override
    def newest(self) -> ModelReference | None:
        # A search that still hangs is waited for again, so that searches do not pile up while W&B is away.
        if self._search is None:
            self._search = started(lambda: find_artifact(self._project), "wandb")
        search = self._search
        try:
            found = self._wait_for(search)
        finally:
            if search.done():
                self._search = None
        return ModelReference(ARTIFACT, found.digest, found) if found else None

    @override
    def listed(self) -> list[ListedModel]:
        return _listed(self.newest())

    @override
    def find(self, name: str, version: str | None = None) -> ModelReference:
        newest = self.newest() if name == ARTIFACT else None
        if newest is not None and version in (None, LATEST, newest.version):
            return newest
        # W&B finds versions by their number and by aliases; of digests it promises nothing.
        search = started(lambda: find_artifact(self._project, version or LATEST), "wandb") if newest is not None else None
        found = self._wait_for(search) if search else None
        if found is None:
            raise self.unknown(name, version)
        return ModelReference(ARTIFACT, found.digest, found)

    @override
    def load(self, reference: ModelReference) -> LoadedModel:
        artifact: OnlineArtifact = reference.origin
        return _model(reference, *self._wait_for(started(artifact.read, "wandb")), self._model_key)

    def _wait_for(self, answer: Future[T]) -> T:
        try:
            return answer.result(self._timeout)
        except TimeoutError:
            raise TrackingUnavailableError(f"Weights & Biases did not answer within {self._timeout:g} s.") from None


def wandb_source(settings: Settings) -> ModelSource:
    """Return the source that the settings choose: online only where the trainer logs online."""
    if settings.wandb_mode == "online":
        return WandbOnlineSource(settings.wandb_project, model_key=settings.model_key)
    return WandbDirectorySource(ArtifactStore(artifact_folder(settings.wandb_dir)), settings.model_key)


def _listed(newest: ModelReference | None) -> list[ListedModel]:
    return [ListedModel(newest, "pytorch", {LATEST: newest.version})] if newest else []


def _model(reference: ModelReference, files: dict[str, bytes], metadata: dict[str, Any], model_key: str) -> LoadedModel:
    if ONNX_FILE not in files:
        raise ModelRefusedError(f"{reference} holds no {ONNX_FILE}.")
    require_signature(str(reference), ARTIFACT, metadata, model_key)
    served = {name: files[name] for name in SERVED_FILES if name in files}
    return LoadedModel(files[ONNX_FILE], metadata, files=checked_files(str(reference), served, metadata))
