"""The model registry as serving and the consumer see it: newest versions, the champion, and the ONNX twins.

A registered model is named ``<prefix>-<trainer>``, and its versions carry the prefix as a tag, because of the names alone ``lab`` and
``lab-2`` could not be told apart. The champion is the one version that carries the alias ``champion``; while
it changes there may be two for a moment, and the one crowned last counts. Every method blocks; callers use threads.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from complex_system.errors import ModelRefusedError, NoModelError, UnknownModelError
from complex_system.tracking.connection import is_refusal, load_mlflow, open_client, translated

CHAMPION = "champion"
"""The alias of the champion."""
CHAMPION_SINCE = "champion_since"
"""Version tag: ISO time (UTC, microseconds) since when the version is or was the champion."""
PREFIX = "prefix"
"""Version tag: the prefix that the model was registered under."""
ONNX_FOLDER = "twin"
"""Artifact folder of a run that holds the twin."""
ONNX_FILE = "model.onnx"
ONNX_METADATA = "metadata.json"
MOST_VERSIONS = 200
"""Versions of a model that are listed, the newest."""
REFERENCE_FOLDER = "reference"
"""Artifact folder of a run that holds what its training data were like, for monitoring."""
REFERENCE_FILE = "reference.json"


@dataclass(frozen=True)
class ModelVersionRef:
    """One version of one registered model.

    Attributes:
        model: Registered name.
        version: Version number, as text.
        tags: All tags of the version.
        created_at: When it was registered.
    """

    model: str
    version: str
    framework: str
    trainer: str
    run_id: str
    pipeline_version: str
    tags: Mapping[str, str] = field(compare=False)
    created_at: datetime

    def __hash__(self) -> int:
        return hash((self.model, self.version))


class ModelRegistry:
    """Looks models up in MLflow's registry and moves the champion's alias.

    Every method raises :class:`TrackingUnavailableError` when the server cannot be reached or refuses, within seconds.
    """

    def __init__(self, tracking_uri: str, prefix: str) -> None:
        """Prepares a registry; nothing is imported or sent yet.

        Args:
            tracking_uri: MLflow server.
            prefix: What the registered names begin with.
        """
        self._uri = tracking_uri
        self._prefix = prefix
        self._known: Any = None

    @property
    def _client(self) -> Any:
        if self._known is None:
            self._known = open_client(self._uri)
        return self._known

    def newest_versions(self) -> list[ModelVersionRef]:
        """The newest version of every registered model of this prefix, by name."""
        client = self._client
        with translated(self._uri, "looking for models"):
            found = []
            for model in self._models():
                query = f"name = '{model.name}'"
                versions = client.search_model_versions(query, max_results=1, order_by=["version_number DESC"])
                found += [_ref(version) for version in versions]
        return [ref for ref in found if self._is_ours(ref)]

    def listed(self) -> list[tuple[ModelVersionRef, dict[str, str]]]:
        """The newest version of every registered model of this prefix, and its aliases, in one request."""
        _ = self._client
        with translated(self._uri, "looking for models"):
            return [
                (_ref(max(model.latest_versions, key=lambda each: int(each.version))), _aliases(model))
                for model in self._models()
                if model.latest_versions
            ]

    def find(self, name: str, version: str | None = None) -> ModelVersionRef:
        """A registered model of any prefix by version or alias; without either its newest version.

        Raises:
            UnknownModelError: It does not exist.
        """
        client = self._client
        with translated(self._uri, "looking for a model"):
            try:
                if version is None:
                    model = client.get_registered_model(name)
                    newest = max(model.latest_versions, key=lambda each: int(each.version), default=None)
                    if newest is not None:
                        return _ref(newest)
                elif version.isascii() and version.isdigit():
                    return _ref(client.get_model_version(name, version))
                else:
                    return _ref(client.get_model_version_by_alias(name, version))
            except Exception as error:
                if not is_refusal(error, "RESOURCE_DOES_NOT_EXIST") and not is_refusal(error, "INVALID_PARAMETER_VALUE"):
                    raise
        what = f" of version or alias '{version}'" if version else ""
        raise UnknownModelError(f"MLflow's registry has no model '{name}'{what}.")

    def versions(self, name: str) -> list[str]:
        """The versions of a registered model of any prefix, oldest first; none for an unknown one."""
        client = self._client
        quoted = name.replace("'", "''")
        with translated(self._uri, "looking for a model's versions"):
            found = client.search_model_versions(
                f"name = '{quoted}'", max_results=MOST_VERSIONS, order_by=["version_number DESC"]
            )
        return [str(each.version) for each in reversed(found)]

    def has_onnx_model(self, ref: ModelVersionRef) -> bool:
        """Whether the run of a version holds a twin."""
        if not ref.run_id:
            return False
        client = self._client
        with translated(self._uri, "looking for a model's twin"):
            return bool(client.list_artifacts(ref.run_id, ONNX_FOLDER))

    def load_flavor(self, ref: ModelVersionRef) -> Any:
        """The version as MLflow's ``PyFuncModel``; its own code and pickles run in this process.

        Raises:
            ModelRefusedError: It has no such flavor, or a library that it needs is not installed here.
        """
        what = f"{ref.model} version {ref.version}"
        uri = f"models:/{ref.model}/{ref.version}"
        mlflow = load_mlflow()
        with translated(self._uri, "loading a model"), _own_registry(mlflow, self._uri):
            try:
                return mlflow.pyfunc.load_model(uri)
            except ImportError as error:
                raise ModelRefusedError(
                    f"{what} has no twin, and '{error.name}' is not installed here to run it."
                ) from error
            except mlflow.exceptions.MlflowException as error:
                if is_refusal(error, "RESOURCE_DOES_NOT_EXIST") or "python_function" in str(error):
                    raise ModelRefusedError(f"{what} has neither a twin nor a python_function flavor.") from error
                raise

    def champion(self) -> ModelVersionRef | None:
        """The champion, or None as long as there is none."""
        with translated(self._uri, "looking for the champion"):
            return _newest_of(self._crowned())

    def set_champion(self, ref: ModelVersionRef) -> None:
        """Makes a version the champion: crowns the new one first, then takes the alias from the others.

        One that is the champion already keeps the time since when it is.
        """
        client = self._client
        with translated(self._uri, "crowning a champion"):
            crowned = self._crowned()
            if _newest_of(crowned) != ref:
                now = datetime.now(UTC).isoformat(timespec="microseconds")
                client.set_model_version_tag(ref.model, ref.version, CHAMPION_SINCE, now)
                client.set_registered_model_alias(ref.model, CHAMPION, ref.version)
            for other in crowned:
                if other.model != ref.model:
                    client.delete_registered_model_alias(other.model, CHAMPION)

    def version(self, name: str, version: str) -> ModelVersionRef:
        """One version of one model.

        Raises:
            NoModelError: It does not exist.
        """
        client = self._client
        with translated(self._uri, "looking for a model version"):
            try:
                return _ref(client.get_model_version(name, str(version)))
            except Exception as error:
                if is_refusal(error, "RESOURCE_DOES_NOT_EXIST"):
                    raise NoModelError(f"MLflow knows no version {version} of a model '{name}'.") from error
                raise

    def load_onnx_model(self, ref: ModelVersionRef) -> tuple[bytes, dict[str, Any]]:
        """The ONNX twin of a version and its metadata, checked against the digest there.

        Raises:
            ModelRefusedError: The twin is missing or damaged.
        """
        client = self._client
        what = f"The twin of {ref.model} version {ref.version}"
        with tempfile.TemporaryDirectory() as folder, translated(self._uri, "loading a model's twin"):
            names = {Path(artifact.path).name for artifact in client.list_artifacts(ref.run_id, ONNX_FOLDER)}
            if not {ONNX_FILE, ONNX_METADATA} <= names:
                raise ModelRefusedError(f"{what} is missing in run {ref.run_id}.")
            onnx, text = (
                Path(client.download_artifacts(ref.run_id, f"{ONNX_FOLDER}/{name}", folder)).read_bytes()
                for name in (ONNX_FILE, ONNX_METADATA)
            )
        try:
            metadata = json.loads(text)
            digest = metadata["sha256"]
        except (ValueError, TypeError, KeyError) as error:
            raise ModelRefusedError(f"{what} has unreadable metadata: {error!r}.") from error
        if digest != hashlib.sha256(onnx).hexdigest():
            raise ModelRefusedError(f"{what} is damaged: its digest is not the one in its metadata.")
        return onnx, metadata

    def load_reference(self, ref: ModelVersionRef) -> dict[str, Any] | None:
        """What the training data of a version were like, as its trainer logged it; None where it logged nothing readable."""
        client = self._client
        with tempfile.TemporaryDirectory() as folder, translated(self._uri, "loading a model's reference"):
            names = {Path(artifact.path).name for artifact in client.list_artifacts(ref.run_id, REFERENCE_FOLDER)}
            if REFERENCE_FILE not in names:
                return None
            path = client.download_artifacts(ref.run_id, f"{REFERENCE_FOLDER}/{REFERENCE_FILE}", folder)
            try:
                body: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            except ValueError:
                return None
        return body if isinstance(body, dict) else None

    def _crowned(self) -> list[ModelVersionRef]:
        """The versions that carry the alias. The caller translates errors."""
        crowned = [
            _ref(self._client.get_model_version(model.name, model.aliases[CHAMPION]))
            for model in self._models()
            if CHAMPION in model.aliases
        ]
        return [ref for ref in crowned if self._is_ours(ref)]

    def _models(self) -> list[Any]:
        """The registered models of the prefix, and look-alikes. The caller translates errors."""
        models: list[Any] = []
        token: str | None = None
        while True:
            page = self._client.search_registered_models(
                filter_string=f"name LIKE '{self._prefix}-%'", max_results=100, order_by=["name ASC"], page_token=token
            )
            models += page
            token = page.token
            if not token:
                return models

    def _is_ours(self, ref: ModelVersionRef) -> bool:
        # A version that was registered without the tag has the prefix in its name only, before the trainer's.
        return ref.tags.get(PREFIX, ref.model.removesuffix(f"-{ref.trainer}")) == self._prefix


def _newest_of(crowned: list[ModelVersionRef]) -> ModelVersionRef | None:
    return max(crowned, key=lambda ref: ref.tags.get(CHAMPION_SINCE, ""), default=None)


@contextmanager
def _own_registry(mlflow: Any, uri: str) -> Iterator[None]:
    """``load_model`` knows no client: the address is the process's."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    yield


def _aliases(model: Any) -> dict[str, str]:
    return {alias: str(version) for alias, version in dict(model.aliases).items()}


def _ref(version: Any) -> ModelVersionRef:
    tags = dict(version.tags)
    return ModelVersionRef(
        model=version.name,
        version=str(version.version),
        framework=tags.get("framework", ""),
        trainer=tags.get("trainer", ""),
        run_id=version.run_id or "",
        pipeline_version=tags.get("pipeline_version", ""),
        tags=tags,
        created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
    )
