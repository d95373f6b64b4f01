"""The one model that all servers serve: our LightGBM trainer's, on lab records, natively and as an ONNX model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.records import Record
from complex_system.pipeline.pipeline import Pipeline

DATASET = Dataset.load()


def records(count: int, seed: int = 1) -> list[Record]:
    """Complete records without their target and their key: what a client sends."""
    laboratory = Laboratory(seed)
    made = []
    for _ in range(count):
        record = laboratory.complete_record()
        made.append({name: value for name, value in record.items() if value is not None and name != "_id"})
    return made


def features(count: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """The processed records of :func:`records`."""
    return Pipeline(DATASET).features(records(count, seed))


def train(folder: Path, count: int = 6000) -> None:
    """Trains and writes ``model.onnx``, ``metadata.json``, ``model.txt`` (LightGBM's own) and ``mlflow/`` (its flavor)."""
    import mlflow.lightgbm
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from complex_system.training.data import Samples, TrainingData
    from complex_system.training.lightgbm import LightGBMTrainer

    laboratory = Laboratory(seed=3)
    rows = [laboratory.complete_record() for _ in range(count)]
    x = Pipeline(DATASET).features(rows)
    y = np.array([truth_of(row) for row in rows], dtype=np.float32)
    cut = count * 4 // 5
    data = TrainingData(DATASET.feature_names, DATASET.target, Samples(x[:cut], y[:cut]), Samples(x[cut:], y[cut:]))
    model = LightGBMTrainer().fit(data, lambda _: None)
    onnx_model = model.to_onnx()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(onnx_model)
    metadata = {
        "framework": "lightgbm",
        "trainer": "lightgbm",
        "pipeline_version": DATASET.version,
        "target": DATASET.target,
        "feature_names": list(DATASET.feature_names),
        "sha256": hashlib.sha256(onnx_model).hexdigest(),
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    model.native.save_model(str(folder / "model.txt"))
    signature = ModelSignature(inputs=Schema([ColSpec(DataType.double, name) for name in DATASET.feature_names]))
    mlflow.lightgbm.save_model(model.native, str(folder / "mlflow"), signature=signature, pip_requirements=["lightgbm"])
