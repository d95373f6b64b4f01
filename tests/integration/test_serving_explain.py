"""``POST /explain`` on a real socket: what it answers, what it refuses, and that predictions do not wait for it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.explanation.shapley import Explainer
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving import explain as explain_module
from complex_system.serving.explain import MAX_EXPLAINERS, Explanations
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.requests.batch import RecordBatch
from complex_system.tracking.model_files import SAMPLE_FILE
from models import MemorySource, linear_onnx, onnx_metadata, rest_server
from trainings import quick_model, quick_sample

DATASET = Dataset.load()
R1 = "rohwert_1_labormessung"


def lab_records(count: int) -> list[Record]:
    made = [Laboratory(5).complete_record() for _ in range(count)]
    return [{name: value for name, value in record.items() if name not in ("_id", DATASET.target)} for record in made]


def source_of(**files: bytes) -> MemorySource:
    source = MemorySource()
    source.publish(DATASET, 0.0, quick_model("lightgbm")[1])
    source.files = dict(files)
    return source


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with rest_server(DATASET, source_of(**{SAMPLE_FILE: quick_sample()})) as (_, client):
        yield client


async def test_base_and_contributions_add_up_to_what_predict_answers(client: httpx.AsyncClient) -> None:
    records = lab_records(30)
    predicted = (await client.post("/predict", json=records)).json()
    answer = await client.post("/explain", json={"records": records}, headers={"X-Request-Id": "a-1"})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    predictions = predicted["predictions"]
    found = content["explanations"]
    assert [each["prediction"] for each in found] == pytest.approx(predictions, rel=1e-6)
    sums = [content["base"] + sum(each["contributions"].values()) for each in found]
    assert sums == pytest.approx(predictions, abs=1e-3 * float(np.std(predictions)))
    columns = ["material_id", "laborant", R1, "rohwert_2_labormessung", "rohwert_3_labormessung"]
    assert all(list(each["contributions"]) == columns for each in found)
    assert (content["method"], content["background"]) == ("exact", 100)
    assert content["model"] == predicted["model"]
    assert content["pipeline_version"] == DATASET.version
    assert content["request_id"] == answer.headers["x-request-id"] == "a-1"
    assert (await client.post("/explain", json=records[0])).json()["explanations"] == found[:1]


@pytest.mark.parametrize(
    ("content", "status", "code", "text"),
    [
        (b"", 400, "invalid_request", ""),
        (b"[]", 400, "invalid_request", "no record"),
        (b'{"rows": []}', 422, "invalid_record", "is missing"),
        (b'[{"material_id": "00000000", "rohwert_1_labormessung": 31}]', 422, "invalid_record", "31"),
        (b'[{"material_id": "99999999"}]', 422, "invalid_record", "99999999"),
        (b'[{"material_id": "00000000", "rohwert_1_labormessung": NaN}]', 400, "invalid_request", ""),
        (b"[" + b",".join([b'{"material_id": "00000000"}'] * 101) + b"]", 413, "too_large", "2 requests of at most 100"),
    ],
)
async def test_bad_input_costs_its_sender_an_error(
    client: httpx.AsyncClient, content: bytes, status: int, code: str, text: str
) -> None:
    answer = await client.post("/explain", content=content, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert text in error["message"]


async def test_it_needs_json_a_post_and_the_key(client: httpx.AsyncClient) -> None:
    record = lab_records(1)[0]
    assert (await client.post("/explain", content=b"a=1", headers={"Content-Type": "text/plain"})).status_code == 415
    assert (await client.get("/explain")).status_code == 405
    async with rest_server(DATASET, source_of(**{SAMPLE_FILE: quick_sample()}), api_key="plant-7") as (_, locked):
        assert (await locked.post("/explain", json=record)).status_code == 401
        assert (await locked.post("/explain", json=record, headers={"X-API-Key": "plant-7"})).status_code == 200


@pytest.mark.parametrize(
    ("source", "status", "text"),
    [
        (MemorySource(), 503, "no model"),
        (source_of(), 409, "carries no sample of its training records"),
        (source_of(**{SAMPLE_FILE: b"broken"}), 503, "cannot be read"),
    ],
)
async def test_a_model_that_cannot_be_explained_says_why(source: MemorySource, status: int, text: str) -> None:
    async with rest_server(DATASET, source) as (_, own):
        answer = await own.post("/explain", json=lab_records(1))
        assert answer.status_code == status
        assert text.lower() in answer.json()["error"]["message"].lower()


async def test_predictions_do_not_wait_and_too_many_explanations_are_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, began = threading.Event(), threading.Event()
    explain = Explainer.explain

    def slow(self: Explainer, *arguments: Any) -> Any:
        began.set()
        assert go_on.wait(60)
        return explain(self, *arguments)

    monkeypatch.setattr(Explainer, "explain", slow)
    monkeypatch.setattr(explain_module, "MAX_REQUESTS", 3)
    records = lab_records(2)
    async with rest_server(DATASET, source_of(**{SAMPLE_FILE: quick_sample()})) as (_, own):
        waiting = [asyncio.create_task(own.post("/explain", json=records)) for _ in range(3)]
        assert await asyncio.to_thread(began.wait, 60)
        for _ in range(20):
            assert (await own.post("/predict", json=records)).status_code == 200
        busy = await own.post("/explain", json=records)
        go_on.set()
        answers = [await each for each in waiting]
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
        assert [answer.status_code for answer in answers] == [200] * 3
        assert (await own.post("/explain", json=records)).status_code == 200


async def test_models_that_are_served_no_more_are_given_up() -> None:
    explanations, pipeline, onnx_model = Explanations(), Pipeline(DATASET), linear_onnx(DATASET)
    metadata, files = onnx_metadata(DATASET, onnx_model, "lab-linear"), {SAMPLE_FILE: quick_sample()}
    seen: list[weakref.ref[Predictor]] = []
    for version in range(MAX_EXPLAINERS + 2):
        predictor = Predictor(pipeline, "lab-linear", str(version), onnx_model, metadata, files=files)
        await explanations.explain(RecordBatch(lab_records(1)), predictor)
        seen.append(weakref.ref(predictor))
    gc.collect()
    assert [each() is None for each in seen] == [True, True, *[False] * MAX_EXPLAINERS]
