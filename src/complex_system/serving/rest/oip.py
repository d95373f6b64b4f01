"""The Open Inference Protocol, version 2, over REST (kserve/open-inference-protocol).

Inputs are the raw columns as named tensors, or one tensor ``features`` of processed features; the output is ``prediction``. With the
parameters ``interval`` and ``warnings`` of a request there are the outputs ``lower``, ``upper`` and ``warnings``, too. Tensors
are JSON, or binary data behind it (Triton's binary tensor data extension), each input and output as the client wants it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.errors import (
    ComplexSystemError,
    ModelRefusedError,
    NobodyListensError,
    NoModelError,
    error_text,
)
from complex_system.http.responses import json_response
from complex_system.serving.engine import PredictionResult, off_loop
from complex_system.serving.models.manager import CHAMPION
from complex_system.serving.open_inference import (
    EXTENSIONS,
    OUTPUT,
    SERVER,
    TensorMetadata,
    output_type,
    output_values,
    requested_batch,
    tensors_of,
)
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.column_names import FEATURES
from complex_system.serving.requests.examples import example_columns
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.tensor_bytes import BINARY_SIZE, HEADER, tensor_bytes
from complex_system.serving.requests.tensors import (
    InferenceRequest,
    Inputs,
    RequestedOutput,
    decode_inference,
)
from complex_system.serving.requests.wanted import INTERVAL, WARNINGS
from complex_system.serving.rest.endpoint import Backend, ErrorFormat, PredictionRequest, Responses, Routes
from complex_system.serving.rest.schemas import Schema, reference

_HEADER = HEADER.encode()


class OutputTensor(msgspec.Struct, frozen=True):
    """``$response_output``; without ``data`` where they are behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float | str] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class InferenceParameters(msgspec.Struct, frozen=True):
    """What answered."""

    pipeline_version: str
    registered_name: str


class InferenceResponse(msgspec.Struct, frozen=True):
    """``$inference_response``."""

    model_name: str
    model_version: str
    id: str
    parameters: InferenceParameters
    outputs: list[OutputTensor]


class InferenceError(msgspec.Struct, frozen=True):
    """``$inference_error_response``."""

    error: str


class ModelMetadata(msgspec.Struct, frozen=True):
    """``$metadata_model_response``: what a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(msgspec.Struct, frozen=True):
    """``$ready_model_response``."""

    name: str
    ready: bool
    error: str | msgspec.UnsetType = msgspec.UNSET


class ServerReady(msgspec.Struct, frozen=True):
    """The specification's text says ``live`` here and its OpenAPI document ``ready``."""

    live: bool
    ready: bool


class ServerLive(msgspec.Struct, frozen=True):
    """``$live_server_response``."""

    live: bool


class ServerMetadata(msgspec.Struct, frozen=True):
    """``$metadata_server_response``."""

    name: str
    version: str
    extensions: list[str]


def _error(error: ComplexSystemError, status: int) -> InferenceError:
    return InferenceError(error_text(error))


OIP_ERRORS = ErrorFormat(InferenceError, _error)


def oip_routes(backend: Backend) -> list[Route]:
    """Return the routes below ``/v2``."""
    routes = Routes(backend, OIP_ERRORS, "Open Inference Protocol V2")
    responses: Responses = {200: InferenceResponse, **dict.fromkeys((400, 404, 409, 413, 415, 503), InferenceError)}
    one = "/v2/models/{name}"
    versioned = one + "/versions/{version}"
    for path, suffix, summary in ((one, "_newest", "Infer"), (versioned, "", "Infer with a version or alias")):
        name = f"infer{suffix}"
        routes.add(f"{path}/infer", infer, summary, responses, method="POST", body=inference_body, name=name)
    for path, suffix in ((one, "_newest"), (versioned, "")):
        responses = {200: ModelReady, 404: InferenceError, 503: ModelReady}
        routes.add(f"{path}/ready", model_ready, "Whether a model can infer", responses, name=f"model_ready{suffix}")
        responses = {200: ModelMetadata, 404: InferenceError, 503: InferenceError}
        routes.add(path, metadata, "What a model takes and gives", responses, name=f"metadata{suffix}")
    routes.add("/v2", server, "What the server is", {200: ServerMetadata})
    probes = Routes(backend, OIP_ERRORS, "Open Inference Protocol V2", is_open=True)
    probes.add("/v2/health/live", live, "The server is up", {200: ServerLive})
    probes.add("/v2/health/ready", ready, "The server can infer", {200: ServerReady, 503: ServerReady})
    return routes.routes + probes.routes


async def infer(request: PredictionRequest, name: str, version: str | None = None) -> Response:
    """Predict tensors."""
    request.require_json()
    length = request.header(_HEADER) if _HEADER in request.headers else None
    # An unknown model is reported before the input is checked.
    await request.find_model(name, version)
    sent = InferenceRequest([])

    def read(reader: BatchReader, body: bytes) -> Batch:
        nonlocal sent
        sent = decode_inference(body, length)
        return requested_batch(sent, reader)

    result = await request.predict(read)
    response: Response = await off_loop(result.batch.size, _inferred, result, sent, request, name)
    return response


def _inferred(result: PredictionResult, sent: InferenceRequest, request: PredictionRequest, name: str) -> Response:
    outputs, parts = _outputs(sent, output_values(result))
    content = InferenceResponse(
        name,
        result.model.version,
        request.id if sent.id is None else sent.id,
        InferenceParameters(result.model.pipeline_version, result.model.name),
        outputs,
    )
    if not parts:
        return json_response(content, headers=request.answer_headers)
    head = msgspec.json.encode(content)
    response = Response(b"".join((head, *parts)), media_type="application/octet-stream")
    headers = {HEADER: str(len(head)), **request.answer_headers}
    response.raw_headers += [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
    return response


def _outputs(request: InferenceRequest, values: dict[str, list[Any]]) -> tuple[list[OutputTensor], list[bytes]]:
    """Return the outputs that a request asks for, and the bytes of those that it wants as binary data."""
    tensors: list[OutputTensor] = []
    parts: list[bytes] = []
    is_binary = bool((request.parameters or {}).get("binary_data_output"))
    for output in request.outputs or map(RequestedOutput, values):
        name, datatype = output.name, output_type(output.name)
        shape = [len(values[name]), 1]
        if (output.parameters or {}).get("binary_data", is_binary):
            parts.append(tensor_bytes(datatype, values[name]))
            tensors.append(OutputTensor(name, shape, datatype, parameters={BINARY_SIZE: len(parts[-1])}))
        else:
            tensors.append(OutputTensor(name, shape, datatype, values[name]))
    return tensors, parts


async def model_ready(request: PredictionRequest, name: str, version: str | None = None) -> Response:
    """Tell whether a model can infer."""
    try:
        info = (await request.find_model(name, version)).info
        request.backend.require_processing()
    except (NoModelError, ModelRefusedError, NobodyListensError) as error:
        return json_response(ModelReady(name, ready=False, error=error.message), 503)
    return json_response(ModelReady(info.name if name != CHAMPION else name, ready=True))


async def metadata(request: PredictionRequest, name: str, version: str | None = None) -> Response:
    """Describe a model."""
    predictor = await request.find_model(name, version)
    versions = [predictor.info.version] if version else await request.backend.engine.models.versions(name)
    inputs, outputs = tensors_of(predictor)
    return json_response(ModelMetadata(name, versions, predictor.info.platform, inputs, outputs))


async def server(_: PredictionRequest) -> Response:
    """Describe the server."""
    return json_response(ServerMetadata(SERVER, __version__, EXTENSIONS))


async def live(_: PredictionRequest) -> Response:
    """Tell that the server is up."""
    return json_response(ServerLive(live=True))


async def ready(request: PredictionRequest) -> Response:
    """Tell whether the server can infer."""
    is_ready = request.backend.is_ready
    return json_response(ServerReady(live=True, ready=is_ready), 200 if is_ready else 503)


def inference_body(dataset: Dataset) -> Schema:
    """Return OpenAPI's description of an inference request, with examples."""
    inputs = Inputs(dataset.columns)

    def data(name: str, values: list[Any]) -> list[Any]:
        return [msgspec.json.encode(value).decode() for value in values] if name in inputs.lists else values

    raw = [
        {"name": name, "shape": [2, 1], "datatype": inputs.datatypes[name], "data": data(name, values)}
        for name, values in example_columns(dataset, 2).items()
    ]
    width = len(dataset.feature_names)
    features = [{"name": FEATURES, "shape": [1, width], "datatype": "FP32", "data": [0.0] * width}]
    asked = {INTERVAL: 0.9, WARNINGS: True}
    examples = {
        "columns": {"summary": "Two records, one tensor a column", "value": {"id": "42", "inputs": raw}},
        "features": {
            "summary": "Processed features",
            "description": f"In the order {', '.join(dataset.feature_names)}.",
            "value": {"inputs": features, "outputs": [{"name": OUTPUT}]},
        },
        "intervals": {"summary": "With 90 % intervals and warnings", "value": {"parameters": asked, "inputs": raw}},
    }
    return {
        "required": True,
        "content": {"application/json": {"schema": reference(InferenceRequest.__name__), "examples": examples}},
    }
