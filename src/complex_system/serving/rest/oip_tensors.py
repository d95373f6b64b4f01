"""Read requests of the Open Inference Protocol: named tensors, and the records or features in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import msgspec

from complex_system.domain.dataset import ID, Column
from complex_system.domain.records import MAX_FAULTS, faults_message, shown
from complex_system.domain.types import column_type
from complex_system.errors import InvalidRecordError, InvalidRequestError, RecordFault
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.column_names import FEATURES
from complex_system.serving.requests.json import explain_type, json_of, unmarked
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.rest.endpoint import fault_lines, joined_lines

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
    data: Annotated[Any, msgspec.Meta(extra_json_schema={"type": "array"})] = None
    parameters: dict[str, Any] | None = None


class RequestedOutput(msgspec.Struct, gc=False):
    """``$request_output``."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(msgspec.Struct, gc=False):
    """``$inference_request``."""

    inputs: Annotated[list[InputTensor], msgspec.Meta(extra_json_schema={"minItems": 1})]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestedOutput] | None = None


class Inputs:
    """The tensors that a model takes."""

    def __init__(self, columns: Sequence[Column]) -> None:
        """Name a tensor for each column, with its datatype; those of lists hold texts of JSON."""
        self.datatypes = {column.name: datatype_of(column) for column in columns}
        self.lists = {column.name for column in columns if column_type(column).is_list}
        self.censored = {column.name for column in columns if column.censored}


_decoder = msgspec.json.Decoder(InferenceRequest)
_inputs: WeakKeyDictionary[BatchReader, Inputs] = WeakKeyDictionary()


def decode_inference(body: bytes) -> InferenceRequest:
    """Return the request that a body holds.

    Raises:
        InvalidRequestError: It is not JSON, or not an inference request.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if content := unmarked(body):
            return decode_inference(content)
        if isinstance(error, msgspec.ValidationError):
            raise InvalidRequestError(f"The body is not an inference request: {explain_type(body, error)}.") from None
        json_of(body)  # raises, with an explanation
        raise


def inference_batch(request: InferenceRequest, reader: BatchReader) -> Batch:
    """Return what a request asks predictions for.

    Raises:
        InvalidRequestError: The inputs are not the model's, or ask for what is not supported.
        InvalidRecordError: A value in them is not of its column's type.
        TooLargeError: There are too many records.
    """
    if not request.inputs:
        raise InvalidRequestError("The request has no inputs.")
    if wants_binary(request.parameters):
        raise no_binary()
    tensors: dict[str, InputTensor] = {}
    for tensor in request.inputs:
        if wants_binary(tensor.parameters):
            raise no_binary()
        if tensor.name in tensors:
            raise InvalidRequestError(f"The input '{tensor.name[:60]}' is there more than once.")
        tensors[tensor.name] = tensor
    inputs = _inputs.get(reader)
    if inputs is None:
        inputs = _inputs[reader] = Inputs(reader.declared)
    if list(tensors) == [FEATURES] and FEATURES not in inputs.datatypes:
        return _features(tensors[FEATURES], reader)
    return _columns(tensors, reader, inputs)


def _features(tensor: InputTensor, reader: BatchReader) -> Batch:
    if tensor.datatype not in ("FP32", "FP64"):
        raise InvalidRequestError(f"The input '{FEATURES}' is FP32 or FP64, not {tensor.datatype[:20]}.")
    if len(tensor.shape) != 2:
        raise InvalidRequestError(f"The input '{FEATURES}' has two dimensions, not {len(tensor.shape)}.")
    return reader.features(_flat(tensor), tensor.shape)


def _columns(tensors: dict[str, InputTensor], reader: BatchReader, inputs: Inputs) -> Batch:
    """Read raw columns; names all that is wrong with tensors and values in one error."""
    columns: dict[str, list[Any]] = {}
    problems: list[str] = []
    faults: list[RecordFault] = []
    for name, tensor in tensors.items():
        try:
            columns[name] = _column(tensor, inputs)
            faults += _integer_faults(tensor, columns[name])
        except InvalidRequestError as error:
            problems.append(error.message.rstrip("."))
    if not problems and not faults:
        return reader.columns(columns)
    named = {(fault["record"], fault["field"]) for fault in faults}
    try:
        if columns:
            reader.columns(columns).features(reader.pipeline)
    except InvalidRecordError as error:
        bad = set(tensors) - set(columns)
        faults += [f for f in error.faults if (f["record"], f["field"]) not in named and f["field"] not in bad]
    except InvalidRequestError as error:
        problems.append(error.message.rstrip("."))
    faults.sort(key=itemgetter("record"))
    if not problems:
        raise InvalidRecordError(faults_message(faults[:MAX_FAULTS]), faults[:MAX_FAULTS])
    lines = (problems + fault_lines(faults))[:MAX_FAULTS]
    raise InvalidRequestError(f"{lines[0]}." if len(lines) == 1 else joined_lines(lines))


def _column(tensor: InputTensor, inputs: Inputs) -> list[Any]:
    name = tensor.name[:60]
    if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
        raise InvalidRequestError(f"The input '{name}' must have the shape [n] or [n, 1], not {tensor.shape[:4]}.")
    datatype = inputs.datatypes.get(tensor.name, "BYTES")
    allowed = _NUMBERS if datatype in ("FP64", "INT64") else (datatype,)
    if tensor.name in inputs.censored:
        allowed = (*allowed, "BYTES")  # numbers, and texts such as <0.01
    if (tensor.name == ID or tensor.name in inputs.datatypes) and tensor.datatype not in allowed:
        wanted = " or ".join((", ".join(allowed[:-1]), allowed[-1])) if len(allowed) > 1 else allowed[0]
        raise InvalidRequestError(f"The input '{name}' must have the datatype {wanted}, not {tensor.datatype[:20]}.")
    values = _flat(tensor)
    return [_list_of(value) for value in values] if tensor.name in inputs.lists else values


def datatype_of(column: Column) -> str:
    """Return the datatype of a raw column's tensor."""
    return _DATATYPES.get(column.type, "BYTES")


def wants_binary(parameters: dict[str, Any] | None) -> bool:
    """Return whether parameters ask for the binary extension."""
    if not parameters:
        return False
    # A size announces bytes behind the JSON; the two others are switches, and may be off.
    return "binary_data_size" in parameters or any(parameters.get(name) for name in ("binary_data", "binary_data_output"))


def no_binary() -> InvalidRequestError:
    """Return the error that refuses the binary extension."""
    return InvalidRequestError(
        "The binary tensor data extension is not offered here: send tensors as JSON, which tritonclient and KServe's client do with "
        "binary_data=False for every input and requested output."
    )


def _integer_faults(tensor: InputTensor, values: list[Any]) -> list[RecordFault]:
    """Return faults of the first numbers in a tensor of integers that are not of its datatype; other values are checked later."""
    if tensor.datatype not in _INTEGERS:
        return []
    low, high = _INTEGERS[tensor.datatype]
    faults: list[RecordFault] = []
    for position, value in enumerate(values):
        # JSON does not distinguish 3 and 3.0.
        if type(value) in (int, float) and not (low <= value <= high and value == int(value)):
            problem = f"must be an integer of {low} to {high} ({tensor.datatype}), not {shown(value)}"
            faults.append({"record": position, "id": None, "field": tensor.name, "problem": problem})
            if len(faults) == MAX_FAULTS:
                break
    return faults


def _list_of(value: Any) -> Any:
    """Return a list from an element that is JSON; anything else is left to the check of the records."""
    try:
        return msgspec.json.decode(value) if isinstance(value, str) else value
    except msgspec.MsgspecError:
        return value


def _flat(tensor: InputTensor) -> list[Any]:
    """Return the elements of a tensor in row-major order, flat or nested as they came."""
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
