"""Intervals and warnings on request, over REST in every protocol: what they are, what is refused, and that nothing else changes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from mlflow.deployments import PredictionsResponse

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.serving import engine
from complex_system.serving.known import record_warnings
from complex_system.tracking.model_files import SAMPLE_FILE, encode_sample
from models import ManyModels, rest_server
from trainings import quick_sample

DATASET = Dataset.load()
NAMES = ("material_id", "laborant", "rohwert_1_labormessung", "rohwert_2_labormessung", "rohwert_3_labormessung")
RECORDS = [{name: record[name] for name in NAMES} for record in (Laboratory(seed=3).complete_record() for _ in range(3))]
TENSORS = [
    {"name": name, "shape": [3], "datatype": "BYTES" if place < 2 else "FP64", "data": [each[name] for each in RECORDS]}
    for place, name in enumerate(NAMES)
]
BODIES: dict[str, Any] = {
    "/predict": lambda beside: {"records": RECORDS, **beside},
    "/invocations": lambda beside: {"dataframe_records": RECORDS, "params": beside},
    "/v2/models/champion/infer": lambda beside: {"inputs": TENSORS, "parameters": beside},
}


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A champion with intervals of 99 records, whose errors were 1, 2 ... 99, and a model without any."""
    source = ManyModels(DATASET)
    source.publish("lab-lightgbm", 2.0, champion=True)
    source.publish("lab-older", 2.0, files={})
    source.files = {SAMPLE_FILE: quick_sample()}
    async with rest_server(DATASET, source) as (_, client):
        yield client


async def predicted(client: httpx.AsyncClient) -> list[float]:
    return (await client.post("/predict", json=RECORDS)).json()["predictions"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"records": RECORDS, "interval": 0.9}),
        json.dumps({"interval": 0.9, "records": RECORDS}),
        json.dumps({"interval": 0.9, "warnings": None, "records": RECORDS}, indent=1),
    ],
)
async def test_predict_answers_both_ends_of_every_interval(client: httpx.AsyncClient, body: str) -> None:
    plain = await predicted(client)
    answer = (await client.post("/predict", content=body)).json()
    assert answer["predictions"] == plain
    assert answer["intervals"] == [[value - 90, value + 90] for value in plain]


async def test_many_records_and_a_large_body_have_theirs(client: httpx.AsyncClient) -> None:
    records = RECORDS * 3500  # more than a million bytes
    body = json.dumps({"records": records, "interval": 0.5})
    assert len(body) > 1_000_000
    answer = (await client.post("/predict", content=body)).json()
    assert answer["intervals"][-1] == [answer["predictions"][-1] - 50, answer["predictions"][-1] + 50]
    assert len(answer["intervals"]) == len(records)


@pytest.mark.parametrize("path", list(BODIES))
async def test_answers_to_many_records_are_made_beside_the_event_loop(
    client: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in: list[threading.Thread] = []

    def recording(*arguments: Any) -> Any:
        made_in.append(threading.current_thread())
        return record_warnings(*arguments)

    monkeypatch.setattr(engine, "record_warnings", recording)
    for count in (1, 500):  # of three records
        body = BODIES[path]({"interval": 0.5, "warnings": True})
        if "inputs" in body:
            body["inputs"] = [{**each, "shape": [3 * count], "data": each["data"] * count} for each in TENSORS]
        else:
            body["records" if "records" in body else "dataframe_records"] = RECORDS * count
        (await client.post(path, json=body)).raise_for_status()
    assert made_in[0] is threading.main_thread(), "a thread would cost few records more than it frees"
    assert made_in[1] is not threading.main_thread()


async def test_an_answer_without_them_is_as_it_was(client: httpx.AsyncClient) -> None:
    for body in (RECORDS, {"records": RECORDS}, {"records": RECORDS, "interval": None}):
        assert set((await client.post("/predict", json=body)).json()) == {
            "predictions", "model", "pipeline_version", "request_id",
        }  # fmt: skip
    answer = await client.post("/invocations", json={"dataframe_records": RECORDS, "params": {"temperature": 1}})
    assert answer.json() == {"predictions": await predicted(client)}


async def test_mlflows_client_reads_them_as_columns(client: httpx.AsyncClient) -> None:
    plain = await predicted(client)
    for shape in ({"dataframe_records": RECORDS}, {"inputs": {name: [each[name] for each in RECORDS] for name in NAMES}}):
        answer = await client.post("/invocations", json={**shape, "params": {"interval": 0.9}})
        frame = PredictionsResponse.from_json(answer.text).get_predictions()
        assert list(frame.columns) == ["prediction", "lower", "upper"]
        assert frame["prediction"].tolist() == plain
        assert frame["lower"].tolist() == [value - 90 for value in plain]
        assert frame["upper"].tolist() == [value + 90 for value in plain]


async def test_open_inference_has_two_more_outputs(client: httpx.AsyncClient) -> None:
    async def outputs(**asked: Any) -> dict[str, list[float]]:
        body = {"inputs": TENSORS, "parameters": {"interval": 0.8}, **asked}
        answer = (await client.post("/v2/models/champion/infer", json=body)).json()
        assert all(each["shape"] == [3, 1] and each["datatype"] == "FP32" for each in answer["outputs"])
        return {each["name"]: each["data"] for each in answer["outputs"]}

    plain = await predicted(client)
    lower, upper = [value - 80 for value in plain], [value + 80 for value in plain]
    assert await outputs() == {"prediction": plain, "lower": lower, "upper": upper}
    assert await outputs(outputs=[{"name": "upper"}, {"name": "prediction"}]) == {"upper": upper, "prediction": plain}
    assert await outputs(parameters={}) == {"prediction": plain}
    twice = {"inputs": TENSORS, "outputs": [{"name": "prediction"}] * 2}
    answer = await client.post("/v2/models/champion/infer", json=twice)
    assert (answer.status_code, "named more than once" in answer.text) == (400, True)
    answer = await client.post("/v2/models/champion/infer", json={"inputs": TENSORS, "outputs": [{"name": "lower"}]})
    assert (answer.status_code, "The output 'lower' needs the request's parameter 'interval'" in answer.text) == (400, True)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("beside", "problem"),
    [
        ({"interval": 0.995}, "0.995 cannot be given: the model's errors are known of 99 records, which allows at most 0.99."),
        ({"interval": 90}, "a probability between 0 and 1, such as 0.9, not 90"),
        ({"interval": 0}, "a probability between 0 and 1"),
        ({"interval": "0.9"}, "'interval' is the level of the intervals, a number between 0 and 1 such as 0.9, not '0.9'"),
        ({"interval": True}, "a number between 0 and 1 such as 0.9, not True"),
        ({"interval": [0.9]}, "a number between 0 and 1 such as 0.9"),
        ({"warnings": "yes"}, "'warnings' is true or false, not 'yes'"),
        ({"warnings": 1}, "'warnings' is true or false, not 1"),
    ],
)  # fmt: skip
async def test_what_cannot_be_given_is_refused_with_the_reason(
    client: httpx.AsyncClient, path: str, beside: dict[str, Any], problem: str
) -> None:
    answer = await client.post(path, json=BODIES[path](beside))
    assert answer.status_code == 400, answer.text
    assert problem in answer.text


async def test_a_model_without_intervals_says_so_and_predicts(client: httpx.AsyncClient) -> None:
    path = "/v2/models/lab-older/infer"
    answer = await client.post(path, json={"inputs": TENSORS, "parameters": {"interval": 0.9}})
    assert (answer.status_code, answer.json()["error"]) == (
        409,
        "lab-older v1 has no intervals: it was trained before there were any, or with too few records to calibrate them. Ask without "
        "an interval, or train again.",
    )
    assert (await client.post(path, json={"inputs": TENSORS})).status_code == 200


async def test_the_model_tells_how_wide_its_intervals_are(client: httpx.AsyncClient) -> None:
    assert (await client.get("/model")).json()["model"]["half_width_90"] == 90


async def test_other_fields_beside_the_records_are_faults_as_before(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict", json={"records": RECORDS, "level": 0.9})
    assert answer.status_code == 422
    assert "records" in answer.text


LENIENT = Dataset.parse("""
name: oven
target: y
columns:
  - {name: Temp, type: number, range: [20, 250], outside: warn}
  - {name: Druck, type: number, range: [0, 10], outside: clip}
  - {name: y, type: number, optional: true}
pipeline:
  - {step: scale, column: Temp, to: [0, 1]}
  - {step: scale, column: Druck, to: [0, 1]}
""")


async def test_warnings_are_of_every_record_and_refuse_nothing() -> None:
    draw = np.random.default_rng(1)
    sample = [{"Temp": float(t), "Druck": float(p)} for t, p in draw.uniform([100, 4], [120, 6], (200, 2))]
    source = ManyModels(LENIENT)
    source.files = {SAMPLE_FILE: encode_sample(LENIENT, pa.Table.from_pylist(sample))}
    source.publish("oven-linear", 0.0, champion=True)
    records = [sample[3], {"Temp": 210.0, "Druck": 5.0}, {"Temp": 260.0, "Druck": 11.0}]
    async with rest_server(LENIENT, source) as (_, client):
        assert "record_warnings" not in (await client.post("/predict", json={"records": records})).json()
        answer = (await client.post("/predict", json={"records": records, "warnings": True})).json()
        near, far, outside = answer["record_warnings"]
        assert near == []
        assert [each["field"] for each in far] == [None]
        assert re.fullmatch(
            r"is \d+\.\d times as far from the training data as 99 % of these are from each other", far[0]["problem"]
        )
        assert [(each["field"], each["problem"].partition(" and is ")[2]) for each in outside[:2]] == [
            ("Temp", "taken as it is"), ("Druck", "moved to its nearer end"),
        ]  # fmt: skip
        assert outside[2]["field"] is None
        assert [each["field"] for each in answer["warnings"]] == ["Temp", "Druck"], "as without the request for them"
        body = {"dataframe_records": records, "params": {"warnings": True}}
        rows = (await client.post("/invocations", json=body)).json()["predictions"]
        assert [len(row["warnings"]) for row in rows] == [0, 1, 3]
        assert rows[1]["warnings"] == [f"the record {far[0]['problem']}"]
        data = {name: [each[name] for each in records] for name in ("Temp", "Druck")}
        inputs = [{"name": name, "shape": [3], "datatype": "FP64", "data": values} for name, values in data.items()]
        outputs = [{"name": "warnings"}, {"name": "upper"}]
        body = {"inputs": inputs, "parameters": {"warnings": True, "interval": 0.9}, "outputs": outputs}
        found = (await client.post("/v2/models/champion/infer", json=body)).json()["outputs"]
        assert [(each["name"], each["datatype"], each["shape"]) for each in found] == [
            ("warnings", "BYTES", [3, 1]), ("upper", "FP32", [3, 1]),
        ]  # fmt: skip
        assert [text.count(";") for text in found[0]["data"]] == [0, 0, 2]
        source.files = {}
        source.publish("oven-linear", 0.0)
        answer = await client.post("/v2/models/oven-linear/infer", json=body)
        assert answer.status_code == 409
        assert "carries no sample of its training records" in answer.text
