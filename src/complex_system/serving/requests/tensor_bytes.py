"""Tensors as bytes: the binary data behind the JSON of an Open Inference request or response, and raw contents over gRPC.

Elements follow each other in row-major order, little-endian, without padding; a BYTES element has its length in four bytes before
it (triton-inference-server/server, ``extension_binary_data.md``; Open Inference's gRPC document has the same for raw contents).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from struct import Struct, error
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from complex_system.errors import InvalidRequestError

HEADER = "inference-header-content-length"
"""Header with the bytes of the JSON; the binary data are behind it."""
BINARY_SIZE = "binary_data_size"
"""Parameter of a tensor: so many of the bytes are its own."""

ITEM_TYPES = {
    "BOOL": "u1",
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    "FP16": "<f2",
    "BF16": "<u2",  # numpy has none: the upper half of a float32
    "FP32": "<f4",
    "FP64": "<f8",
}
"""numpy's type of an element, by the protocol's datatype; BYTES has no fixed size."""
_ITEM_BYTES = {datatype: np.dtype(item).itemsize for datatype, item in ITEM_TYPES.items()}
_PREFIX = Struct("<I")
_LENGTH = re.compile(r"[0-9]{1,18}")


def split_body(body: bytes, length: str) -> tuple[bytes, memoryview]:
    """Return the JSON and the bytes behind it.

    Args:
        body: Of the request.
        length: What the header says.

    Raises:
        InvalidRequestError: It is not a length within the body.
    """
    if not _LENGTH.fullmatch(length) or int(length) > len(body):
        raise InvalidRequestError(
            f"The header Inference-Header-Content-Length is the number of bytes of the JSON, at most the body's {len(body)}, "
            f"not '{length[:40]}'."
        )
    return body[: int(length)], memoryview(body)[int(length) :]


def part_size(name: str, size: Any, rest: int) -> int:
    """Return the bytes of a tensor, from its parameter.

    Args:
        name: Of the tensor.
        size: The parameter's value.
        rest: Bytes that are left.

    Raises:
        InvalidRequestError: It is not a size, or there are fewer bytes.
    """
    if type(size) is not int or size < 0:
        raise InvalidRequestError(f"The input '{name}' needs a number of bytes as '{BINARY_SIZE}'.")
    if size > rest:
        raise InvalidRequestError(f"The input '{name}' has {size} bytes, and the body ends after {rest} of them.")
    return size


def require_bytes(name: str, datatype: str, data: memoryview, count: int) -> None:
    """Return if so many elements can be in the bytes.

    Raises:
        InvalidRequestError: There are more or fewer bytes, or the datatype is unknown.
    """
    if datatype == "BYTES":
        if 4 * count > len(data):
            raise InvalidRequestError(
                f"The input '{name}' has {len(data)} bytes, and the lengths alone of {count} elements need {4 * count}."
            )
        return
    item = _ITEM_BYTES.get(datatype)
    if item is None:
        raise InvalidRequestError(f"The input '{name}' has the unknown datatype '{datatype[:20]}'.")
    if (needed := count * item) != len(data):
        raise InvalidRequestError(
            f"The input '{name}' has {len(data)} bytes where {count} elements of {datatype} need {needed}."
        )


def numbers_in(name: str, datatype: str, data: memoryview) -> NDArray[Any]:
    """Return the elements of a tensor of numbers or booleans that passed :func:`require_bytes`.

    The array is a view of the bytes, read-only and perhaps unaligned; only BF16 is copied.

    Raises:
        InvalidRequestError: A boolean is neither 0 nor 1.
    """
    array: NDArray[Any] = np.frombuffer(data, ITEM_TYPES[datatype])
    if datatype == "BOOL":
        if array.size and array.max() > 1:
            raise InvalidRequestError(f"The input '{name}' has a boolean that is neither 0 nor 1.")
        return array.view(np.bool_)
    if datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4")
    return array


def texts_in(name: str, data: memoryview, count: int) -> list[str]:
    """Return the elements of a BYTES tensor that passed :func:`require_bytes`.

    Raises:
        InvalidRequestError: A length does not fit the bytes, or an element is not UTF-8.
    """
    content = bytes(data)
    read = _PREFIX.unpack_from
    at, found = 0, []
    try:
        for _ in range(count):
            start = at + 4
            at = start + read(content, at)[0]
            found.append(content[start:at].decode())
    except error:
        at = len(content) + 1  # no room for a length
    except UnicodeDecodeError:
        raise InvalidRequestError(f"The input '{name}' has an element, number {len(found)}, that is not UTF-8.") from None
    if at != len(content):
        raise InvalidRequestError(
            f"The input '{name}' has {len(content)} bytes, and its {count} elements, each with its length before it, "
            f"need {'more' if at > len(content) else at}."
        )
    return found


def many_texts_in(name: str, data: memoryview, count: int) -> pl.Series:
    """Return the same as a series, several times faster for thousands of elements; errors as for :func:`texts_in`.

    Texts mostly have no NUL and less than 256 bytes, so that runs of NULs show where the lengths are, all at the same time. That each
    element ends where the next one begins proves it; otherwise the elements are read one after the other.
    """
    raw = np.frombuffer(data, np.uint8)
    starts = _probable_starts(raw)
    if len(starts) == count > 0:
        ends = starts + 4 + raw[starts]
        if starts[0] == 0 and ends[-1] == len(raw) and (ends[:-1] == starts[1:]).all():
            is_text = np.ones(len(raw), np.bool_)
            for place in range(4):
                is_text[starts + place] = False
            offsets = np.zeros(count + 1, np.int64)
            offsets[1:] = ends - 4 * np.arange(1, count + 1)
            texts = pa.Array.from_buffers(
                pa.large_string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(raw[is_text])]
            )
            try:
                texts.validate(full=True)
                return pl.Series(texts)
            except pa.ArrowInvalid:  # not UTF-8
                pass
    return pl.Series(texts_in(name, data, count), dtype=pl.String)


def _probable_starts(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return where lengths begin: three NULs follow that of a text, and four more are the length of each empty one behind it."""
    edges = np.flatnonzero(np.diff(raw == 0, prepend=False, append=False))
    begins, sizes = edges[::2], edges[1::2] - edges[::2]
    lengths = (sizes + 1) // 4
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found: NDArray[np.int64] = np.repeat(begins - (sizes % 4 == 3), lengths) + 4 * within
    return found


def tensor_bytes(datatype: str, values: Sequence[Any]) -> bytes:
    """Return the elements of an output as bytes."""
    if datatype == "BYTES":
        encoded = [str(value).encode() for value in values]
        return b"".join(part for each in encoded for part in (_PREFIX.pack(len(each)), each))
    return np.array(values, ITEM_TYPES[datatype]).tobytes()
