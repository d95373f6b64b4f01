"""Settings for a value or an extreme: over REST and NATS, with a real search on real models."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import raw_schema
from complex_system.serving.suggest import suggester as suggester_module
from complex_system.tracking.model_files import SAMPLE_FILE, encode_sample
from models import MemorySource, rest_server
from trainings import quick_model, quick_sample

R1, R2, R3 = (f"rohwert_{i}_labormessung" for i in (1, 2, 3))
FIXED = {"material_id": "00000000", "laborant": "TK"}
ASKED: dict[str, Any] = {"goal": "maximum", "free": [R1, R2], "record": {**FIXED, R3: 1.0}}


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A server of a LightGBM model of the lab."""
    dataset, source = Dataset.load(), MemorySource()
    source.files = {SAMPLE_FILE: quick_sample()}
    source.publish(dataset, 0.0, (await asyncio.to_thread(quick_model, "lightgbm"))[1])
    async with rest_server(dataset, source) as (_, client):
        yield client


async def found(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post("/suggest", json=ASKED | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def test_an_extreme_is_that_of_a_grid_and_the_answer_is_what_predict_says(client: httpx.AsyncClient) -> None:
    values = [i * 1.5 for i in range(21)]
    grid = [{**FIXED, R1: r1, R2: r2, R3: 1.0} for r1, r2 in itertools.product(values, values)]
    predictions = (await client.post("/predict", json=grid)).json()["predictions"]
    for goal, best in (("maximum", max(predictions)), ("minimum", min(predictions))):
        answer = await found(client, goal=goal, count=1)
        [one] = answer["suggestions"]
        spread = max(predictions) - min(predictions)
        assert abs(one["prediction"] - best) < 0.02 * spread
        again = (await client.post("/predict", json=one["record"])).json()
        assert again["predictions"] == pytest.approx([one["prediction"]], abs=1e-6 * spread)
        assert answer["complete"]
        assert answer["target"] == "aufbereiteter_wert"


async def test_a_value_is_reached_in_several_ways_within_the_bounds(client: httpx.AsyncClient) -> None:
    within = {R1: [6, 24], "material_id": ["11111111", "33333333"]}
    inside = {"material_id": "33333333", "laborant": "TK", R1: 15.0, R2: 15.0, R3: 1.0}
    [value] = (await client.post("/predict", json=inside)).json()["predictions"]
    answer = await found(client, goal="value", value=value, free=[R1, R2, "material_id"], within=within, count=4)
    assert len(answer["suggestions"]) == 4
    assert answer["suggestions"][0]["reached"]
    for one in answer["suggestions"]:
        assert abs(one["prediction"] - value) < (1.0 if one["reached"] else 5.0)
        assert one["distance"] <= 1.0
        record = one["record"]
        assert record["laborant"] == "TK"
        assert record[R3] == 1.0
        assert 6 <= record[R1] <= 24
        assert 0 <= record[R2] <= 30
        assert record["material_id"] in within["material_id"]
    for one, other in itertools.combinations([each["record"] for each in answer["suggestions"]], 2):
        apart = (one["material_id"] != other["material_id"], abs(one[R1] - other[R1]) >= 1.8, abs(one[R2] - other[R2]) >= 3)
        assert any(apart)


async def test_a_value_that_no_setting_reaches_is_not_said_to_be_reached(client: httpx.AsyncClient) -> None:
    highest = (await found(client, count=1))["suggestions"][0]["prediction"]
    answer = await found(client, goal="value", value=10_000.0, count=1)
    assert [each["reached"] for each in answer["suggestions"]] == [False]
    assert answer["suggestions"][0]["prediction"] == pytest.approx(highest, rel=0.02)
    assert len((await found(client, goal="value", value=-1e300, count=2))["suggestions"]) == 2


async def test_the_same_seed_finds_the_same_and_another_one_as_good_ones(client: httpx.AsyncClient) -> None:
    first, again, other = [(await found(client, seed=seed))["suggestions"] for seed in (7, 7, 8)]
    assert first == again
    assert other != first
    assert other[0]["prediction"] == pytest.approx(first[0]["prediction"], rel=0.02)


async def test_what_is_known_is_preferred() -> None:
    """A linear model grows into a corner that no known record is near to."""
    dataset = Dataset.parse(
        """
name: plant
target: quality
columns:
  - {name: temp, type: number, range: [0, 100]}
  - {name: speed, type: integer, range: [0, 60]}
  - {name: hot, type: boolean}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: standardise, column: temp, mean: 0, deviation: 10}
  - {step: standardise, column: speed, mean: 0, deviation: 5}
  - {step: scale, column: hot, to: [0, 1]}
"""
    )
    source = MemorySource()
    records = [{"temp": 20.0 + i % 20, "speed": 10 + i % 11, "hot": i % 2 == 0} for i in range(220)]
    source.files = {SAMPLE_FILE: encode_sample(dataset, pa.Table.from_pylist(records, raw_schema(dataset)))}
    source.publish(dataset, 0.0)
    asked = {"goal": "maximum", "free": ["temp", "speed", "hot"], "record": {}, "count": 1}
    async with rest_server(dataset, source) as (_, client):
        [one] = (await found(client, **asked))["suggestions"]
        assert one["record"]["temp"] < 60  # 100 is the largest that the model may be asked for
        assert 15 < one["record"]["speed"] < 40
        assert one["record"]["hot"] is True
        assert type(one["record"]["speed"]) is int
        within = asked | {"within": {"temp": [90, 100]}}
        [far] = (await found(client, **within))["suggestions"]
        assert far["record"]["temp"] >= 90
        assert far["distance"] > 1 >= one["distance"] / 2


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown column": ({"free": ["colour"]}, 400, "'colour' is not declared"),
    "the target": ({"free": ["aufbereiteter_wert"]}, 400, "is what is predicted"),
    "a time": ({"free": ["datum"]}, 400, "is a datetime, which is not searched"),
    "nothing free": ({"free": []}, 400, "length >= 1"),
    "twice": ({"free": [R1, R1]}, 400, "more than once"),
    "empty range": ({"within": {R1: [7, 7]}}, 400, "is empty"),
    "reversed range": ({"within": {R1: [9, 7]}}, 400, "smallest first"),
    "range too narrow": ({"within": {R1: [0, 5e-324]}}, 400, "cannot be searched"),
    "range of one": ({"within": {R1: [9]}}, 400, "[smallest, largest]"),
    "range of texts": ({"within": {R1: ["a", "b"]}}, 400, "two finite numbers"),
    "range too wide": ({"within": {R1: [-1, 30]}}, 400, "within its declared range [0, 30]"),
    "unknown category": ({"free": ["laborant"], "within": {"laborant": ["X"]}}, 400, "'X', which is not one of"),
    "no category": ({"free": ["laborant"], "within": {"laborant": []}}, 400, "nothing to choose from"),
    "within of a fixed one": ({"within": {"laborant": ["TK"]}}, 400, "is not free"),
    "value without number": ({"goal": "value"}, 400, "'value' is a finite number"),
    "number without value": ({"value": 7}, 400, "'value' is a finite number"),
    "unknown goal": ({"goal": "best"}, 400, "field 'goal'"),
    "unknown field": ({"witihn": {}}, 400, "'witihn' is not known"),
    "too many": ({"count": 1000}, 400, "field 'count'"),
    "too long": ({"seconds": 1000}, 400, "field 'seconds'"),
    "bad record": ({"record": {"material_id": "44444444"}}, 422, "44444444"),
    "fixed out of range": ({"record": {**FIXED, R3: 99.0}}, 422, "[0, 2]"),
    "record with a typo": ({"record": {**FIXED, "rohwert": 1}}, 422, "rohwert"),
    "a required column left out": ({"record": {}}, 422, "material_id"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_bad_requests_are_named(name: str, client: httpx.AsyncClient) -> None:
    changes, status, words = REFUSED[name]
    answer = await client.post("/suggest", json=ASKED | changes)
    assert (answer.status_code, words in answer.text.replace('\\"', '"')) == (status, True), answer.text
    assert answer.json()["error"]["code"] == {400: "invalid_request", 422: "invalid_record"}[status]


async def test_what_is_not_json_is_refused(client: httpx.AsyncClient) -> None:
    for body in (b"", b"[]", b"null", b"{", b'{"goal": NaN}'):
        assert (await client.post("/suggest", content=body)).status_code == 400
    assert (await client.post("/suggest", content=b"{}", headers={"Content-Type": "text/plain"})).status_code == 415
    assert (await client.post("/suggest", json=ASKED | {"within": {R1: [0] * 200_000}})).status_code == 413


async def test_a_model_without_a_sample_says_so_and_nothing_counts_as_a_failed_prediction(dataset: Dataset) -> None:
    source = MemorySource()
    async with rest_server(dataset, source, api_key="plant-7") as (models, client):
        client.headers["X-API-Key"] = "plant-7"
        assert (await client.post("/suggest", json=ASKED)).json()["error"]["code"] == "no_model"
        source.publish(dataset, 1.0)
        await models.refresh()
        answer = await client.post("/suggest", json=ASKED)
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "unsupported_by_model"
        assert "trained before" in answer.json()["error"]["message"]
        assert (await client.post("/suggest", json=ASKED, headers={"X-API-Key": "wrong"})).status_code == 401


async def test_one_search_runs_and_predictions_go_on_meanwhile(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, held = threading.Event(), threading.Event()
    search = suggester_module.find

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        held.wait(60)
        return search(*arguments, **options)

    monkeypatch.setattr(suggester_module, "find", slow)
    first = asyncio.create_task(found(client, count=1))
    try:
        assert await asyncio.to_thread(begun.wait, 60)
        answer = await client.post("/suggest", json=ASKED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        assert (await client.post("/predict", json={**FIXED, R1: 1.0})).status_code == 200
    finally:
        held.set()
    assert (await first)["suggestions"]
    assert (await found(client, count=1))["suggestions"]


async def test_a_search_ends_in_time_with_what_it_has(client: httpx.AsyncClient) -> None:
    answer = await found(client, free=[R1, R2, R3, "material_id", "laborant"], seconds=0.001, count=5)
    assert not answer["complete"]
    assert len(answer["suggestions"]) == 1
