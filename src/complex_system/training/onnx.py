"""The ONNX model of a trained model: its input and output named as serving expects them, checked against the native model."""

from __future__ import annotations

from typing import Any

import numpy as np

from complex_system.errors import TrainingFailedError
from complex_system.training.base import TrainedModel
from complex_system.training.data import Matrix

ONNX_INPUT = "features"
"""Name of the input: float32 of shape (n, features), columns in the order of ``Dataset.feature_names``."""
ONNX_OUTPUT = "prediction"
"""Name of the output: float32 of shape (n, 1), in the target's own unit."""
ONNX_TOLERANCE = 1e-3
"""Largest accepted difference from the native model, relative to the target's spread: see :func:`check_onnx`."""
ROUNDINGS = 4 * float(np.finfo(np.float32).eps)
"""What float32 may cost beside it, relative to the prediction: a few roundings of a value that is large against its spread."""
AT_ONCE = 10_000
"""Rows that a model predicts at the same time: the layers of a network hold thousands of numbers for each of them."""
BATCH = "n"
"""Name of the free first dimension."""


def export_onnx(model: TrainedModel, x: Matrix, truth: Matrix | None = None) -> bytes:
    """Export a model to ONNX and check the result on ``x``.

    Args:
        model: What is exported.
        x: Features of shape (n, features).
        truth: Their targets, shape (n,), whose spread the differences are compared with.

    Raises:
        TrainingFailedError: The ONNX model does not answer as the native one does.
    """
    onnx = model.to_onnx()
    check_onnx(model, onnx, x, truth)
    return onnx


def check_onnx(model: TrainedModel, onnx: bytes, x: Matrix, truth: Matrix | None = None) -> None:
    """Compare ONNX and native model on features ``x`` of shape (n, features), in one batch and row by row for a few.

    A difference may be ``ONNX_TOLERANCE`` times the spread, which is the standard deviation of the targets ``truth`` or of the native
    predictions, whichever is larger: so the target's unit and its zero do not matter. For a prediction farther from their mean, it is
    that distance. ``ROUNDINGS`` times the prediction are added, because float32 keeps no more of 101,325 Pa that vary by 0.1 Pa.

    Raises:
        TrainingFailedError: The ONNX model cannot be run, its shapes or names are not the declared ones, or its predictions
            differ by more than that.
    """
    expected = model.predict(x).astype(np.float64)
    try:
        predicted = run_onnx(onnx, [x, *(x[i : i + 1] for i in range(min(3, len(x))))])
    except Exception as error:
        raise TrainingFailedError(f"The ONNX model cannot be run: {error}") from error
    for rows, answer in zip([len(x), 1, 1, 1], predicted, strict=False):
        if answer.shape != (rows, 1) or answer.dtype != np.float32:
            raise TrainingFailedError(f"The ONNX model answers {answer.dtype}{answer.shape}, not float32{(rows, 1)}.")
    answers = np.concatenate([predicted[0], *predicted[1:]])[:, 0].astype(np.float64)
    native = np.concatenate([expected, expected[: len(predicted) - 1]])
    spread = max(float(values.std(dtype=np.float64)) for values in (expected, expected if truth is None else truth))
    distance = np.maximum(spread, np.abs(native - expected.mean()))
    difference = np.abs(answers - native)
    accepted = ONNX_TOLERANCE * distance + ROUNDINGS * np.abs(native)
    if not np.all(difference <= accepted):  # NaN fails too
        raise TrainingFailedError(
            f"The ONNX model differs from the native model by {np.max(difference):.2g}, where the target's spread is {spread:.2g}: "
            f"more than {ONNX_TOLERANCE:g} of it is not accepted."
        )


def with_declared_names(model: Any) -> bytes:
    """Give the only input and output of an ONNX model the declared names, and free the batch dimension.

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
    renamed = {inputs[0].name: ONNX_INPUT, graph.output[0].name: ONNX_OUTPUT}
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    for value in (inputs[0], graph.output[0]):
        value.name = renamed[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    serialized: bytes = model.SerializeToString()
    return serialized


def run_onnx(onnx: bytes, batches: list[Matrix]) -> list[Matrix]:
    """Return what an ONNX model predicts for each batch of features, of shape (n, 1), in one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])

    def run(batch: Matrix) -> Matrix:
        starts = range(0, max(1, len(batch)), AT_ONCE)
        parts = [session.run([ONNX_OUTPUT], {ONNX_INPUT: batch[start : start + AT_ONCE]})[0] for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return [run(batch) for batch in batches]
