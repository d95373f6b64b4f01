"""The ONNX twin of a trained model: named as serving expects it, and checked against the native model."""

from __future__ import annotations

from typing import Any

import numpy as np

from complex_system.errors import TrainingFailedError
from complex_system.training.base import TWIN_INPUT, TWIN_OUTPUT, TWIN_TOLERANCE, TrainedModel
from complex_system.training.data import Matrix

BATCH = "n"
"""What the twin calls its free first dimension."""


def make(model: TrainedModel, x: Matrix) -> bytes:
    """The twin of a model, checked on ``x``.

    Raises:
        TrainingFailedError: The twin does not answer as the model does.
    """
    onnx = model.to_onnx()
    check(model, onnx, x)
    return onnx


def check(model: TrainedModel, onnx: bytes, x: Matrix) -> None:
    """Compares twin and native model on features ``x`` of shape (n, features), in one batch and row by row for a few.

    Raises:
        TrainingFailedError: The twin cannot be run, is shaped or named otherwise than declared, or its predictions differ by more
            than ``TWIN_TOLERANCE``.
    """
    expected = model.predict(x).astype(np.float64)
    try:
        predicted = _run(onnx, [x, *(x[i : i + 1] for i in range(min(3, len(x))))])
    except Exception as error:
        raise TrainingFailedError(f"The ONNX twin cannot be run: {error}") from error
    for rows, answer in zip((len(x), 1, 1, 1), predicted, strict=False):
        if answer.shape != (rows, 1) or answer.dtype != np.float32:
            raise TrainingFailedError(f"The ONNX twin answers {answer.dtype}{answer.shape}, not float32{(rows, 1)}.")
    answers = np.concatenate([predicted[0], *predicted[1:]])[:, 0].astype(np.float64)
    truth = np.concatenate([expected, expected[: len(predicted) - 1]])
    difference = np.abs(answers - truth) / np.maximum(1.0, np.abs(truth))
    if not np.all(difference <= TWIN_TOLERANCE):  # NaN fails too
        raise TrainingFailedError(
            f"The ONNX twin differs from the native model by {np.max(difference):.2g} relative, "
            f"more than {TWIN_TOLERANCE:g} is not accepted."
        )


def with_twin_names(model: Any) -> bytes:
    """Gives an ONNX model's only input and output the names of a twin, and frees the batch dimension.

    Args:
        model: An ``onnx.ModelProto`` with one real input and one output; it is changed.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise TrainingFailedError(
            f"The exported graph has {len(inputs)} inputs and {len(graph.output)} outputs, not one each."
        )
    renamed = {inputs[0].name: TWIN_INPUT, graph.output[0].name: TWIN_OUTPUT}
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    for value in (inputs[0], graph.output[0]):
        value.name = renamed[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    serialized: bytes = model.SerializeToString()
    return serialized


def _run(onnx: bytes, batches: list[Matrix]) -> list[Matrix]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return [session.run([TWIN_OUTPUT], {TWIN_INPUT: batch})[0] for batch in batches]
