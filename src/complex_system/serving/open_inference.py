"""What REST and gRPC share of the Open Inference Protocol: its names, what a model takes and gives, a request's batch, the outputs."""

from __future__ import annotations

from typing import Any

import msgspec

from complex_system.errors import InvalidRequestError
from complex_system.serving.engine import PredictionResult
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.tensors import InferenceRequest, RequestedOutput, datatype_of, inference_batch
from complex_system.serving.requests.wanted import INTERVAL, LOWER, UPPER, WARNINGS, Wanted, wanted_of

SERVER = "complex-system"
OUTPUT = "prediction"
"""The one output of every request."""
EXTENSIONS = ["binary_tensor_data"]
_NEEDS = {LOWER: INTERVAL, UPPER: INTERVAL, WARNINGS: WARNINGS}
"""The parameter that the other outputs come with."""


class TensorMetadata(msgspec.Struct, frozen=True):
    """``$metadata_tensor``."""

    name: str
    datatype: str
    shape: list[int]


def tensors_of(predictor: Predictor) -> tuple[list[TensorMetadata], list[TensorMetadata]]:
    """Return the inputs that a model takes and the outputs that it always gives."""
    dataset = predictor.pipeline.dataset
    inputs = [
        TensorMetadata(column.name, datatype_of(column), [-1, 1])
        for column in dataset.columns
        if column.name != dataset.target
    ]
    return inputs, [TensorMetadata(OUTPUT, "FP32", [-1, 1])]


def requested_batch(request: InferenceRequest, reader: BatchReader) -> Batch:
    """Return what a request asks predictions for, and what beside them.

    Raises:
        InvalidRequestError: Inputs or outputs are not the model's, or a parameter is of another type.
        InvalidRecordError: A value in them is not of its column's type.
        TooLargeError: There are too many records.
    """
    batch = inference_batch(request, reader)
    if request.parameters:
        batch.wanted = wanted_of(request.parameters)
    if request.outputs:
        _check_outputs(request.outputs, batch.wanted)
    return batch


def _check_outputs(outputs: list[RequestedOutput], wanted: Wanted) -> None:
    named = [output.name for output in outputs]
    if len(set(named)) < len(named):  # an answer could have any size
        raise InvalidRequestError("An output is named more than once.")
    for name in named:
        needs = _NEEDS.get(name)
        if needs is not None and not getattr(wanted, needs):
            raise InvalidRequestError(f"The output '{name}' needs the request's parameter '{needs}'.")
        if needs is None and name != OUTPUT:
            raise InvalidRequestError(f"The model has the output '{OUTPUT}' and no output '{name[:60]}'.")


def output_values(result: PredictionResult) -> dict[str, list[Any]]:
    """Return the values of all outputs, one a record, by name."""
    values: dict[str, list[Any]] = {OUTPUT: result.predictions, **result.columns()}
    if WARNINGS in values:
        values[WARNINGS] = ["; ".join(each) for each in values[WARNINGS]]
    return values


def output_type(name: str) -> str:
    """Return the datatype of an output."""
    return "BYTES" if name == WARNINGS else "FP32"
