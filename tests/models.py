"""Small real models for tests: ONNX twins of a linear law, logged and registered in MLflow as the trainers do it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.serving.sources import LoadedTwin, ModelReference, ModelSource
from complex_system.training.base import TWIN_INPUT, TWIN_OUTPUT


def linear_twin(dataset: Dataset, bias: float = 0.0, weight: float = 1.0, width: int | None = None) -> bytes:
    """A twin that answers ``bias + weight * (sum of the features)``."""
    features = width or len(dataset.feature_names)
    constants = [
        numpy_helper.from_array(np.full((features, 1), weight, dtype=np.float32), "weights"),
        numpy_helper.from_array(np.array([bias], dtype=np.float32), "bias"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [TWIN_INPUT, "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], [TWIN_OUTPUT]),
        ],
        "linear",
        [helper.make_tensor_value_info(TWIN_INPUT, TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info(TWIN_OUTPUT, TensorProto.FLOAT, ["n", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    encoded: bytes = model.SerializeToString()
    return encoded


def twin_metadata(dataset: Dataset, twin: bytes, model: str, trainer: str = "lightgbm", **changes: Any) -> dict[str, Any]:
    """What a trainer writes beside a twin; keyword arguments replace entries."""
    return {
        "model": model,
        "framework": trainer.split("-", maxsplit=1)[0],
        "trainer": trainer,
        "pipeline_version": dataset.version,
        "dataset": dataset.name,
        "target": dataset.target,
        "feature_names": list(dataset.feature_names),
        "trained_at": datetime.now(UTC).isoformat(),
        "round": "test",
        "run_id": "",
        "validation": {"rmse": 15.0, "mae": 12.5, "r2": 0.97},
        "samples": {"train": 70, "validation": 15},
        "sha256": hashlib.sha256(twin).hexdigest(),
        **changes,
    }


def register_twin(
    tracking_uri: str,
    dataset: Dataset,
    twin: bytes,
    *,
    prefix: str,
    trainer: str = "lightgbm",
    champion: bool = True,
    **changes: Any,
) -> tuple[str, str]:
    """Logs a run with the twin, registers a version and, if wanted, makes it champion.

    Args:
        prefix: What the registered name begins with; one of its own keeps tests apart.
        changes: Replaced entries of the metadata.

    Returns:
        Registered name and version.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    name = f"{prefix}-{trainer}"
    run = client.create_run("0")
    metadata = twin_metadata(dataset, twin, name, trainer, run_id=run.info.run_id) | changes
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.onnx").write_bytes(twin)
        Path(folder, "metadata.json").write_text(json.dumps(metadata))
        client.log_artifacts(run.info.run_id, folder, "twin")
    client.set_terminated(run.info.run_id)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        "framework": metadata["framework"],
        "trainer": trainer,
        "round": metadata["round"],
        "pipeline_version": metadata["pipeline_version"],
        "target": metadata["target"],
        "twin": "twin",
        "prefix": prefix,
    }
    source = f"{run.info.artifact_uri}/twin"
    version = str(client.create_model_version(name, source, run.info.run_id, tags=tags).version)
    if champion:
        crown(tracking_uri, name, version)
    return name, version


def crown(tracking_uri: str, name: str, version: str) -> None:
    """Moves the alias ``champion`` among the models of a prefix."""
    from complex_system.tracking.registry import ModelRegistry

    ref = ModelRegistry(tracking_uri, "").version(name, version)
    ModelRegistry(tracking_uri, ref.tags["prefix"]).set_champion(ref)


class MemorySource(ModelSource):
    """A source whose newest model a test sets."""

    label = "memory"

    def __init__(self) -> None:
        self.published: list[tuple[str, str, bytes, dict[str, Any]]] = []
        self.loads = 0
        self.failure: Exception | None = None

    def publish(self, dataset: Dataset, bias: float, twin: bytes | None = None, **changes: Any) -> str:
        """Makes a twin that answers ``bias`` plus the sum of the features the newest, and returns its version."""
        version = str(len(self.published) + 1)
        twin = linear_twin(dataset, bias) if twin is None else twin
        self.published.append(("memory-lightgbm", version, twin, twin_metadata(dataset, twin, "memory-lightgbm") | changes))
        return version

    @override
    def newest(self) -> ModelReference | None:
        if self.failure is not None:
            raise self.failure
        return ModelReference(*self.published[-1][:2]) if self.published else None

    @override
    def load(self, reference: ModelReference) -> LoadedTwin:
        self.loads += 1
        _, _, twin, metadata = self.published[int(reference.version) - 1]
        return LoadedTwin(twin, metadata)
