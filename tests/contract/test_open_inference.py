"""The Open Inference Protocol V2 over REST, clause by clause as kserve/open-inference-protocol writes it, and with its own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pydantic.json
import pydantic.v1
import pytest

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.pipeline.pipeline import Pipeline
from models import ManyModels, rest_server

DATASET = Dataset.load()
RECORDS = [Laboratory(seed=3).complete_record() for _ in range(3)]
WIDTH = len(DATASET.feature_names)
NAME = "lab-lightgbm"
NUMBERS = [f"rohwert_{i}_labormessung" for i in (1, 2, 3)]


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    source = ManyModels(DATASET)
    source.publish(NAME, 1.0)
    source.publish(NAME, 2.0, champion=True)
    source.publish("lab-pytorch", 10.0)
    async with rest_server(DATASET, source) as (_, client):
        yield client


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}


def columns(records: list[dict[str, Any]] = RECORDS) -> list[dict[str, Any]]:
    texts = [tensor(name, "BYTES", [record[name] for record in records]) for name in ("material_id", "laborant")]
    return texts + [tensor(name, "FP64", [record[name] for record in records]) for name in NUMBERS]


def expected(bias: float, records: list[dict[str, Any]] = RECORDS) -> list[float]:
    return [bias + float(row.sum()) for row in Pipeline(DATASET).features(records)]


async def infer(client: httpx.AsyncClient, body: Any, path: str = f"/v2/models/{NAME}") -> httpx.Response:
    return await client.post(f"{path}/infer", content=json.dumps(body))


def assert_error(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)
    return str(answer.json()["error"])


async def test_server_metadata_names_name_version_and_extensions(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v2")
    assert answer.status_code == 200
    assert answer.json() == {"name": "complex-system", "version": __version__, "extensions": ["binary_tensor_data"]}


async def test_live_and_ready_are_objects_with_booleans(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    ready = await client.get("/v2/health/ready")
    assert (ready.status_code, ready.json()["ready"], ready.json()["live"]) == (200, True, True)


async def test_before_the_first_model_the_server_is_live_and_not_ready() -> None:
    async with rest_server(DATASET, ManyModels(DATASET)) as (_, client):
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        ready = await client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"live": True, "ready": False})
        assert_error(await infer(client, {"inputs": columns()}), 404)
        assert "no model yet" in assert_error(await infer(client, {"inputs": columns()}, "/v2/models/champion"), 503)
        unready = await client.get("/v2/models/champion/ready")
        assert (unready.status_code, unready.json()["name"], unready.json()["ready"]) == (503, "champion", False)


@pytest.mark.parametrize("path", [f"/v2/models/{NAME}", f"/v2/models/{NAME}/versions/1", "/v2/models/champion"])
async def test_a_model_is_ready_and_says_what_it_takes(client: httpx.AsyncClient, path: str) -> None:
    ready = await client.get(f"{path}/ready")
    name = path.split("/")[3]
    assert (ready.status_code, ready.json()) == (200, {"name": name, "ready": True})
    metadata = (await client.get(path)).json()
    assert metadata["name"] == name
    assert metadata["versions"] == {"1": ["1"], NAME: ["1", "2"], "champion": ["2"]}[path.rpartition("/")[2]]
    for version in metadata["versions"]:  # what may be asked for explicitly
        answer = await client.get(f"/v2/models/{path.split('/')[3]}/versions/{version}/ready")
        assert answer.status_code == 200
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["outputs"] == [{"name": "prediction", "datatype": "FP32", "shape": [-1, 1]}]
    kinds = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["inputs"]}
    assert kinds["material_id"] == ("BYTES", [-1, 1])
    assert kinds[NUMBERS[0]] == ("FP64", [-1, 1])
    assert DATASET.target not in kinds


async def test_an_inference_answers_with_id_model_and_the_output_tensor(client: httpx.AsyncClient) -> None:
    answer = (await infer(client, {"id": "42", "inputs": columns()})).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("42", NAME, "2")
    [output] = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("prediction", "FP32", [3, 1])
    assert output["data"] == pytest.approx(expected(2.0), rel=1e-5)


async def test_a_version_an_alias_and_another_model_are_addressed_by_the_path(client: httpx.AsyncClient) -> None:
    for path, bias, version in (
        (f"/v2/models/{NAME}/versions/1", 1.0, "1"),
        (f"/v2/models/{NAME}/versions/champion", 2.0, "2"),
        ("/v2/models/lab-pytorch", 10.0, "1"),
    ):
        answer = (await infer(client, {"inputs": columns()}, path)).json()
        assert answer["model_version"] == version
        assert answer["outputs"][0]["data"] == pytest.approx(expected(bias), rel=1e-5)


@pytest.mark.parametrize(
    "path", ["/v2/models/nobody", f"/v2/models/{NAME}/versions/99", f"/v2/models/{NAME}/versions/nobody"]
)
async def test_an_unknown_model_is_404_everywhere(client: httpx.AsyncClient, path: str) -> None:
    for answer in (
        await client.get(path),
        await client.get(f"{path}/ready"),
        await infer(client, {"inputs": columns()}, path),
    ):
        assert "no model" in assert_error(answer, 404).lower()


async def test_tensors_come_flat_or_nested_and_with_one_or_two_dimensions(client: httpx.AsyncClient) -> None:
    nested = [{**each, "shape": [3, 1], "data": [[value] for value in each["data"]]} for each in columns()]
    flat = [{**each, "shape": [3, 1]} for each in columns()]
    for inputs in (nested, flat):
        answer = (await infer(client, {"inputs": inputs})).json()
        assert answer["outputs"][0]["data"] == pytest.approx(expected(2.0), rel=1e-5)


async def test_one_tensor_of_processed_features_is_taken(client: httpx.AsyncClient) -> None:
    matrix = Pipeline(DATASET).features(RECORDS)
    for datatype in ("FP32", "FP64"):
        inputs = [tensor("features", datatype, matrix.ravel().tolist(), list(matrix.shape))]
        answer = (await infer(client, {"inputs": inputs})).json()
        assert answer["outputs"][0]["data"] == pytest.approx(expected(2.0), rel=1e-5)
    wrong = [tensor("features", "FP32", [0.0] * 6, [2, 3])]
    assert f"(n, {matrix.shape[1]})" in assert_error(await infer(client, {"inputs": wrong}))


async def test_a_subset_of_the_outputs_is_given_and_an_unknown_one_refused(client: httpx.AsyncClient) -> None:
    for outputs in ([{"name": "prediction"}], [], None):
        answer = await infer(client, {"inputs": columns(), "outputs": outputs})
        assert [each["name"] for each in answer.json()["outputs"]] == ["prediction"]
    error = assert_error(
        await infer(client, {"inputs": columns(), "outputs": [{"name": "prediction"}, {"name": "variance"}]})
    )
    assert "variance" in error


async def test_a_content_type_is_not_needed(client: httpx.AsyncClient) -> None:
    body = json.dumps({"inputs": columns()}).encode()
    for headers in ({}, {"Content-Type": "application/octet-stream"}, {"Content-Type": "application/json; charset=utf-8"}):
        request = client.build_request("POST", f"/v2/models/{NAME}/infer", content=body, headers=headers)
        assert (await client.send(request)).status_code == 200


async def test_parameters_are_accepted_and_without_an_id_there_is_one(client: httpx.AsyncClient) -> None:
    inputs = [{**each, "parameters": {"content_type": "str"}} for each in columns()]
    answer = (await infer(client, {"inputs": inputs, "parameters": {"headers": {}}})).json()
    assert answer["id"]


async def test_a_missing_optional_column_or_value_is_imputed(client: httpx.AsyncClient) -> None:
    [first] = [each for each in columns() if each["name"] == "material_id"]
    bare = [{"material_id": record["material_id"]} for record in RECORDS]
    answer = (await infer(client, {"inputs": [first, tensor("laborant", "BYTES", [None] * 3)]})).json()
    assert answer["outputs"][0]["data"] == pytest.approx(expected(2.0, bare), rel=1e-5)


async def test_many_records_take_the_columnar_way_and_give_the_same(client: httpx.AsyncClient) -> None:
    records = [Laboratory(seed=9).complete_record() for _ in range(5)] * 100
    answer = (await infer(client, {"inputs": columns(records)})).json()
    assert answer["outputs"][0]["data"] == pytest.approx(expected(2.0, records), rel=1e-5)


@pytest.mark.parametrize("repeat", [1, 200])
async def test_all_faults_are_in_the_one_error_text(client: httpx.AsyncClient, repeat: int) -> None:
    inputs = [tensor("material_id", "BYTES", ["00000000", "9"] * repeat), tensor(NUMBERS[0], "FP64", [31, 3.0] * repeat)]
    error = assert_error(await infer(client, {"inputs": inputs}))
    assert f"record 0, '{NUMBERS[0]}': 31" in error
    assert "record 1, 'material_id': '9' is not one of" in error


def named(answer: httpx.Response) -> list[str]:
    """The faults in an error's text."""
    count, _, lines = assert_error(answer).removesuffix(".").partition(" faults: ")
    found = lines.split("; ")
    assert len(found) == int(count)
    return found


async def test_wrong_datatypes_and_wrong_values_are_named_together(client: httpx.AsyncClient) -> None:
    inputs = [
        tensor("material_id", "FP32", [1.0]),
        tensor("laborant", "BYTES", ["NOBODY"]),
        tensor(NUMBERS[0], "BOOL", [True]),
        tensor(NUMBERS[1], "FP64", [31.0]),
        tensor(NUMBERS[2], "FP64", [1.0], [1, 1, 1]),
    ]
    material, first, third, laborant, second = named(await infer(client, {"inputs": inputs}))
    assert material == "The input 'material_id' must have the datatype BYTES, not FP32"
    assert first.startswith(f"The input '{NUMBERS[0]}' must have the datatype FP64, FP32, FP16, BF16, INT8, ")
    assert first.endswith(" or UINT64, not BOOL")
    assert third == f"The input '{NUMBERS[2]}' must have the shape [n] or [n, 1], not [1, 1, 1]"
    assert laborant.startswith("record 0, 'laborant': 'NOBODY' is not one of")
    assert second == f"record 0, '{NUMBERS[1]}': 31.0 is outside of [0, 30]"


async def test_integers_are_integers_within_their_datatype(client: httpx.AsyncClient) -> None:
    material = tensor("material_id", "BYTES", ["00000000"] * 3)
    inputs = [material, tensor(NUMBERS[0], "INT32", [3.7, 4.0, None]), tensor(NUMBERS[1], "INT8", [200, 7, 31])]
    assert named(await infer(client, {"inputs": inputs})) == [
        f"record 0, '{NUMBERS[0]}': must be an integer of -2147483648 to 2147483647 (INT32), not 3.7",
        f"record 0, '{NUMBERS[1]}': must be an integer of -128 to 127 (INT8), not 200",
        f"record 2, '{NUMBERS[1]}': 31.0 is outside of [0, 30]",
    ]
    for datatype, value in (("UINT8", -1), ("UINT64", 2**64), ("INT64", 10**400)):
        inputs = [tensor("material_id", "BYTES", ["00000000"]), tensor(NUMBERS[0], datatype, [value])]
        assert f"({datatype}), not " in assert_error(await infer(client, {"inputs": inputs}))
    good = [material, tensor(NUMBERS[0], "UINT8", [3, 4.0, None])]
    assert (await infer(client, {"inputs": good})).status_code == 200


async def test_a_bad_processed_feature_is_named(client: httpx.AsyncClient) -> None:
    good = [0.5] * WIDTH
    name = DATASET.feature_names[3]
    for value, problem in (
        (1e39, "must be a finite number within 3.4e+38 in size, not 1e+39"),
        (None, "is missing, and processed features must all be numbers"),
        ("3", "must be a number, not '3'"),
        (True, "must be a number, not True"),
        ([1], "must be a number, not list"),
    ):
        data = [*good, *good[:3], value, *good[4:]]
        answer = await infer(client, {"inputs": [tensor("features", "FP64", data, [2, WIDTH])]})
        assert assert_error(answer) == f"Record 1, field '{name}': {problem}."
    many = [tensor("features", "FP64", [None] * WIDTH * 3, [3, WIDTH])]
    assert len(named(await infer(client, {"inputs": many}))) == 20


async def test_what_is_no_inference_request_is_said_with_its_place(client: httpx.AsyncClient) -> None:
    for body, words in (
        ('{"inputs": [{"name": 1, "shape": [1], "datatype": "FP64"}]}', "'inputs[0].name' must be a text, not an integer"),
        ('{"inputs": [{"name": "x", "datatype": "FP64"}]}', "'inputs[0]' needs 'shape'"),
        ("{}", "the body needs 'inputs'"),
        ('{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1e999]}]}', "the number 1e999 (byte 69)"),
        ('{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [-Infinity]}]}', "-Infinity (byte 69)"),
    ):
        error = assert_error(await client.post(f"/v2/models/{NAME}/infer", content=body))
        assert words in error
        assert "$" not in error


BAD_REQUESTS: dict[str, Any] = {
    "no object": [1],
    "no inputs": {"id": "1"},
    "empty inputs": {"inputs": []},
    "inputs no list": {"inputs": {}},
    "tensor without a name": {"inputs": [{"shape": [1], "datatype": "FP64", "data": [1]}]},
    "id no text": {"id": 42, "inputs": columns()},
    "no data": {"inputs": [{"name": "material_id", "shape": [1], "datatype": "BYTES"}]},
    "data no list": {"inputs": [{"name": "material_id", "shape": [1], "datatype": "BYTES", "data": "00000000"}]},
    "too few elements": {"inputs": [tensor("material_id", "BYTES", ["00000000"], [2])]},
    "negative dimension": {"inputs": [tensor("material_id", "BYTES", ["00000000"], [-1])]},
    "three dimensions": {"inputs": [tensor("material_id", "BYTES", ["00000000"], [1, 1, 1])]},
    "no dimension": {"inputs": [tensor("material_id", "BYTES", ["00000000"], [])]},
    "huge dimension": {"inputs": [tensor("material_id", "BYTES", ["00000000"], [2**70])]},
    "unequal columns": {"inputs": [tensor("material_id", "BYTES", ["00000000"]), tensor(NUMBERS[0], "FP64", [1.0, 2.0])]},
    "twice the same": {"inputs": [tensor("material_id", "BYTES", ["00000000"])] * 2},
    "unknown column": {"inputs": [tensor("material_id", "BYTES", ["00000000"]), tensor("colour", "BYTES", ["red"])]},
    "needed column missing": {"inputs": [tensor(NUMBERS[0], "FP64", [1.0])]},
    "wrong datatype": {"inputs": [tensor("material_id", "FP32", [1.0])]},
    "datatype of a number": {"inputs": [tensor("material_id", "BYTES", ["00000000"]), tensor(NUMBERS[0], "BYTES", ["1"])]},
    "text in a number": {"inputs": [tensor("material_id", "BYTES", ["00000000"]), tensor(NUMBERS[0], "FP64", ["1"])]},
    "boolean in a number": {"inputs": [tensor("material_id", "BYTES", ["00000000"]), tensor(NUMBERS[0], "FP64", [True])]},
    "no records": {"inputs": [tensor("material_id", "BYTES", [])]},
    "features as text": {"inputs": [tensor("features", "FP32", ["x"] * WIDTH, [1, WIDTH])]},
    "features of huge numbers": {"inputs": [tensor("features", "FP64", [1e300] * WIDTH, [1, WIDTH])]},
    "features of huge integers": {"inputs": [tensor("features", "FP64", [10**400] * WIDTH, [1, WIDTH])]},
    "features in one dimension": {"inputs": [tensor("features", "FP32", [0.0] * WIDTH, [WIDTH])]},
    "features in another type": {"inputs": [tensor("features", "INT64", [0] * WIDTH, [1, WIDTH])]},
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_bad_request_is_400_with_a_sentence(client: httpx.AsyncClient, name: str) -> None:
    error = assert_error(await infer(client, BAD_REQUESTS[name]))
    assert 10 < len(error) < 2000
    assert ".py" not in error


async def test_a_large_bad_column_is_refused_as_a_small_one(client: httpx.AsyncClient) -> None:
    for bad in ("1", True, None, [1]):
        inputs = [tensor("material_id", "BYTES", ["00000000"] * 300), tensor("_id", "BYTES", ["k"] * 300)]
        good = {**tensor(NUMBERS[0], "FP64", [1.0] * 299 + [bad]), "shape": [300]}
        answer = await infer(client, {"inputs": [*inputs, good]})
        if bad is None:
            assert answer.status_code == 200
        else:
            assert "record 299" in assert_error(answer).lower()


async def test_a_model_is_not_ready_while_the_broker_that_it_needs_is_away() -> None:
    source = ManyModels(DATASET)
    source.publish(NAME, 1.0, champion=True)
    there = True
    async with rest_server(DATASET, source, broker_connected=lambda: there, broker_needed=True) as (_, client):
        for there in (True, False, True):
            for path in (f"/v2/models/{NAME}/ready", "/v2/models/champion/ready", f"/v2/models/{NAME}/versions/1/ready"):
                answer = await client.get(path)
                assert (answer.status_code, answer.json()["ready"]) == ((200, True) if there else (503, False)), path
            assert (await client.get("/v2/health/ready")).status_code == answer.status_code


async def test_a_refused_request_counts_for_the_model_that_it_names_and_an_unknown_name_makes_no_label(
    client: httpx.AsyncClient,
) -> None:
    bad = {"inputs": [tensor("material_id", "FP32", [1.0])]}
    assert_error(await infer(client, bad, "/v2/models/lab-pytorch/versions/1"))
    assert_error(await infer(client, bad, "/v2/models/nobody-knows-me"), 404)
    assert (await client.post("/predict", json=[{}])).status_code == 422
    assert (await client.get("/v2/models/lab-pytorch/ready")).status_code == 200
    text = (await client.get("/metrics")).text
    route = "/v2/models/{name}"
    for labels in (
        f'model="lab-pytorch",route="{route}/versions/{{version}}/infer",status="400",version="1"',
        f'model="lab-pytorch",route="{route}/ready",status="200",version="1"',
        f'model="",route="{route}/infer",status="404",version=""',
        f'model="{NAME}",route="/predict",status="422",version="2"',
    ):
        wanted = set(labels.split(","))
        lines = [line for line in text.splitlines() if line.startswith("serving_requests_total{")]
        assert any(set(line[line.index("{") + 1 : line.rindex("}")].split(",")) == wanted for line in lines), labels
    assert "nobody-knows-me" not in text


async def test_an_unknown_path_below_v2_is_an_error_of_the_protocol(client: httpx.AsyncClient) -> None:
    assert_error(await client.get("/v2/nothing"), 404)
    assert_error(await client.get(f"/v2/models/{NAME}/infer"), 405)


async def test_the_protocols_own_client_understands_us(client: httpx.AsyncClient) -> None:
    # Its generated code asks pydantic 1 for a module that the package ``pydantic.v1`` of 1.10 does not pass on.
    pydantic.v1.json = pydantic.json  # type: ignore[attr-defined]
    from open_inference.openapi.client import AsyncOpenInferenceClient, InferenceRequest
    from open_inference.openapi.core.api_error import ApiError
    from open_inference.openapi.errors import BadRequestError

    own = AsyncOpenInferenceClient(base_url=str(client.base_url), httpx_client=client)
    await own.check_server_liveness()
    await own.check_server_readiness()
    assert (await own.read_server_metadata()).version == __version__
    await own.check_model_readiness(NAME)
    await own.check_model_version_readiness(NAME, "1")
    metadata = await own.read_model_metadata(NAME)
    assert {each.name for each in metadata.inputs} >= set(NUMBERS)
    # Its model takes a text of digits for a number, such as our material ids, so that texts go in past its parser.
    features = Pipeline(DATASET).features(RECORDS)
    inputs = [tensor("features", "FP32", features.ravel().tolist(), list(features.shape))]
    outputs = [{"name": "prediction"}]
    parsed = InferenceRequest.parse_obj({"id": "c1", "inputs": inputs, "outputs": outputs})
    constructed = InferenceRequest.construct(id="c1", inputs=columns(), outputs=outputs)
    for request in (parsed, constructed):
        for answer, bias in (
            (await own.model_infer(NAME, request=request), 2.0),
            (await own.model_version_infer(NAME, "1", request=request), 1.0),
        ):
            assert answer.id == "c1"
            assert answer.dict()["outputs"][0]["data"] == pytest.approx(expected(bias), rel=1e-5)
    with pytest.raises(BadRequestError):
        await own.model_infer(NAME, request=InferenceRequest.parse_obj({"inputs": columns()[2:]}))
    with pytest.raises(ApiError, match="404"):
        await own.read_model_metadata("nobody")
