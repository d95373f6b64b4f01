"""The Open Inference Protocol, version 2, over REST (kserve/open-inference-protocol).

Inputs are the raw columns as named tensors, or one tensor ``features`` of processed features; the output is ``prediction``. The
binary tensor extension is not offered, and refused in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from fastapi import APIRouter, Response
from typing_extensions import override

from complex_system import __version__
from complex_system.domain.dataset import ID, Column, Dataset
from complex_system.domain.kinds import kind_of
from complex_system.domain.records import MAX_FAULTS, sentence, shown
from complex_system.errors import (
    ComplexSystemError,
    InvalidRecordError,
    InvalidRequestError,
    ModelRefusedError,
    NobodyListensError,
    NoModelError,
)
from complex_system.serving.batch import Batch, BatchReader, json_of
from complex_system.serving.calls import (
    REQUEST_ID,
    Call,
    OpenRoute,
    ServingRoute,
    challenge,
    fault_lines,
    in_one_text,
    json_response,
    sentences,
    status_of,
)
from complex_system.serving.json_words import why_no_such_object
from complex_system.serving.manager import CHAMPION
from complex_system.serving.predictor import Predictor
from complex_system.serving.schemas import answers, column_examples

SERVER = "complex-system"
FEATURES = "features"
OUTPUT = "prediction"
_FLOATS = ("FP64", "FP32", "FP16", "BF16")
_INTEGERS = {f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)}
_INTEGERS |= {f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)}
_NUMBERS = (*_FLOATS, *_INTEGERS)
_DATATYPES = {"number": "FP64", "integer": "INT64", "boolean": "BOOL"}
"""Of raw columns; the others are BYTES: texts, and lists as JSON."""


class InputTensor(msgspec.Struct, gc=False):
    """``$request_input``."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] | None = None


class OutputTensor(msgspec.Struct, gc=False):
    """``$request_output``."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(msgspec.Struct, gc=False):
    """``$inference_request``."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputTensor] | None = None


class OipRoute(ServingRoute):
    """Errors as ``{"error": text}``."""

    error_schema = "InferenceError"

    @override
    def refusal(self, error: ComplexSystemError, call: Call) -> Response:
        status = 400 if error.code == "invalid_record" else status_of(error)
        return json_response({"error": sentences(error)}, status, {REQUEST_ID: call.id, **challenge(status)})


class OipOpenRoute(OipRoute, OpenRoute):
    """The probes of the protocol."""


def oip_router() -> APIRouter:
    """The routes below ``/v2``."""
    protocol = _Protocol()
    router = APIRouter(route_class=OipRoute, tags=["Open Inference Protocol V2"])
    refused = answers({400: "InferenceError", 404: "InferenceError", 413: "InferenceError", 503: "InferenceError"})
    infer = {"responses": answers({200: "InferenceResponse"}) | refused}
    metadata = {"responses": answers({200: "ModelMetadata", 404: "InferenceError", 503: "InferenceError"})}
    refusals = answers({404: "InferenceError", 503: "ModelReady"})
    is_ready = {"responses": answers({200: "ModelReady"}) | refusals}
    versioned = "/v2/models/{name}/versions/{version}"
    router.add_api_route(
        "/v2/models/{name}/infer", protocol.infer_newest, methods=["POST"], openapi_extra=infer, summary="Infer"
    )
    router.add_api_route(
        f"{versioned}/infer", protocol.infer, methods=["POST"], openapi_extra=infer, summary="Infer with a version or alias"
    )
    for path, suffix in (("/v2/models/{name}", "newest"), (versioned, "version")):
        one = suffix == "newest"
        router.add_api_route(
            f"{path}/ready",
            protocol.model_ready_newest if one else protocol.model_ready,
            openapi_extra=is_ready,
            summary="Whether a model can infer",
        )
        router.add_api_route(
            path,
            protocol.metadata_newest if one else protocol.metadata,
            openapi_extra=metadata,
            summary="What a model takes and gives",
        )
    probes: dict[str, Any] = {"route_class_override": OipOpenRoute}
    live = {"responses": answers({200: "ServerLive"})}
    router.add_api_route("/v2/health/live", protocol.live, summary="The server is up", openapi_extra=live, **probes)
    unready = {"responses": answers({200: "ServerReady", 503: "ServerReady"})}
    router.add_api_route("/v2/health/ready", protocol.ready, summary="The server can infer", openapi_extra=unready, **probes)
    server = {"responses": answers({200: "ServerMetadata"})}
    router.add_api_route("/v2", protocol.server, summary="What the server is", openapi_extra=server)
    return router


class _Inputs:
    """The tensors that a model takes."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.datatypes = {column.name: _DATATYPES.get(column.type, "BYTES") for column in columns}
        self.lists = {column.name for column in columns if kind_of(column).is_list}


class _Protocol:
    def __init__(self) -> None:
        self._inputs: WeakKeyDictionary[BatchReader, _Inputs] = WeakKeyDictionary()
        self._decoder = msgspec.json.Decoder(InferenceRequest)

    async def server(self, call: Call) -> Response:
        return json_response({"name": SERVER, "version": __version__, "extensions": []})

    async def live(self, call: Call) -> Response:
        return json_response({"live": True})

    async def ready(self, call: Call) -> Response:
        # The specification's text says "live" here and its OpenAPI document "ready".
        ready = call.gate.ready
        return json_response({"live": True, "ready": ready}, 200 if ready else 503)

    async def model_ready_newest(self, call: Call, name: str) -> Response:
        return await self.model_ready(call, name)

    async def model_ready(self, call: Call, name: str, version: str | None = None) -> Response:
        try:
            info = (await call.find(name, version)).info
            call.gate.require_broker()
        except (NoModelError, ModelRefusedError, NobodyListensError) as error:
            return json_response({"name": name, "ready": False, "error": error.message}, 503)
        return json_response({"name": info.name if name != CHAMPION else name, "ready": True})

    async def metadata_newest(self, call: Call, name: str) -> Response:
        return await self.metadata(call, name)

    async def metadata(self, call: Call, name: str, version: str | None = None) -> Response:
        predictor = await call.find(name, version)
        versions = [predictor.info.version] if version else await call.versions(name)
        return json_response(_metadata(predictor, name, versions))

    async def infer_newest(self, call: Call, name: str) -> Response:
        return await self.infer(call, name)

    async def infer(self, call: Call, name: str, version: str | None = None) -> Response:
        if b"inference-header-content-length" in call.fields:
            raise _binary()
        # An unknown model is said before its input is judged.
        await call.find(name, version)
        asked: list[InferenceRequest] = []

        def read(body: bytes, reader: BatchReader) -> Batch:
            asked.append(self._decode(body))
            return self._batch(asked[0], reader)

        batch = await call.read(read)
        request = asked[0]
        _check_outputs(request)
        result = await call.predict(batch)
        output = {"name": OUTPUT, "shape": [batch.size, 1], "datatype": "FP32", "data": result.predictions}
        answer = {
            "model_name": name,
            "model_version": result.model.version,
            "id": call.id if request.id is None else request.id,
            "parameters": {"pipeline_version": result.model.pipeline_version, "registered_name": result.model.name},
            "outputs": [output],
        }
        return json_response(answer, headers={REQUEST_ID: call.id})

    def _decode(self, body: bytes) -> InferenceRequest:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise InvalidRequestError(f"The body is no inference request: {why_no_such_object(body, error)}.") from None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            json_of(body)  # raises, with the words for it
            raise

    def _batch(self, request: InferenceRequest, reader: BatchReader) -> Batch:
        if not request.inputs:
            raise InvalidRequestError("The request has no inputs.")
        if _wants_binary(request.parameters):
            raise _binary()
        tensors: dict[str, InputTensor] = {}
        for tensor in request.inputs:
            if _wants_binary(tensor.parameters):
                raise _binary()
            if tensor.name in tensors:
                raise InvalidRequestError(f"The input '{tensor.name[:60]}' is there more than once.")
            tensors[tensor.name] = tensor
        inputs = self._inputs.get(reader)
        if inputs is None:
            inputs = self._inputs[reader] = _Inputs(reader.declared)
        if list(tensors) == [FEATURES] and FEATURES not in inputs.datatypes:
            return self._features(tensors[FEATURES], reader)
        return self._columns(tensors, reader, inputs)

    def _features(self, tensor: InputTensor, reader: BatchReader) -> Batch:
        if tensor.datatype not in ("FP32", "FP64"):
            raise InvalidRequestError(f"The input '{FEATURES}' is FP32 or FP64, not {tensor.datatype[:20]}.")
        if len(tensor.shape) != 2:
            raise InvalidRequestError(f"The input '{FEATURES}' has two dimensions, not {len(tensor.shape)}.")
        return reader.features(_flat(tensor), tensor.shape)

    def _columns(self, tensors: dict[str, InputTensor], reader: BatchReader, inputs: _Inputs) -> Batch:
        """Raw columns; all that is wrong with tensors and values is said at once."""
        columns: dict[str, list[Any]] = {}
        problems: list[str] = []
        faults: list[dict[str, Any]] = []
        for name, tensor in tensors.items():
            try:
                columns[name] = self._column(tensor, inputs)
                faults += _integer_faults(tensor, columns[name])
            except InvalidRequestError as error:
                problems.append(error.message.rstrip("."))
        if not problems and not faults:
            return reader.columns(columns)
        said = {(fault["record"], fault["field"]) for fault in faults}
        try:
            if columns:
                reader.columns(columns).features(reader.pipeline)
        except InvalidRecordError as error:
            bad = set(tensors) - set(columns)
            faults += [f for f in error.faults if (f["record"], f["field"]) not in said and f["field"] not in bad]
        except InvalidRequestError as error:
            problems.append(error.message.rstrip("."))
        faults.sort(key=itemgetter("record"))
        if not problems:
            raise InvalidRecordError(sentence(faults[:MAX_FAULTS]), faults[:MAX_FAULTS])
        lines = (problems + fault_lines(faults))[:MAX_FAULTS]
        raise InvalidRequestError(f"{lines[0]}." if len(lines) == 1 else in_one_text(lines))

    def _column(self, tensor: InputTensor, inputs: _Inputs) -> list[Any]:
        name = tensor.name[:60]
        if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
            raise InvalidRequestError(f"The input '{name}' must have the shape [n] or [n, 1], not {tensor.shape[:4]}.")
        datatype = inputs.datatypes.get(tensor.name, "BYTES")
        kinds = _NUMBERS if datatype in ("FP64", "INT64") else (datatype,)
        if (tensor.name == ID or tensor.name in inputs.datatypes) and tensor.datatype not in kinds:
            wanted = " or ".join((", ".join(kinds[:-1]), kinds[-1])) if len(kinds) > 1 else kinds[0]
            raise InvalidRequestError(f"The input '{name}' must have the datatype {wanted}, not {tensor.datatype[:20]}.")
        values = _flat(tensor)
        return [_list_of(value) for value in values] if tensor.name in inputs.lists else values


def _metadata(predictor: Predictor, name: str, versions: list[str]) -> dict[str, Any]:
    dataset = predictor.pipeline.dataset
    inputs = [
        {"name": column.name, "datatype": _DATATYPES.get(column.type, "BYTES"), "shape": [-1, 1]}
        for column in dataset.columns
        if column.name != dataset.target
    ]
    return {
        "name": name,
        "versions": versions,
        "platform": predictor.info.platform,
        "inputs": inputs,
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, 1]}],
    }


def inference_body(dataset: Dataset) -> dict[str, Any]:
    """OpenAPI's description of an inference request, with examples."""
    inputs = _Inputs(dataset.columns)

    def data(name: str, values: list[Any]) -> list[Any]:
        return [msgspec.json.encode(value).decode() for value in values] if name in inputs.lists else values

    raw = [
        {"name": name, "shape": [2, 1], "datatype": inputs.datatypes[name], "data": data(name, values)}
        for name, values in column_examples(dataset, 2).items()
    ]
    width = len(dataset.feature_names)
    features = [{"name": FEATURES, "shape": [1, width], "datatype": "FP32", "data": [0.0] * width}]
    schema = {"$ref": "#/components/schemas/InferenceRequest"}
    examples = {
        "columns": {"summary": "Two records, one tensor a column", "value": {"id": "42", "inputs": raw}},
        "features": {
            "summary": "Processed features",
            "description": f"In the order {', '.join(dataset.feature_names)}.",
            "value": {"inputs": features, "outputs": [{"name": OUTPUT}]},
        },
    }
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}


def _integer_faults(tensor: InputTensor, values: list[Any]) -> list[dict[str, Any]]:
    """The first numbers in a tensor of integers that are not of its datatype. What is no number, the check of the records names."""
    if tensor.datatype not in _INTEGERS:
        return []
    low, high = _INTEGERS[tensor.datatype]
    faults: list[dict[str, Any]] = []
    for position, value in enumerate(values):
        # JSON makes no difference between 3 and 3.0.
        if type(value) in (int, float) and not (low <= value <= high and value == int(value)):
            problem = f"must be an integer of {low} to {high} ({tensor.datatype}), not {shown(value)}"
            faults.append({"record": position, "id": None, "field": tensor.name, "problem": problem})
            if len(faults) == MAX_FAULTS:
                break
    return faults


def _list_of(value: Any) -> Any:
    """A list, which is an element of a tensor as JSON; what is none is left to the check of the records."""
    try:
        return msgspec.json.decode(value) if isinstance(value, str) else value
    except msgspec.MsgspecError:
        return value


def _check_outputs(request: InferenceRequest) -> None:
    for output in request.outputs or ():
        if output.name != OUTPUT:
            raise InvalidRequestError(f"The model has the output '{OUTPUT}' and no output '{output.name[:60]}'.")
        if _wants_binary(output.parameters):
            raise _binary()


def _flat(tensor: InputTensor) -> list[Any]:
    """The elements of a tensor in row-major order, whether they came flat or nested."""
    name = tensor.name[:60]
    if any(size < 0 for size in tensor.shape):
        raise InvalidRequestError(f"The input '{name}' has a negative dimension.")
    values = tensor.data
    if not isinstance(values, list):
        raise InvalidRequestError(f"The input '{name}' needs its 'data' as a list.")
    for _ in tensor.shape[1:]:
        if values and all(type(each) is list for each in values):
            values = [element for each in values for element in each]
    if len(values) != math.prod(tensor.shape):
        raise InvalidRequestError(
            f"The input '{name}' has {len(values)} elements where its shape {tensor.shape[:4]} needs {math.prod(tensor.shape)}."
        )
    return values


def _wants_binary(parameters: dict[str, Any] | None) -> bool:
    if not parameters:
        return False
    # A size announces bytes behind the JSON; the two others are switches, and off is what is offered here.
    return "binary_data_size" in parameters or any(parameters.get(name) for name in ("binary_data", "binary_data_output"))


def _binary() -> InvalidRequestError:
    return InvalidRequestError("The binary tensor data extension is not offered here: send tensors as JSON.")
