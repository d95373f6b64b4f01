"""Messages of the Open Inference Protocol: a request as the reader of tensors takes it, and the answer from a result.

An answer has raw contents where the request has them, and typed contents otherwise, so that every client gets what it sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from complex_system.errors import InvalidRequestError
from complex_system.serving.engine import PredictionResult
from complex_system.serving.grpc import open_inference_pb2 as pb
from complex_system.serving.open_inference import output_type, output_values
from complex_system.serving.requests.tensor_bytes import tensor_bytes
from complex_system.serving.requests.tensors import InferenceRequest, InputTensor, RequestedOutput
from complex_system.serving.requests.wanted import read_notes

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Field of the typed contents, by datatype; other datatypes have raw contents only."""


def decoded(kind: Any, content: bytes) -> Any:
    """Return a message of a type.

    Raises:
        InvalidRequestError: The bytes are not one.
    """
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise InvalidRequestError(f"The message is not a {kind.DESCRIPTOR.full_name}: {error}.") from None


def inference_request(message: pb.ModelInferRequest) -> InferenceRequest:
    """Return what a message asks for.

    Raises:
        InvalidRequestError: Its contents are not those of its inputs.
    """
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise InvalidRequestError(
            f"The request has {len(message.inputs)} inputs and {len(raws)} raw_input_contents; there must be one for each input."
        )
    inputs = []
    for place, tensor in enumerate(message.inputs):
        # MLServer's client sends empty contents, too.
        if raws and tensor.HasField("contents") and tensor.contents.ByteSize():
            raise InvalidRequestError(
                f"The input '{tensor.name[:60]}' has contents beside the request's raw_input_contents; send one of them."
            )
        data = memoryview(raws[place]) if raws else _typed_contents(tensor)
        inputs.append(InputTensor(tensor.name, list(tensor.shape), tensor.datatype, data))
    outputs = [RequestedOutput(output.name) for output in message.outputs]
    return InferenceRequest(inputs, message.id or None, _parameters(message.parameters), outputs or None)


def _typed_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> Any:
    """Return the elements of a tensor: an array of floats, or a list."""
    name, datatype = tensor.name[:60], tensor.datatype
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidRequestError(
            f"The input '{name}' of the datatype '{datatype[:20]}' has no typed contents; send it as raw_input_contents."
        )
    values = list(getattr(tensor.contents, field))
    if field == "bytes_contents":
        try:
            return [value.decode() for value in values]
        except UnicodeDecodeError:
            raise InvalidRequestError(f"The input '{name}' has an element that is not UTF-8.") from None
    return np.array(values, np.float64) if field in ("fp32_contents", "fp64_contents") else values


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any] | None:
    if not parameters:
        return None
    chosen = {name: parameter.WhichOneof("parameter_choice") for name, parameter in parameters.items()}
    found = {name: getattr(parameters[name], field) for name, field in chosen.items() if field}
    # MLServer's messages have no floats, so a level comes as a text there.
    texts = {name: value for name, value in found.items() if isinstance(value, str)}
    return found | read_notes(texts)


def inference_response(
    message: pb.ModelInferRequest, request: InferenceRequest, result: PredictionResult
) -> pb.ModelInferResponse:
    """Return the answer.

    Args:
        message: What was asked.
        request: The same as it was read.
        result: The predictions.
    """
    model = result.model
    answer = pb.ModelInferResponse(model_name=message.model_name, model_version=model.version, id=message.id)
    answer.parameters["pipeline_version"].string_param = model.pipeline_version
    answer.parameters["registered_name"].string_param = model.name
    values = output_values(result)
    for name in [output.name for output in request.outputs or ()] or values:
        datatype, data = output_type(name), values[name]
        output = answer.outputs.add(name=name, datatype=datatype, shape=[len(data), 1])
        if message.raw_input_contents:
            answer.raw_output_contents.append(tensor_bytes(datatype, data))
        elif datatype == "BYTES":
            output.contents.bytes_contents.extend(each.encode() for each in data)
        else:
            output.contents.fp32_contents.extend(data)
    return answer
