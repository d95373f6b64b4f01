"""Bytes of tensors: texts read at the same time are those read one after the other, and typed columns are the records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from complex_system.errors import InvalidRequestError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.tensor_bytes import many_texts_in, numbers_in, tensor_bytes, texts_in
from complex_system.serving.requests.tensors import InferenceRequest, InputTensor, inference_batch
from everything import EVERYTHING, records

READER = BatchReader(Pipeline(EVERYTHING), max_records=10_000)
TEXTS = st.sampled_from(["", "A", "b c", "ß" * 200, "x" * 300, "\0", "a\0\0\0b", "\1"]) | st.text(max_size=5)


def found(read: Callable[..., Any], data: bytes, count: int) -> list[str] | str:
    """What is read, or the message of the refusal."""
    try:
        return list(read("x", memoryview(data), count))
    except InvalidRequestError as error:
        return error.message


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=30), st.data())
def test_texts_are_the_same_read_at_the_same_time_and_one_after_the_other(texts: list[str], data: st.DataObject) -> None:
    good = tensor_bytes("BYTES", texts)
    assert found(texts_in, good, len(texts)) == found(many_texts_in, good, len(texts)) == texts
    damaged = bytearray(good)
    damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    for bad, count in (
        (bytes(damaged), len(texts)),
        (good[:-1], len(texts)),
        (good, len(texts) - 1),
        (good + b"\0", len(texts)),
    ):
        if 4 * count <= len(bad):  # what is refused before
            assert found(texts_in, bad, count) == found(many_texts_in, bad, count)


def test_numbers_are_a_view_of_the_bytes() -> None:
    data = np.array([1.5, math.nan], "<f4").tobytes()
    array = numbers_in("x", "FP32", memoryview(data))
    assert not array.flags.owndata
    assert array.tobytes() == data


def tensors(batch: list[dict[str, Any]], times: int) -> InferenceRequest:
    """Records, so many times, as binary tensors; a column of which bytes cannot say that a value is missing stays a list."""
    made = []
    for name in batch[0]:
        column = EVERYTHING.column(name)
        values = [record[name] for record in batch] * times
        is_list = column.type.startswith("list")
        if column.type in ("number", "integer"):
            datatype, data = "FP64", [math.nan if value is None else float(value) for value in values]
        elif column.type == "boolean":
            datatype, data = "BOOL", values
        else:
            datatype, data = "BYTES", ["" if value is None else json.dumps(value) if is_list else value for value in values]
        if (is_list or column.type == "boolean") and None in values:
            plain = [None if value is None else json.dumps(value) for value in values] if is_list else values
            made.append(InputTensor(name, [len(values)], datatype, plain))
        else:
            made.append(InputTensor(name, [len(values)], datatype, memoryview(tensor_bytes(datatype, data))))
    return InferenceRequest(made)


@pytest.mark.parametrize("times", [1, 301])
@settings(derandomize=True, max_examples=15, deadline=None)
@given(batch=st.lists(records(), min_size=1, max_size=4))
def test_columns_in_bytes_are_the_records(batch: list[dict[str, Any]], times: int) -> None:
    batch = [{name: value for name, value in record.items() if name not in ("_id", "quality")} for record in batch]
    expected = READER.records(batch).features(READER.pipeline).tobytes() * times
    assert inference_batch(tensors(batch, times), READER).features(READER.pipeline).tobytes() == expected
