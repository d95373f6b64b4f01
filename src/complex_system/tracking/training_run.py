"""A training as MLflow has it: what it can be repeated from, and the model that it made."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.errors import ModelRefusedError, UnknownModelError
from complex_system.tracking.connection import is_refusal, open_client, translated
from complex_system.tracking.model_files import TRAINING, digests_of
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.stack import STACK

_RUN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class TrainingRun:
    """A run of a trainer, with the version that it registered.

    Attributes:
        ref: The version.
        onnx: Its ONNX model.
        dataset: As it was declared then.
        files: What the training can be repeated from, by name.
    """

    ref: ModelVersionRef
    onnx: bytes
    dataset: Dataset
    files: Mapping[str, bytes]


def load_training_run(tracking_uri: str, run_id: str, model_key: str = "") -> TrainingRun:
    """Read a training from MLflow. Blocking.

    Args:
        tracking_uri: MLflow server.
        run_id: The run.
        model_key: With it, the model must be signed by a trainer of this deployment.

    Raises:
        UnknownModelError: There is no such run, or it registered no model.
        ModelRefusedError: It cannot be repeated; the message says why.
        TrackingUnavailableError: MLflow does not answer.
    """
    client, registry = open_client(tracking_uri), ModelRegistry(tracking_uri, "", model_key)
    with translated(tracking_uri, "looking for a training"):
        run = _run(client, run_id)
        versions = client.search_model_versions(f"run_id = '{run_id}'", max_results=1) if run else []
    if run is None:
        raise UnknownModelError(f"MLflow has no run '{run_id}'; the page of a model version names its run.")
    if not versions:
        raise UnknownModelError(f"Run {run_id} registered no model: it is not a training, or it failed.")
    ref = registry.find(versions[0].name, str(versions[0].version))
    onnx, metadata = registry.load_onnx_model(ref)
    digests = metadata.get(TRAINING)
    if not isinstance(digests, Mapping) or not digests:
        raise ModelRefusedError(f"{ref.model} {ref.version} cannot be trained again: {_why(registry, ref, metadata)}.")
    with translated(tracking_uri, "reading a training"), tempfile.TemporaryDirectory() as folder:
        names = {Path(each.path).name for each in client.list_artifacts(run_id, TRAINING)} & set(digests)
        files = {name: Path(client.download_artifacts(run_id, f"{TRAINING}/{name}", folder)).read_bytes() for name in names}
    if digests_of(files) != dict(digests):
        raise ModelRefusedError(
            f"The training set of run {run_id} is damaged: files are missing or do not match the metadata."
        )
    return TrainingRun(ref, onnx, Dataset.restored(metadata["declaration"]), files)


def _run(client: Any, run_id: str) -> Any:
    if not _RUN.fullmatch(run_id):
        return None
    try:
        return client.get_run(run_id)
    except Exception as error:
        if not is_refusal(error, "RESOURCE_DOES_NOT_EXIST"):
            raise
        return None


def _why(registry: ModelRegistry, ref: ModelVersionRef, metadata: Mapping[str, Any]) -> str:
    if ref.framework != STACK:
        return "an earlier release, which did not keep the records of a training, made it"
    members = [_member(registry, str(each["model"]), str(each["version"])) for each in metadata.get("members", ())]
    named = f": {', '.join(members)}" if members else ""
    return f"a stack has no training of its own, its members have{named}"


def _member(registry: ModelRegistry, model: str, version: str) -> str:
    if not version:
        return f"{model} (fitted within the round, its records are not kept)"
    try:
        return f"{model} {version} (fiot extras retrain {registry.find(model, version).run_id})"
    except UnknownModelError:
        return f"{model} {version} (deleted)"
