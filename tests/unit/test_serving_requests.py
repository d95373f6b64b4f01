"""What every request for predictions passes: its id, its counts, its route, and the line of events behind it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from complex_system.domain.dataset import Dataset
from complex_system.pipeline.pipeline import Pipeline
from complex_system.service_layer.serving import prediction_events
from complex_system.service_layer.serving.prediction_events import WAITING_EVENTS, PredictionEvents
from complex_system.serving.engine import LocalRoute, PredictionEngine, PredictionResult
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.requests.batch import RecordBatch
from complex_system.serving.rest.app import MOST_PATHS, make_app
from complex_system.serving.tallies import RequestTallies
from models import ManyModels
from support import eventually

GOOD = {"material_id": "00000000", "rohwert_1_labormessung": 3}
TENSORS = {
    "inputs": [
        {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP64", "data": [value]}
        for name, value in GOOD.items()
    ]
}


def test_the_counts_read_as_those_of_prometheus_own_counters() -> None:
    tallies, registry, own = RequestTallies(), CollectorRegistry(), CollectorRegistry()
    own.register(tallies)
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
        tallies.add(route, "lab", version, status, seconds, records)
        requests.labels(route, "lab", version, str(status)).inc()
        times.labels(route).observe(seconds)
        children = batch.labels(route)
        if records:
            children.observe(records)

    def lines(text: bytes) -> list[str]:
        return sorted(line for line in text.decode().splitlines() if "_created" not in line and "in_progress" not in line)

    assert lines(generate_latest(own)) == lines(generate_latest(registry))


async def app_of(*names: str) -> Any:
    dataset = Dataset.load()
    source = ManyModels(dataset)
    for number, name in enumerate(names):
        source.publish(name, float(number), champion=not number)
    models = ModelManager(source, Pipeline(dataset))
    await models.refresh()
    return make_app(PredictionEngine(models, LocalRoute()), dataset)


async def test_paths_that_clients_choose_are_answered_as_before_and_few_are_remembered() -> None:
    app = await app_of("lab-lightgbm", "lab-pytorch")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://serving") as client:
        for turn in range(2):  # the second time they are remembered
            for name, bias in (("lab-lightgbm", 0.0), ("lab-pytorch", 1.0), ("lab%2Dpytorch", 1.0)):
                found = (await client.post(f"/v2/models/{name}/infer", json=TENSORS)).json()
                assert found["model_name"] == name.replace("%2D", "-"), turn
                base = (await client.post("/predict", json=GOOD)).json()["predictions"][0]
                assert found["outputs"][0]["data"][0] == pytest.approx(base + bias)
            assert (await client.get("/v2/models/lab-pytorch/infer")).status_code == 405
            assert (await client.get("/v2/models/lab-pytorch/nothing")).status_code == 404
        for number in range(2 * MOST_PATHS + 5):
            answer = await client.get(f"/v2/models/m{number}/ready")
            assert answer.status_code == 404
            assert f"m{number}" in answer.json()["error"]
        assert len(app._found) <= MOST_PATHS


async def result() -> PredictionResult:
    app = await app_of("lab-lightgbm")
    model = app.gate.engine.holder.require().info
    return PredictionResult(RecordBatch([GOOD]), np.zeros((1, 1), np.float32), [1.0], model, 0.5)


async def test_events_are_sent_in_their_order_and_to_the_end_and_what_is_too_much_is_counted() -> None:
    app, made = await app_of("lab-lightgbm"), await result()
    metrics: ServingMetrics = app.gate.metrics
    sent: list[dict[str, Any]] = []
    open_ = asyncio.Event()

    async def announce(event: dict[str, Any]) -> None:
        await open_.wait()
        if event["milliseconds"] == 3:
            raise ValueError("this one cannot be sent")
        sent.append(event)

    events = PredictionEvents("ml_serving", announce, metrics)
    for number in range(WAITING_EVENTS + 7):
        events.put(PredictionResult(made.batch, made.features, made.predictions, made.model, number), [])
    running = asyncio.create_task(events.run())
    open_.set()
    await events.end(running)
    assert [event["milliseconds"] for event in sent] == [n for n in range(WAITING_EVENTS) if n != 3]
    assert sent[0]["predictions"] == [{"id": None, "record": GOOD, "prediction": 1.0}]
    assert b"serving_events_dropped_total 7.0" in metrics.text()


async def test_a_broker_that_takes_nothing_keeps_no_service_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_events, "LAST_SECONDS", 0.05)
    app, made = await app_of("lab-lightgbm"), await result()
    begun = asyncio.Event()

    async def announce(_: dict[str, Any]) -> None:
        begun.set()
        await asyncio.Event().wait()

    events = PredictionEvents("ml_serving", announce, app.gate.metrics)
    running = asyncio.create_task(events.run())
    events.put(made, [])
    events.put(made, [])
    await eventually(begun.is_set)
    async with asyncio.timeout(20):
        await events.end(running)
    assert running.cancelled()
