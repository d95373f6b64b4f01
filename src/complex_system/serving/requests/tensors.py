"""Read requests of the Open Inference Protocol: named tensors, and the records or features in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from complex_system.domain.dataset import ID, Column
from complex_system.domain.records import MAX_FAULTS, faults_message, shown
from complex_system.domain.types import column_type
from complex_system.errors import InvalidRecordError, InvalidRequestError, RecordFault, fault_lines, joined_lines
from complex_system.pipeline.pipeline import FEW_RECORDS
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.column_names import FEATURES
from complex_system.serving.requests.json import explain_type, json_of, unmarked
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.tensor_bytes import (
    BINARY_SIZE,
    many_texts_in,
    numbers_in,
    part_size,
    require_bytes,
    split_body,
    texts_in,
)

_FLOATS = ("FP64", "FP32", "FP16", "BF16")
_INTEGERS = {f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)}
_INTEGERS |= {f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)}
_NUMBERS = (*_FLOATS, *_INTEGERS)
_DATATYPES = {"number": "FP64", "integer": "INT64", "boolean": "BOOL"}
"""Of raw columns; the others are BYTES: texts, and lists as JSON."""


class InputTensor(msgspec.Struct, gc=False):
    """``$request_input``.

    ``data`` is a list as JSON has it; where a transport sends more than JSON, an array of numbers, or bytes as a memoryview.
    """

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


def decode_inference(body: bytes, length: str | None = None) -> InferenceRequest:
    """Return the request that a body holds.

    Args:
        body: JSON, and perhaps binary data behind it.
        length: Bytes of the JSON as a header has them; None where the body is nothing else.

    Raises:
        InvalidRequestError: It is not JSON, or not an inference request, or the binary data are not those of its tensors.
    """
    content, rest = (body, None) if length is None else split_body(body, length)
    request = _decoded(content)
    _assign_bytes(request, rest)
    return request


def _decoded(body: bytes) -> InferenceRequest:
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if content := unmarked(body):
            return _decoded(content)
        if isinstance(error, msgspec.ValidationError):
            raise InvalidRequestError(f"The body is not an inference request: {explain_type(body, error)}.") from None
        json_of(body)  # raises, with an explanation
        raise


def _assign_bytes(request: InferenceRequest, rest: memoryview | None) -> None:
    """Give each tensor with a size its bytes, in the order of the inputs."""
    at = 0
    for tensor in request.inputs:
        if not tensor.parameters or BINARY_SIZE not in tensor.parameters:
            continue
        name = tensor.name[:60]
        if rest is None:
            raise InvalidRequestError(
                f"The input '{name}' has a '{BINARY_SIZE}', and the request lacks the header Inference-Header-Content-Length."
            )
        if tensor.data is not None:
            raise InvalidRequestError(f"The input '{name}' has both 'data' and a '{BINARY_SIZE}'; send one of them.")
        size = part_size(name, tensor.parameters[BINARY_SIZE], len(rest) - at)
        tensor.data = rest[at : at + size]
        at += size
    if rest is not None and at < len(rest):
        raise InvalidRequestError(f"Behind the bytes of the inputs, {len(rest) - at} bytes belong to none of them.")


def inference_batch(request: InferenceRequest, reader: BatchReader) -> Batch:
    """Return what a request asks predictions for.

    Raises:
        InvalidRequestError: The inputs are not the model's, or ask for what is not supported.
        InvalidRecordError: A value in them is not of its column's type.
        TooLargeError: There are too many records.
    """
    if not request.inputs:
        raise InvalidRequestError("The request has no inputs.")
    tensors: dict[str, InputTensor] = {}
    for tensor in request.inputs:
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
    values = _elements(tensor, reader)
    assert not isinstance(values, pl.Series)  # these are texts
    return reader.features(values, tensor.shape)


def _columns(tensors: dict[str, InputTensor], reader: BatchReader, inputs: Inputs) -> Batch:
    """Read raw columns; names all that is wrong with tensors and values in one error."""
    columns: dict[str, list[Any] | pl.Series] = {}
    problems: list[str] = []
    faults: list[RecordFault] = []
    for name, tensor in tensors.items():
        try:
            columns[name] = values = _column(tensor, inputs, reader)
            if isinstance(tensor.data, list) and isinstance(values, list):  # binary ones are of their datatype
                faults += _integer_faults(tensor, values)
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


def _column(tensor: InputTensor, inputs: Inputs, reader: BatchReader) -> list[Any] | pl.Series:
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
    values = _elements(tensor, reader)
    if isinstance(values, np.ndarray):
        return _typed(values)
    return list(map(_list_of, values)) if tensor.name in inputs.lists else values


def datatype_of(column: Column) -> str:
    """Return the datatype of a raw column's tensor."""
    return _DATATYPES.get(column.type, "BYTES")


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


def _elements(tensor: InputTensor, reader: BatchReader) -> list[Any] | NDArray[Any] | pl.Series:
    """Return the elements of a tensor in row-major order; lists come flat or nested."""
    name: str = tensor.name[:60]
    values: list[Any] | NDArray[Any] | memoryview | None = tensor.data
    if min(tensor.shape, default=0) < 0:
        raise InvalidRequestError(f"The input '{name}' has a negative dimension.")
    count = math.prod(tensor.shape)
    if isinstance(values, memoryview):
        require_bytes(name, tensor.datatype, values, count)
        if (
            tensor.shape and tensor.shape[0] > reader.max_records
        ):  # as Python's objects they take far more memory than as bytes
            raise reader.bad_size(tensor.shape[0])
        if tensor.datatype != "BYTES":
            return numbers_in(name, tensor.datatype, values)
        return (many_texts_in if count > FEW_RECORDS else texts_in)(name, values, count)
    if isinstance(values, list):
        for _ in tensor.shape[1:]:
            if values and all(type(each) is list for each in values):
                values = [element for each in values for element in each]
    elif not isinstance(values, np.ndarray):
        raise InvalidRequestError(f"The input '{name}' needs its 'data' as a list.")
    if len(values) != count:
        raise InvalidRequestError(
            f"The input '{name}' has {len(values)} elements where its shape {tensor.shape[:4]} needs {count}."
        )
    return values


def _typed(values: NDArray[Any]) -> list[Any] | pl.Series:
    """Return a column of numbers, with nothing in the place of NaN: JSON has null for it."""
    is_float = values.dtype.kind == "f"
    if len(values) > FEW_RECORDS:
        return pl.Series(values) if values.dtype == np.bool_ else pl.Series(values.astype(np.float64)).fill_nan(None)
    found: list[Any] = values.tolist()
    return [None if value != value else value for value in found] if is_float else found  # noqa: PLR0124 - NaN
