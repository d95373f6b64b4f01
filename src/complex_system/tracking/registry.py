"""The model registry for serving and the consumer: newest versions, the champion, and the ONNX models.

A registered model is named ``<prefix>-<trainer>``, and its versions carry the prefix as a tag, because names alone do not tell the
prefixes ``lab`` and ``lab-2`` apart. The champion is the version with the alias ``champion``. While it changes there may be two
for a moment; then the one that became champion last counts, by a number and not by the clocks of the hosts that moved the alias.
An alias outlives its version when somebody deletes that in MLflow; such an alias counts as none, everywhere.
Every method blocks; callers use threads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from complex_system.domain.partition import BY_KEY
from complex_system.errors import ModelRefusedError, UnknownModelError
from complex_system.tracking.connection import is_refusal, open_client, translated
from complex_system.tracking.model_files import checked_files, declared_files
from complex_system.tracking.signature import require_signature

log = logging.getLogger(__name__)

CHAMPION = "champion"
"""The alias of the champion."""
CHAMPION_SINCE = "champion_since"
"""Version tag: ISO time (UTC, microseconds) since when the version is or was the champion."""
CHAMPION_NUMBER = "champion_number"
"""Version tag: how many moves of the alias came before, as far as the mover knew."""
CHAMPION_ROUND = "champion_round"
"""Version tag: the round whose comparison moved the alias here."""
COMPARED = "compared"
"""Version tag: the round whose comparison the version took part in."""
PREFIX = "prefix"
"""Version tag: the prefix that the model was registered under."""
SPLIT = "split"
"""Version tag: :attr:`ModelVersionRef.split`."""
DATA_UNTIL, TRAINED_UNTIL = "data_until", "trained_until"
"""Version tags: ``TrainingData.arrived`` and ``TrainingData.until``."""
ONNX_FOLDER = "twin"
"""Artifact folder of a run with the ONNX model; called ``twin`` since the first release."""
ONNX_FILE, ONNX_METADATA = "model.onnx", "metadata.json"
MAX_VERSIONS = 200
"""Versions of a model that are listed at most, the newest."""
REFERENCE_FOLDER, REFERENCE_FILE = "reference", "reference.json"
"""Artifact folder of a run with the description of its training data, for monitoring."""


@dataclass(frozen=True)
class ModelVersionRef:
    """One version of one registered model.

    Attributes:
        model: Registered name.
        version: Version number, as text.
        tags: All tags of the version.
        created_at: When it was registered.
        split: ``Dataset.split_rule`` of its training; where there was no other, records were divided by their keys.
    """

    model: str
    version: str
    framework: str
    trainer: str
    run_id: str
    pipeline_version: str
    tags: Mapping[str, str] = field(compare=False)
    created_at: datetime
    split: str = field(default=BY_KEY, compare=False)


class ModelRegistry:
    """Looks models up in MLflow's registry and moves the alias ``champion``.

    Every method raises :class:`TrackingUnavailableError` when the server cannot be reached or refuses, within seconds.
    """

    def __init__(self, tracking_uri: str, prefix: str, model_key: str = "") -> None:
        """Prepare a registry; nothing is imported or sent yet.

        Args:
            tracking_uri: MLflow server.
            prefix: Begin of the registered names.
            model_key: With it, ONNX models must be signed by a trainer of this deployment.
        """
        self.uri = tracking_uri
        self._prefix = prefix
        self._model_key = model_key
        self._known: Any = None
        self._dangling: set[tuple[str, str]] = set()

    @property
    def _client(self) -> Any:
        self._known = self._known or open_client(self.uri)
        return self._known

    def newest_versions(self) -> list[ModelVersionRef]:
        """Return the newest version of every registered model of this prefix, by name."""
        with translated(self.uri, "looking for models"):
            return [_ref(_newest(model)) for model in self._models() if self._has_ours(model)]

    def listed(self) -> list[tuple[ModelVersionRef, dict[str, str]]]:
        """Return the newest version of every model whose name begins with the prefix, and the model's aliases."""
        with translated(self.uri, "looking for models"):
            models = [(_newest(model), model) for model in self._models()]
            return [(_ref(newest), self._aliases(model, newest)) for newest, model in models if newest is not None]

    def find(self, name: str, version: str | None = None) -> ModelVersionRef:
        """Return a registered model of any prefix by version or alias; without either its newest version.

        Raises:
            UnknownModelError: It does not exist.
        """
        client = self._client
        with translated(self.uri, "looking for a model"):
            try:
                if version is None:
                    if (newest := _newest(client.get_registered_model(name))) is not None:
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
        """Return the versions of a registered model of any prefix, oldest first; none for an unknown one."""
        with translated(self.uri, "looking for a model's versions"):
            return [str(each.version) for each in reversed(self._versions(name))]

    def has_onnx_model(self, ref: ModelVersionRef) -> bool:
        """Return whether the run of a version has an ONNX model."""
        with translated(self.uri, "looking for an ONNX model"):
            return bool(ref.run_id) and bool(self._client.list_artifacts(ref.run_id, ONNX_FOLDER))

    def champion(self) -> ModelVersionRef | None:
        """Return the champion, or None as long as there is none."""
        return newest_champion(self.champions())

    def champions(self) -> list[ModelVersionRef]:
        """Return all versions with the alias: one, none, or several where the alias is being moved or a mover was cut off."""
        with translated(self.uri, "looking for the champion"):
            return self._champions(self._models())

    def crowned(self) -> list[ModelVersionRef]:
        """Return the versions that are or were champion, the one that became so last first."""
        with translated(self.uri, "looking for earlier champions"):
            return sorted(self._crowned(), key=_number, reverse=True)

    def set_champion(self, ref: ModelVersionRef, round_id: str = "") -> None:
        """Move the alias to a version: set it there first, then delete it from other models.

        A version that is the champion already keeps the time since when it is.

        Args:
            ref: The version.
            round_id: The round that decided so.

        Raises:
            UnknownModelError: The version was deleted.
        """
        client = self._client
        self.find(ref.model, ref.version)
        with translated(self.uri, "setting the champion"):
            models = self._models()
            found = self._champions(models)
            if newest_champion(found) != ref:
                tags = {
                    CHAMPION_SINCE: datetime.now(UTC).isoformat(timespec="microseconds"),
                    CHAMPION_NUMBER: str(1 + max(map(_number, [*found, *self._crowned()]), default=0)),
                    CHAMPION_ROUND: round_id,
                }
                for name, value in tags.items():
                    client.set_model_version_tag(ref.model, ref.version, name, value)
                client.set_registered_model_alias(ref.model, CHAMPION, ref.version)
            aliased = [model for model in models if CHAMPION in model.aliases]
            ours = {model.name for model in aliased if not model.latest_versions or self._has_ours(model)}
            for other in ({each.model for each in found} | ours) - {ref.model}:
                client.delete_registered_model_alias(other, CHAMPION)

    def uncompared(self, pipeline_version: str, split: str) -> list[ModelVersionRef]:
        """Return those of the newest versions, for a pipeline version and a split, that took part in no comparison yet."""
        wanted = pipeline_version, split
        comparable = (ref for ref in self.newest_versions() if (ref.pipeline_version, ref.split) == wanted)
        return [ref for ref in comparable if COMPARED not in ref.tags]

    def mark_compared(self, models: Iterable[tuple[str, str]], round_id: str) -> None:
        """Mark versions, given by model and version, as compared; those that somebody deleted are left out."""
        with translated(self.uri, "marking models as compared"):
            for model, version in models:
                try:
                    self._client.set_model_version_tag(model, version, COMPARED, round_id)
                except Exception as error:
                    if not is_refusal(error, "RESOURCE_DOES_NOT_EXIST"):
                        raise

    def load_onnx_model(self, ref: ModelVersionRef) -> tuple[bytes, dict[str, Any]]:
        """Return the ONNX model of a version and its metadata, checked against the digest there.

        Raises:
            ModelRefusedError: The ONNX model is missing, damaged, or not signed as it must be.
        """
        what = f"The ONNX model of {ref.model} version {ref.version}"
        with translated(self.uri, "loading an ONNX model"):
            files = self._artifacts(ref, ONNX_FOLDER, (ONNX_FILE, ONNX_METADATA))
        if len(files) < 2:
            raise ModelRefusedError(f"{what} is missing in run {ref.run_id}.")
        try:
            metadata = json.loads(files[ONNX_METADATA])
            digest = metadata["sha256"]
        except (ValueError, TypeError, KeyError) as error:
            raise ModelRefusedError(f"{what} has unreadable metadata: {error!r}.") from error
        if digest != hashlib.sha256(files[ONNX_FILE]).hexdigest():
            raise ModelRefusedError(f"{what} is damaged: its digest does not match its metadata.")
        require_signature(what, ref.model, metadata, self._model_key)
        return files[ONNX_FILE], metadata

    def load_files(
        self, ref: ModelVersionRef, metadata: Mapping[str, Any], names: Iterable[str] | None = None
    ) -> dict[str, bytes]:
        """Return files that a version carries beside its ONNX model, by name; those that it does not have are left out.

        Args:
            ref: The version.
            metadata: As :meth:`load_onnx_model` returns them.
            names: Which files; all without it.

        Raises:
            ModelRefusedError: A file is damaged.
        """
        wanted = set(declared_files(metadata)).intersection(declared_files(metadata) if names is None else names)
        if not wanted:
            return {}
        with translated(self.uri, "loading a model's files"):
            files = self._artifacts(ref, ONNX_FOLDER, sorted(wanted))
        return checked_files(f"{ref.model} version {ref.version}", files, metadata)

    def load_reference(self, ref: ModelVersionRef) -> bytes | None:
        """Return the description of a version's training data, as its trainer logged it; None where it logged none."""
        with translated(self.uri, "loading a model's reference"):
            return self._artifacts(ref, REFERENCE_FOLDER, (REFERENCE_FILE,)).get(REFERENCE_FILE)

    def _artifacts(self, ref: ModelVersionRef, folder: str, names: Iterable[str]) -> dict[str, bytes]:
        """Return the files of these names in an artifact folder of a version's run. The caller translates errors."""
        with tempfile.TemporaryDirectory() as local:
            there = {Path(artifact.path).name for artifact in self._client.list_artifacts(ref.run_id, folder)}
            return {
                name: Path(self._client.download_artifacts(ref.run_id, f"{folder}/{name}", local)).read_bytes()
                for name in names
                if name in there
            }

    def _champions(self, models: Iterable[Any]) -> list[ModelVersionRef]:
        """Return the versions with the alias. The caller translates errors."""
        found = [self._existing(model.name, model.aliases[CHAMPION]) for model in models if CHAMPION in model.aliases]
        return [ref for ref in found if ref is not None and self._is_ours(ref)]

    def _crowned(self) -> list[ModelVersionRef]:
        """Return the versions that are or were champion, without listing the others. The caller translates errors."""
        filtered = f"name LIKE '{self._prefix}-%' AND tags.{CHAMPION_NUMBER} != ''"
        found = map(_ref, _all(self._client.search_model_versions, filtered, ["name ASC"]))
        return [ref for ref in found if self._is_ours(ref)]

    def _existing(self, name: str, version: object) -> ModelVersionRef | None:
        """Return the version that an alias points to; None where it was deleted. The caller translates errors."""
        try:
            return _ref(self._client.get_model_version(name, str(version)))
        except Exception as error:
            if not is_refusal(error, "RESOURCE_DOES_NOT_EXIST"):
                raise
        if (place := (name, str(version))) not in self._dangling:
            self._dangling.add(place)
            log.warning("%s version %s was deleted in MLflow while an alias points to it; the alias counts as none", *place)
        return None

    def _aliases(self, model: Any, newest: Any) -> dict[str, str]:
        """Return the aliases of a model that point to a version. The caller translates errors."""
        aliases = {alias: str(version) for alias, version in dict(model.aliases).items()}
        gone = {each for each in {*aliases.values()} - {str(newest.version)} if not self._existing(model.name, each)}
        return {alias: version for alias, version in aliases.items() if version not in gone}

    def _versions(self, name: str) -> list[Any]:
        """Return the versions of a registered model, newest first. The caller translates errors."""
        quoted = name.replace("'", "''")
        order = ["version_number DESC"]
        return list(self._client.search_model_versions(f"name = '{quoted}'", max_results=MAX_VERSIONS, order_by=order))

    def _models(self) -> list[Any]:
        """Return the registered models of the prefix, and others that begin alike. The caller translates errors."""
        return _all(self._client.search_registered_models, f"name LIKE '{self._prefix}-%'", ["name ASC"])

    def _has_ours(self, model: Any) -> bool:
        return (newest := _newest(model)) is not None and self._is_ours(_ref(newest))

    def _is_ours(self, ref: ModelVersionRef) -> bool:
        # A version without the tag has the prefix in its name only, before the trainer's.
        return ref.tags.get(PREFIX, ref.model.removesuffix(f"-{ref.trainer}")) == self._prefix


def _all(search: Callable[..., Any], filtered: str, order: list[str]) -> list[Any]:
    """Return what a search finds, page by page."""
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(filter_string=filtered, max_results=100, order_by=order, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def newest_champion(champions: Iterable[ModelVersionRef]) -> ModelVersionRef | None:
    """Return the version that became champion last; None where there is none."""
    return max(champions, key=lambda ref: (_number(ref), ref.tags.get(CHAMPION_SINCE, "")), default=None)


def _number(champion: ModelVersionRef) -> int:
    return int(number) if (number := champion.tags.get(CHAMPION_NUMBER, "")).isdecimal() else 0


def _newest(model: Any) -> Any:
    return max(model.latest_versions, key=lambda each: int(each.version), default=None)


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
        split=tags.get(SPLIT, BY_KEY),
    )
