"""What every request for predictions passes: its counters, its route, and the queue of events behind it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.serving import PredictedRecord, PredictionMade
from complex_system.service_layer.serving import events as events_module
from complex_system.service_layer.serving.events import COMPARED_RECORDS, WAITING_EVENTS, PredictionEvents
from complex_system.serving.engine import PredictionEngine, PredictionResult
from complex_system.serving.metrics import RequestCounters, ServingMetrics
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.predictor import ModelInfo
from complex_system.serving.requests.batch import RecordBatch
from complex_system.serving.requests.wanted import Wanted
from complex_system.serving.rest.app import make_app
from complex_system.tracking.model_files import SAMPLE_FILE
from models import ManyModels
from support import eventually
from trainings import quick_sample

DATASET = Dataset.load()
GOOD: dict[str, Any] = {"material_id": "00000000", "rohwert_1_labormessung": 3}
TENSORS = {
    "inputs": [
        {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP64", "data": [value]}
        for name, value in GOOD.items()
    ]
}


INFO = {version: ModelInfo("lab", version, *[""] * 7, {}, "") for version in ("1", "")}


def test_the_counts_read_as_those_of_prometheus_own_counters() -> None:
    counters, registry, own = RequestCounters(), CollectorRegistry(), CollectorRegistry()
    own.register(counters)
    bounds = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
    sizes = (1, 2, 5, 10, 50, 100, 500, 1000, 5000, 10_000, 50_000, 100_000)
    labels = ["route", "model", "version", "status"]
    requests = Counter("serving_requests", "Requests that were answered", labels, registry=registry)
    times = Histogram("serving_request_seconds", "Time to the answer", ["route"], buckets=bounds, registry=registry)
    batch = Histogram(
        "serving_batch_records", "Records in a request for predictions", ["route"], buckets=sizes, registry=registry
    )
    draw = random.Random(1)
    for _ in range(2000):
        route, version, status = draw.choice(("/predict", "/v2")), draw.choice(("1", "")), draw.choice((200, 422))
        seconds = draw.choice((*bounds, 10 ** draw.uniform(-5, 2)))
        records = draw.choice((0, *sizes, 200_000))
        counters.add(route, INFO[version], status, seconds, records)
        requests.labels(route, "lab", version, str(status)).inc()
        times.labels(route).observe(seconds)
        children = batch.labels(route)
        if records:
            children.observe(records)

    def lines(text: bytes) -> list[str]:
        return sorted(line for line in text.decode().splitlines() if "_created" not in line and "in_progress" not in line)

    assert lines(generate_latest(own)) == lines(generate_latest(registry))


async def models_of(*names: str) -> ModelManager:
    source = ManyModels(DATASET)
    for number, name in enumerate(names):
        source.publish(name, float(number), champion=not number)
    models = ModelManager(source, Pipeline(DATASET))
    await models.refresh()
    return models


async def test_paths_with_parameters_are_answered_as_they_are_spelled() -> None:
    app = make_app(PredictionEngine(await models_of("lab-lightgbm", "lab-pytorch")), DATASET)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://serving") as client:
        for _ in range(2):
            for name, bias in (("lab-lightgbm", 0.0), ("lab-pytorch", 1.0), ("lab%2Dpytorch", 1.0)):
                found = (await client.post(f"/v2/models/{name}/infer", json=TENSORS)).json()
                assert found["model_name"] == name.replace("%2D", "-")
                base = (await client.post("/predict", json=GOOD)).json()["predictions"][0]
                assert found["outputs"][0]["data"][0] == pytest.approx(base + bias)
            assert (await client.get("/v2/models/lab-pytorch/infer")).status_code == 405
            assert (await client.get("/v2/models/lab-pytorch/nothing")).status_code == 404
        for number in range(20):
            answer = await client.get(f"/v2/models/m{number}/ready")
            assert answer.status_code == 404
            assert f"m{number}" in answer.json()["error"]


async def test_a_path_or_method_that_does_not_exist_is_answered_in_the_format_of_its_protocol() -> None:
    app = make_app(PredictionEngine(await models_of("lab-lightgbm")), DATASET)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://serving") as client:
        own = await client.get("/nothing", headers={"x-request-id": "mine"})
        assert (own.status_code, own.headers["x-request-id"]) == (404, "mine")
        assert own.json() == {"error": {"code": "http_404", "message": "Not Found", "faults": []}}
        own = await client.put("/predict", json=GOOD)
        assert (own.status_code, own.headers["allow"], own.json()["error"]["code"]) == (405, "POST", "http_405")
        oip = await client.put("/v2/models/champion", json=GOOD)
        assert (oip.status_code, oip.json()) == (405, {"error": "Method Not Allowed"})
        assert (await client.head("/model")).status_code == 200
        text = (await client.get("/metrics")).text
        assert 'serving_requests_total{model="",route="other",status="404",version=""} 1.0' in text


def result(models: ModelManager, milliseconds: float = 0.5) -> PredictionResult:
    info = models.champion.require().info
    return PredictionResult(RecordBatch([GOOD]), np.zeros((1, 1), np.float32), [1.0], info, milliseconds)


async def test_events_are_sent_in_their_order_and_to_the_end_and_what_is_too_much_is_counted() -> None:
    models = await models_of("lab-lightgbm")
    metrics = ServingMetrics(models)
    sent: list[PredictionMade] = []
    open_ = asyncio.Event()

    async def announce(event: PredictionMade) -> None:
        await open_.wait()
        if event.milliseconds == 3:
            raise ValueError("this one cannot be sent")
        sent.append(event)

    events = PredictionEvents("ml_serving", announce, metrics)
    for number in range(WAITING_EVENTS + 7):
        events.put(result(models, number), [])
    running = asyncio.create_task(events.run())
    open_.set()
    await events.stop(running)
    assert [event.milliseconds for event in sent] == [n for n in range(WAITING_EVENTS) if n != 3]
    assert sent[0].predictions == (PredictedRecord(id=None, record=GOOD, prediction=1.0),)
    assert b"serving_events_dropped_total 7.0" in metrics.text()


async def test_a_broker_that_takes_nothing_does_not_keep_a_service_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "STOP_SECONDS", 0.05)
    models = await models_of("lab-lightgbm")
    begun = asyncio.Event()

    async def announce(_: PredictionMade) -> None:
        begun.set()
        await asyncio.Event().wait()

    events = PredictionEvents("ml_serving", announce, ServingMetrics(models))
    running = asyncio.create_task(events.run())
    events.put(result(models), [])
    events.put(result(models), [])
    await eventually(begun.is_set)
    async with asyncio.timeout(20):
        await events.stop(running)
    assert running.cancelled()


async def test_of_requests_that_ask_for_no_warnings_a_sample_is_compared_with_the_training_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("complex_system.service_layer.serving.events.COMPARED_PAUSE", 30.0)  # however busy the machine is
    source = ManyModels(DATASET)
    source.files = {SAMPLE_FILE: quick_sample()}
    models = ModelManager(source, Pipeline(DATASET))
    source.publish("lab-lightgbm", 1.0, champion=True)
    await models.refresh()
    metrics, sent = ServingMetrics(models), list[PredictionMade]()

    async def announce(event: PredictionMade) -> None:
        sent.append(event)

    events = PredictionEvents("ml_serving", announce, metrics)
    engine = PredictionEngine(models, predicted=lambda result: events.put(result.head(1000), []))
    record = {name: value for name, value in next(iter(Laboratory(2).records(1))).items() if name != DATASET.target}
    await engine.predict([record] * (COMPARED_RECORDS + 1))
    await engine.predict([record])  # too soon after the first one
    running = asyncio.create_task(events.run())
    await eventually(lambda: len(sent) == 2)
    await engine.predict([record] * 3, wanted=Wanted(warnings=True))
    await eventually(lambda: len(sent) == 3)
    await events.stop(running)
    distances = [each.distance for event in sent for each in event.predictions]
    assert distances[COMPARED_RECORDS : COMPARED_RECORDS + 2] == [None, None]
    measured = [each for each in distances if each is not None]
    assert measured == pytest.approx([0.0] * (COMPARED_RECORDS + 3), abs=0.01), "it is one of the sample"
    assert [event.half_width for event in sent] == [90.0] * 3
    assert f'serving_compared_records_total{{distance="near"}} {COMPARED_RECORDS + 3}.0'.encode() in metrics.text()
