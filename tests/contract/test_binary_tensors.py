"""The binary tensor data extension of Open Inference over REST, as Triton's ``extension_binary_data.md`` describes it."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.serving.engine import Limits
from models import ManyModels, rest_server

PLANT = Dataset.parse("""
name: binary
id: key
target: y
columns:
  - {name: temp, type: number, range: [-100, 100000]}
  - {name: trace, type: number, range: [0, 100], optional: true, fill: 50, censored: left, missing_values: [99]}
  - {name: count, type: integer, range: [-200, 100000], optional: true, fill: 1}
  - {name: open, type: boolean, optional: true, fill: false}
  - {name: kind, type: category, categories: ["A", "Grün"], optional: true}
  - {name: parts, type: list of categories, categories: [K1, K2], optional: true}
  - {name: y, type: number, range: [0, 100], optional: true}
pipeline:
  - {step: scale, column: temp}
  - {step: scale, column: trace}
  - {step: scale, column: count}
  - {step: keep, column: open}
  - {step: one_hot, column: kind}
  - {step: multi_hot, column: parts, prefix: has}
""")
Tensor = tuple[dict[str, Any], bytes]
Tensors = list[Tensor]
"""Inputs, each with the bytes that go behind the JSON."""
WIDTH = len(PLANT.feature_names)
INFER = "/v2/models/champion/infer"
SIZES = (1, 3, 400)
"""Records: one, a few, and so many that they are processed as columns."""


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    source = ManyModels(PLANT)
    source.publish("binary-lightgbm", 2.0, champion=True)
    async with rest_server(PLANT, source, Limits(body_bytes=200_000, records=5000)) as (_, client):
        yield client


def values(count: int) -> dict[str, tuple[str, list[Any]]]:
    """Columns by name with a datatype that holds their values exactly."""
    return {
        "temp": ("FP64", [0.1 * i for i in range(count)]),
        "trace": ("FP32", [float(i % 64) for i in range(count)]),
        "count": ("INT16", [i % 300 - 100 for i in range(count)]),
        "open": ("BOOL", [i % 2 == 1 for i in range(count)]),
        "kind": ("BYTES", [("A", "Grün")[i % 2] for i in range(count)]),
        "parts": ("BYTES", [('["K1"]', '["K1", "K2"]', "[]")[i % 3] for i in range(count)]),
    }


NUMPY = {"FP64": "<f8", "FP32": "<f4", "FP16": "<f2", "BOOL": "?"} | {
    f"{kind}INT{bits}": f"<{'u' if kind else 'i'}{bits // 8}" for kind in ("", "U") for bits in (8, 16, 32, 64)
}


def encoded(datatype: str, data: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(each.encode())) + each.encode() for each in data)
    return np.array(data, NUMPY[datatype]).tobytes()


def in_json(name: str, datatype: str, data: list[Any]) -> Tensor:
    return {"name": name, "shape": [len(data), 1], "datatype": datatype, "data": data}, b""


def in_bytes(
    name: str, datatype: str, data: list[Any] | bytes, shape: list[int] | None = None
) -> tuple[dict[str, Any], bytes]:
    part = data if isinstance(data, bytes) else encoded(datatype, data)
    head = {"name": name, "shape": shape or [len(data)], "datatype": datatype, "parameters": {"binary_data_size": len(part)}}
    return head, part


async def infer(
    client: httpx.AsyncClient,
    tensors: Tensors,
    *,
    length: str | None = None,
    tail: bytes = b"",
    **more: Any,
) -> httpx.Response:
    head = json.dumps({"inputs": [each for each, _ in tensors], **more}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)) if length is None else length}
    return await client.post(INFER, content=head + b"".join(part for _, part in tensors) + tail, headers=headers)


async def outputs(client: httpx.AsyncClient, tensors: Tensors, **more: Any) -> list[Any]:
    answer = await infer(client, tensors, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]["data"]  # type: ignore[no-any-return]


async def refused(client: httpx.AsyncClient, tensors: Tensors, status: int = 400, **more: Any) -> str:
    answer = await infer(client, tensors, **more)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return str(answer.json()["error"])


@pytest.mark.parametrize("count", SIZES)
async def test_binary_and_mixed_tensors_predict_as_json_does(client: httpx.AsyncClient, count: int) -> None:
    columns = values(count)
    plain = [in_json(name, *column) for name, column in columns.items()]
    expected = await outputs(client, plain)
    assert len(set(expected)) > min(count - 1, 50)
    binary = [in_bytes(name, *column) for name, column in columns.items()]
    assert await outputs(client, binary) == expected
    mixed = [(plain, binary)[place % 2][place] for place in range(len(plain))]
    assert await outputs(client, mixed) == expected
    turned = [(binary, plain)[place % 2][place] for place in range(len(plain))][::-1]
    assert await outputs(client, turned) == expected


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("datatype", [*NUMPY, "BF16"])
async def test_every_numeric_datatype_is_read_as_itself(client: httpx.AsyncClient, datatype: str, count: int) -> None:
    column = "open" if datatype == "BOOL" else "temp"
    numbers: list[Any] = [bool(i % 2) if datatype == "BOOL" else i % 100 for i in range(count)]
    if datatype in ("FP32", "FP64", "FP16", "BF16"):
        numbers = [number - 0.5 for number in numbers]
    upper_half = (np.array(numbers, "<f4").view("<u4") >> 16).astype("<u2")
    part = upper_half.tobytes() if datatype == "BF16" else encoded(datatype, numbers)
    rest = [] if column == "temp" else [in_json("temp", "FP64", [1.0] * count)]
    json_type = "BOOL" if datatype == "BOOL" else "FP64"
    expected = await outputs(client, [in_json(column, json_type, numbers), *rest])
    # An odd number of bytes before it: nothing may need alignment.
    shifted = [in_bytes("kind", "BYTES", ["A"] * count), *rest, in_bytes(column, datatype, part, [count, 1])]
    with_kind = await outputs(client, [in_json("kind", "BYTES", ["A"] * count), in_json(column, json_type, numbers), *rest])
    assert await outputs(client, shifted) == with_kind
    assert await outputs(client, [in_bytes(column, datatype, part, [count]), *rest]) == expected


@pytest.mark.parametrize("count", SIZES)
async def test_nan_is_a_missing_value_and_so_are_the_declared_ones(client: httpx.AsyncClient, count: int) -> None:
    temp = in_json("temp", "FP64", [1.0] * count)
    for name, datatype, stand_in in (
        ("trace", "FP32", float("nan")),
        ("trace", "FP64", 99.0),
        ("count", "FP64", float("nan")),
    ):
        some = [None if i % 2 == 0 else 3.0 for i in range(count)]
        expected = await outputs(client, [temp, in_json(name, "FP64", some)])
        sent = [stand_in if each is None else each for each in some]
        assert await outputs(client, [temp, in_bytes(name, datatype, sent)]) == expected
    error = await refused(client, [in_bytes("temp", "FP64", [float("nan")] * count)])
    assert "is missing" in error


@pytest.mark.parametrize("count", SIZES)
async def test_faults_are_those_of_json(client: httpx.AsyncClient, count: int) -> None:
    temp = ("temp", "FP64", [1.0] * (count - 1))
    for name, datatype, value in (
        ("temp", "FP64", 1e9), ("trace", "FP64", -1.0), ("count", "FP32", 1.5), ("kind", "BYTES", "C"), ("trace", "BYTES", "x"),
        ("parts", "BYTES", '["K9"]'), ("parts", "BYTES", "K1"), ("_id", "BYTES", ""), ("colour", "BYTES", "red"),
    ):  # fmt: skip
        usual = {"FP64": 1.0, "FP32": 1.0}.get(datatype, "[]" if name == "parts" else "A" if name == "kind" else "k")
        if name == "trace" and datatype == "BYTES":
            usual = "<1"
        bad = (name, datatype, [usual] * (count - 1) + [value])
        rest = [] if name == "temp" else [(temp[0], temp[1], [1.0] * count)]
        told = await refused(client, [in_json(*each) for each in [*rest, bad]])
        assert await refused(client, [in_bytes(*each) for each in [*rest, bad]]) == told
        assert (await refused(client, [in_json(*rest[0]), in_bytes(*bad)] if rest else [in_bytes(*bad)])) == told
    assert "must be a finite number" in await refused(client, [in_bytes("temp", "FP32", [float("inf")] * count)])


async def test_processed_features_are_read_from_bytes(client: httpx.AsyncClient) -> None:
    rows = [[0.25 * i for i in range(WIDTH)], [0.5] * WIDTH]
    expected = [2.0 + sum(row) for row in rows]
    flat = [each for row in rows for each in row]
    for datatype in ("FP32", "FP64"):
        head, part = in_bytes("features", datatype, flat, [2, WIDTH])
        head["name"] = "features"
        assert await outputs(client, [(head, part)]) == pytest.approx(expected)
        # One byte before: the floats are not aligned in the body.
        answer = await infer(client, [(head, part)], id="x" * 7)
        assert answer.json()["outputs"][0]["data"] == pytest.approx(expected)
        broken = [*flat[:-1], float("nan")]
        error = await refused(client, [in_bytes("features", datatype, broken, [2, WIDTH])])
        assert (
            error == f"Record 1, field '{PLANT.feature_names[-1]}': must be a finite number within 3.4e+38 in size, not nan."
        )


def parsed(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.content[:length]), answer.content[length:]


async def test_outputs_are_binary_where_they_are_wanted_so(client: httpx.AsyncClient) -> None:
    tensors = [in_bytes(name, *column) for name, column in values(3).items()]
    expected = await outputs(client, tensors)
    all_binary: dict[str, Any] = {"parameters": {"binary_data_output": True}}
    head, rest = parsed(await infer(client, tensors, id="42", **all_binary))
    assert (head["id"], head["model_name"]) == ("42", "champion")
    assert head["outputs"] == [
        {"name": "prediction", "shape": [3, 1], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    ]
    assert np.frombuffer(rest, "<f4").tolist() == np.array(expected, "f4").tolist()
    for one, whole, is_binary in (
        (True, False, True),
        (False, True, False),
        (True, None, True),
        (None, True, True),
        (None, None, False),
    ):
        output = {"name": "prediction"} | ({} if one is None else {"parameters": {"binary_data": one}})
        parameters = {} if whole is None else {"binary_data_output": whole}
        answer = await infer(client, tensors, outputs=[output], parameters=parameters)
        assert ("inference-header-content-length" in answer.headers) == is_binary
        assert ("data" in (parsed(answer)[0] if is_binary else answer.json())["outputs"][0]) != is_binary
    # Only binary outputs may come from JSON alone, too.
    body = json.dumps({"inputs": [in_json(name, *column)[0] for name, column in values(3).items()], **all_binary})
    head, again = parsed(await client.post(INFER, content=body))
    assert again == rest


async def test_intervals_are_binary_beside_a_prediction_in_json(client: httpx.AsyncClient) -> None:
    tensors = [in_bytes("temp", "FP64", [1.0, 2.0])]
    wanted = [
        {"name": "upper", "parameters": {"binary_data": True}},
        {"name": "prediction"},
        {"name": "lower", "parameters": {"binary_data": True}},
    ]
    head, rest = parsed(await infer(client, tensors, parameters={"interval": 0.9}, outputs=wanted))
    names = [
        (each["name"], "data" in each, (each.get("parameters") or {}).get("binary_data_size")) for each in head["outputs"]
    ]
    assert names == [("upper", False, 8), ("prediction", True, None), ("lower", False, 8)]
    upper, lower = np.frombuffer(rest, "<f4").reshape(2, 2).tolist()
    middle = head["outputs"][1]["data"]
    assert upper == pytest.approx([each + 90 for each in middle], rel=1e-5)
    assert lower == pytest.approx([each - 90 for each in middle], rel=1e-5)


TEXT = struct.pack("<I", 1) + b"A"
MALFORMED: dict[str, tuple[Tensors, str]] = {
    "too few bytes": ([in_bytes("temp", "FP64", b"\0" * 15, [2])], "has 15 bytes where 2 elements of FP64 need 16"),
    "too many bytes": ([in_bytes("temp", "INT8", b"\0" * 3, [2])], "has 3 bytes where 2 elements of INT8 need 2"),
    "huge dimension": ([in_bytes("temp", "FP64", b"\0" * 8, [2**70])], "has 8 bytes where"),
    "huge dimension of texts": ([in_bytes("kind", "BYTES", TEXT, [2**70])], "the lengths alone"),
    "negative dimension": ([in_bytes("temp", "FP64", b"\0" * 8, [-1])], "negative dimension"),
    "unknown datatype": ([in_bytes("colour", "FP128", b"\0" * 16, [1])], "unknown datatype 'FP128'"),
    "three dimensions": ([in_bytes("temp", "FP64", b"\0" * 8, [1, 1, 1])], "must have the shape [n] or [n, 1]"),
    "texts end early": ([in_bytes("kind", "BYTES", TEXT + TEXT[:2], [2])], "bytes"),
    "a length beyond the end": ([in_bytes("kind", "BYTES", struct.pack("<I", 2) + b"A", [1])], "need more"),
    "the largest length": ([in_bytes("kind", "BYTES", b"\xff" * 4 + b"A", [1])], "need more"),
    "a text too many": ([in_bytes("kind", "BYTES", TEXT * 2, [1])], "need 5"),
    "a text too few": ([in_bytes("kind", "BYTES", TEXT, [2])], "the lengths alone of 2 elements need 8"),
    "not UTF-8": ([in_bytes("kind", "BYTES", TEXT + struct.pack("<I", 1) + b"\xff", [2])], "number 1, that is not UTF-8"),
    "a boolean of 2": ([in_bytes("open", "BOOL", b"\0\2", [2])], "neither 0 nor 1"),
    "numbers as a category": ([in_bytes("kind", "FP32", b"\0" * 4, [1])], "must have the datatype BYTES, not FP32"),
    "no records": ([in_bytes("temp", "FP64", b"", [0])], "no record"),
    "features of another width": ([in_bytes("features", "FP32", b"\0" * 8, [1, 2])], "have the shape"),
    "twice the same": ([in_bytes("temp", "FP64", [1.0]), in_bytes("temp", "FP64", [1.0])], "more than once"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_bytes_are_named(client: httpx.AsyncClient, name: str) -> None:
    tensors, words = MALFORMED[name]
    error = await refused(client, tensors)
    assert words in error
    assert 10 < len(error) < 1000


@pytest.mark.parametrize("size", [-1, 9, 2**70, 1.0, True, "8", None, [8]])
async def test_a_size_that_is_none_is_named(client: httpx.AsyncClient, size: Any) -> None:
    head, part = in_bytes("temp", "FP64", [1.0])
    head["parameters"]["binary_data_size"] = size
    error = await refused(client, [(head, part)])
    assert (
        "has 9 bytes, and the body ends after 8" if size == 9 else "binary_data_size" if size != 2**70 else "bytes"
    ) in error


@pytest.mark.parametrize("length", ["-1", "x", "", "1.0", "99999", "1" * 5000, "+5", "0x10"])
async def test_a_header_that_is_no_length_within_the_body_is_named(client: httpx.AsyncClient, length: str) -> None:
    error = await refused(client, [in_bytes("temp", "FP64", [1.0])], length=length)
    assert "Inference-Header-Content-Length" in error
    assert len(error) < 300


async def test_the_json_must_end_where_the_header_says(client: httpx.AsyncClient) -> None:
    tensors = [in_bytes("temp", "FP64", [1.0])]
    head = len(json.dumps({"inputs": [tensors[0][0]]}))
    assert "JSON" in await refused(client, tensors, length=str(head - 1))
    assert "JSON" in await refused(client, tensors, length="0")
    for tail in (b"\0", b"\0" * 8):
        assert f"{len(tail)} bytes belong to none" in await refused(client, tensors, tail=tail)
    truncated = [(tensors[0][0], tensors[0][1][:-1])]
    assert "ends after 7 of them" in await refused(client, truncated)
    # A size without the header: nothing says where the JSON ends.
    answer = await client.post(INFER, json={"inputs": [tensors[0][0]]})
    assert answer.status_code == 400
    assert "lacks the header" in answer.json()["error"]
    both = {**tensors[0][0], "data": [1.0]}
    assert "both 'data' and" in await refused(client, [(both, tensors[0][1])])


async def test_the_limits_are_those_of_json(client: httpx.AsyncClient) -> None:
    assert "5001 records" in await refused(client, [in_bytes("temp", "FP32", [1.0] * 5001)], 413)
    assert "5001 records" in await refused(
        client, [in_bytes("temp", "FP32", [1.0] * 5001), in_bytes("kind", "BYTES", ["A"] * 5001)], 413
    )
    assert "bytes" in await refused(client, [in_bytes("temp", "FP64", [1.0] * 30_000)], 413)
    form = {"Inference-Header-Content-Length": "5", "Content-Type": "text/plain"}
    assert (await client.post(INFER, content=b"{}abc", headers=form)).status_code == 415
    assert len(await outputs(client, [in_bytes("temp", "FP32", [1.0] * 5000)])) == 5000
