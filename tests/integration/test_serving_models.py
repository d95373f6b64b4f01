"""What all protocols share, on a real socket: faults, limits, the key, metrics, models by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import TrackingUnavailableError
from complex_system.pipeline.pipeline import FEW_RECORDS
from complex_system.serving.engine import Limits
from complex_system.tracking.model_files import SAMPLE_FILE
from models import ManyModels, quick_files, rest_server
from trainings import quick_sample

DATASET = Dataset.load()
GOOD = {"material_id": "00000000", "rohwert_1_labormessung": 3}
TWICE_BAD = {"material_id": "9", "rohwert_1_labormessung": 31, "rohwert_2_labormessung": "x", "colour": 1}
LIMITS = Limits(body_bytes=2_000_000, records=500)


def source_of(*names: str) -> ManyModels:
    source = ManyModels(DATASET)
    for number, name in enumerate(names or ("lab-lightgbm",)):
        source.publish(name, float(number), champion=not number, files={**quick_files(), SAMPLE_FILE: quick_sample()})
    return source


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with rest_server(DATASET, source_of("lab-lightgbm", "lab-pytorch"), LIMITS) as (_, client):
        yield client


def samples(text: str) -> dict[str, float]:
    """Prometheus samples as ``name{label=value,...}`` to value, read by its own parser."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample(found: dict[str, float], name: str, **labels: str) -> float:
    return found[f"{name}{sorted(labels.items())}"]


@pytest.mark.parametrize("count", [1, FEW_RECORDS + 50])
async def test_all_faults_of_all_records_are_named_at_once(client: httpx.AsyncClient, count: int) -> None:
    records = [GOOD] * count + [TWICE_BAD, {"rohwert_3_labormessung": -1}]
    answer = await client.post("/predict", json=records)
    assert answer.status_code == 422
    faults = {(each["record"], each["field"]): each["problem"] for each in answer.json()["error"]["faults"]}
    assert faults == {
        (count, "material_id"): "'9' is not one of 00000000, 11111111, 22222222, 33333333",
        (count, "rohwert_1_labormessung"): "31.0 is outside of [0, 30]",
        (count, "rohwert_2_labormessung"): "must be a number or nothing, not the text 'x'",
        (
            count,
            "colour",
        ): "is not a declared field; leave it out, or set COMPLEX_SYSTEM_SERVING_UNKNOWN_COLUMNS=ignore for the "
        "serving service",
        (count + 1, "material_id"): "is missing",
        (count + 1, "rohwert_3_labormessung"): "-1.0 is outside of [0, 2]",
    }


@pytest.mark.parametrize("count", [30, FEW_RECORDS + 50])
async def test_no_more_than_twenty_faults_are_named(client: httpx.AsyncClient, count: int) -> None:
    for bad in (TWICE_BAD, {**GOOD, "rohwert_1_labormessung": 31}):
        faults = (await client.post("/predict", json=[bad] * count)).json()["error"]["faults"]
        assert len(faults) == 20


async def test_many_records_are_answered_as_each_of_them_alone(client: httpx.AsyncClient) -> None:
    records = list(Laboratory(seed=5).records(FEW_RECORDS + 30))
    together = (await client.post("/predict", json=records)).json()["predictions"]
    for position in (0, 7, FEW_RECORDS + 29):
        alone = (await client.post("/predict", json=records[position])).json()["predictions"]
        assert alone == [together[position]]


async def test_too_much_is_413_and_says_how_to_split(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict", json=[GOOD] * 1201)
    assert answer.status_code == 413
    assert "3 requests of at most 500" in answer.json()["error"]["message"]
    long = await client.post("/predict", content=b" " * 2_000_001)
    assert long.status_code == 413
    said = long.json()["error"]["message"]
    assert "has 2000001 bytes" in said
    assert "in 2 requests or more, each of at most 2000000 bytes and 500 records" in said
    assert "in 4 requests or more" in (await client.post("/predict", content=b" " * 6_500_000)).json()["error"]["message"]
    for path, body in (("/v2/models/champion/infer", {"inputs": []}), ("/invocations", {"instances": [GOOD] * 501})):
        padded = json.dumps(body) + " " * (2_000_001 if "v2" in path else 0)
        refused = await client.post(path, content=padded, headers={"Content-Type": "application/json"})
        assert refused.status_code == 413, refused.text


async def test_unknown_columns_are_ignored_where_that_is_set() -> None:
    limits = Limits(unknown="ignore")
    more = {**GOOD, "colour": "red", "weight": [1]}
    async with rest_server(DATASET, source_of(), limits) as (_, client):
        plain = (await client.post("/predict", json=GOOD)).json()["predictions"]
        for count in (1, FEW_RECORDS + 10):
            answer = await client.post("/predict", json=[more] * count)
            assert answer.json()["predictions"] == plain * count
        bad = await client.post("/predict", json=[{**more, "rohwert_1_labormessung": 31}])
        assert [each["field"] for each in bad.json()["error"]["faults"]] == ["rohwert_1_labormessung"]
        scored = await client.post("/invocations", json={"dataframe_records": [more]})
        assert scored.json()["predictions"] == plain


async def test_a_key_is_needed_by_every_protocol_and_by_no_probe() -> None:
    async with rest_server(DATASET, source_of(), api_key="secret") as (_, client):
        calls: list[tuple[str, str, Any]] = [
            ("POST", "/predict", GOOD),
            ("GET", "/model", None),
            ("GET", "/models", None),
            ("GET", "/v2", None),
            ("GET", "/v2/models/champion", None),
            ("POST", "/v2/models/champion/infer", {}),
            ("POST", "/invocations", {"instances": [GOOD]}),
        ]
        for method, path, body in calls:
            refused = await client.request(method, path, json=body)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"] == "Bearer"
            for headers in ({"X-API-Key": "secret"}, {"Authorization": "Bearer secret"}):
                assert (await client.request(method, path, json=body, headers=headers)).status_code != 401
        wrong = await client.post("/predict", json=GOOD, headers={"X-API-Key": "secre\u0074s"})
        assert wrong.status_code == 401
        for path in ("/livez", "/readyz", "/health/ready", "/v2/health/live", "/v2/health/ready", "/ping", "/login"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/metrics", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 401, path
            assert (await client.get(path, headers={"X-API-Key": "secret"})).status_code == 200, path
        # A probe says that predictions can be made, and the model's name to who may know it.
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        assert "model" in (await client.get("/readyz", headers={"X-API-Key": "secret"})).json()


async def test_a_browser_that_logs_in_reads_the_documentation_and_tries_it() -> None:
    async with rest_server(DATASET, source_of(), api_key="secret") as (_, client):
        led = await client.get("/docs", headers={"accept": "text/html"})
        assert (led.status_code, led.headers["location"]) == (303, "/login?next=/docs")
        assert (await client.post("/login", data={"key": "secret", "next": "/docs"})).headers["location"] == "/docs"
        assert (await client.get("/docs")).status_code == 200
        origin = str(client.base_url).rstrip("/")
        assert (await client.post("/predict", json=GOOD, headers={"Origin": origin})).status_code == 200
        # Another server of this machine is of the same site, so its pages send the cookie along.
        refused = await client.post("/predict", json=GOOD, headers={"Origin": "http://127.0.0.1:1"})
        assert refused.status_code == 403


async def test_what_a_form_can_send_is_not_json() -> None:
    async with rest_server(DATASET, source_of()) as (_, client):
        body = json.dumps(GOOD)
        for path in ("/predict", "/v2/models/champion/infer", "/invocations"):
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"):
                answer = await client.post(path, content=body, headers={"Content-Type": kind})
                assert answer.status_code == 415, (path, kind)
                assert "application/json" in answer.text or "boundary" in answer.text
        assert (await client.post("/predict", content=body)).status_code == 200


async def test_live_stays_true_and_ready_false_until_a_model_is_there() -> None:
    source = ManyModels(DATASET)
    async with rest_server(DATASET, source) as (models, client):
        for path, status in (("/livez", 200), ("/readyz", 503)):
            assert (await client.get(path)).status_code == status
        source.publish("lab-lightgbm", 1.0, champion=True)
        await models.refresh()
        assert (await client.get("/readyz")).json()["model"]["name"] == "lab-lightgbm"


async def test_ready_needs_the_broker_only_where_it_processes_the_records() -> None:
    broker = {"connected": True}
    for needed in (False, True):
        options: dict[str, Any] = {"broker_connected": lambda: broker["connected"], "broker_needed": needed}
        async with rest_server(DATASET, source_of(), **options) as (_, client):
            for connected in (True, False):
                broker["connected"] = connected
                assert (await client.get("/readyz")).status_code == (200 if connected or not needed else 503)
                found = samples((await client.get("/metrics")).text)
                assert sample(found, "serving_broker_connected") == float(connected)
                assert (await client.get("/livez")).status_code == 200


async def test_metrics_count_by_route_model_version_and_status() -> None:
    source = source_of("lab-lightgbm", "lab-pytorch")
    async with rest_server(DATASET, source) as (models, client):
        for _ in range(3):
            await client.post("/predict", json=[GOOD, GOOD])
        await client.post("/predict", json=TWICE_BAD)
        await client.post("/v2/models/lab-pytorch/infer", content=b"{")
        await client.get("/nothing/at/all")
        source.publish("lab-lightgbm", 5.0, champion=True, pipeline_version="000000000000")
        await models.refresh()
        found = samples((await client.get("/metrics")).text)
    route: dict[str, str] = {"route": "/predict"}
    assert sample(found, "serving_requests_total", **route, model="lab-lightgbm", version="1", status="200") == 3
    assert sample(found, "serving_requests_total", **route, model="lab-lightgbm", version="1", status="422") == 1
    infer = {"route": "/v2/models/{name}/infer", "model": "lab-pytorch", "version": "1", "status": "400"}
    assert sample(found, "serving_requests_total", **infer) == 1
    assert sample(found, "serving_requests_total", route="other", model="", version="", status="404") == 1
    assert sample(found, "serving_request_seconds_count", **route) == 4
    assert sample(found, "serving_batch_records_sum", **route) == 6
    assert sample(found, "serving_requests_in_progress") == 1  # the one that asks
    loaded = {"model": "lab-lightgbm", "version": "1", "framework": "lightgbm", "champion": "true"}
    assert sample(found, "serving_model_loaded_timestamp_seconds", **loaded) > 1.7e9
    assert sample(found, "serving_model_refused", model="lab-lightgbm", version="2", code="model_refused") == 1
    assert not any("nothing" in name for name in found)


async def test_models_lists_what_can_be_asked_for_and_why_a_newer_one_is_not_served() -> None:
    source = source_of("lab-lightgbm", "lab-pytorch")
    async with rest_server(DATASET, source) as (models, client):
        assert (await client.get("/v2/models/lab-pytorch/ready")).status_code == 200
        source.publish("lab-lightgbm", 5.0, champion=True, pipeline_version="000000000000")
        await models.refresh()
        status = (await client.get("/models")).json()
        assert [each["name"] for each in status["models"]] == ["lab-lightgbm", "lab-pytorch"]
        assert status["champion"]["model"]["version"] == "1"
        assert status["champion"]["problem"]["version"] == "2"
        assert "000000000000" in status["champion"]["problem"]["reason"]
        [loaded] = status["loaded"]
        assert (loaded["name"], loaded["model"]["version"], loaded["problem"]) == ("lab-pytorch", "1", None)


async def test_a_registry_that_is_away_is_503_for_what_is_not_loaded(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise TrackingUnavailableError("MLflow is away.")

    monkeypatch.setattr(ManyModels, "find", away)
    answer = await client.get("/v2/models/lab-tensorflow")
    assert (answer.status_code, answer.json()) == (503, {"error": "MLflow is away."})
    assert (await client.post("/predict", json=GOOD)).status_code == 200


async def test_every_example_of_the_documentation_works_when_it_is_pasted(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    tried = 0
    for path, methods in paths.items():
        body = methods.get("post", {}).get("requestBody", {}).get("content", {})
        for kind, content in body.items():
            values = [each["value"] for each in content.get("examples", {}).values()]
            values += [content["example"]] if "example" in content else []
            for value in values:
                text = value if isinstance(value, str) else json.dumps(value)
                where = path.replace("{name}", "champion").replace("/versions/{version}", "")
                answer = await client.post(where, content=text, headers={"Content-Type": kind})
                assert answer.status_code == 200, (path, kind, answer.text)
                tried += 1
    assert tried >= 10


async def test_concurrent_requests_for_different_models_get_their_own(client: httpx.AsyncClient) -> None:
    plain = (await client.post("/predict", json=GOOD)).json()["predictions"][0]
    inputs = {
        "inputs": [
            {"name": name, "shape": [1], "datatype": "BYTES" if name == "material_id" else "FP64", "data": [value]}
            for name, value in GOOD.items()
        ]
    }

    async def ask(name: str) -> float:
        return float((await client.post(f"/v2/models/{name}/infer", json=inputs)).json()["outputs"][0]["data"][0])

    answers = await asyncio.gather(*(ask(name) for name in ("lab-lightgbm", "lab-pytorch") * 10))
    assert [round(value - plain, 3) for value in answers] == [0.0, 1.0] * 10
