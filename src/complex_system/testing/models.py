"""Small ONNX models, and what a trainer writes beside them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from complex_system.domain.dataset import Dataset
from complex_system.training.onnx import ONNX_INPUT, ONNX_OUTPUT


def linear_onnx(dataset: Dataset, bias: float = 0.0, weight: float = 1.0, width: int | None = None) -> bytes:
    """Return an ONNX model that answers ``bias + weight * (sum of the features)``."""
    features = width or len(dataset.feature_names)
    constants = [
        numpy_helper.from_array(np.full((features, 1), weight, dtype=np.float32), "weights"),
        numpy_helper.from_array(np.array([bias], dtype=np.float32), "bias"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [ONNX_INPUT, "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], [ONNX_OUTPUT]),
        ],
        "linear",
        [helper.make_tensor_value_info(ONNX_INPUT, TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info(ONNX_OUTPUT, TensorProto.FLOAT, ["n", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    encoded: bytes = model.SerializeToString()
    return encoded


def onnx_metadata(
    dataset: Dataset, onnx_model: bytes, model: str, trainer: str = "lightgbm", **changes: Any
) -> dict[str, Any]:
    """Return what a trainer writes beside an ONNX model; keyword arguments replace entries."""
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
        "sha256": hashlib.sha256(onnx_model).hexdigest(),
        "declaration": dataset.as_content(),
        **changes,
    }
