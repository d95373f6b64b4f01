"""Models of an older pipeline version, asked on a real socket: each answers as its own declaration says, in every protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.errors import ModelRefusedError
from complex_system.pipeline.pipeline import FEW_RECORDS, Pipeline
from complex_system.protocol.serving import ShadowPredictions
from complex_system.serving.engine import PredictionEngine, PredictionResult
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.slot import pipeline_for
from complex_system.serving.models.wandb import WandbDirectorySource
from complex_system.serving.shadow import Shadow
from complex_system.tracking.artifact_store import ArtifactStore
from models import ManyModels, MemorySource, linear_onnx, onnx_metadata, rest_server
from support import eventually

BEFORE = """
name: ovens
target: quality
columns:
  - {name: Temp, type: number, range: [0, 100]}
  - {name: Alloy, type: category, categories: [A, B]}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: scale, column: Temp}
  - {step: one_hot, column: Alloy}
"""
AFTER = """
name: ovens
target: quality
columns:
  - {name: Turns, type: integer, range: [0, 9]}
  - {name: Grade, type: category, categories: ["1", "2"], optional: true}
  - {name: Temp, type: number, range: [0, 200]}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: scale, column: Temp, to: [-1, 1]}
  - {step: scale, column: Turns}
  - {step: one_hot, column: Grade}
"""
OLD, NEW = Dataset.parse(BEFORE), Dataset.parse(AFTER)
RECORD = {"Temp": 25.0, "Alloy": "B"}
"""The old model answers 0.25 + 1 and its bias."""
LATER = {**RECORD, "Turns": 9, "Grade": "2"}
"""The new one answers -0.75 + 1 + 1 and its bias, without the alloy."""


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    source = MemorySource()
    source.publish(OLD, 10.0)
    async with rest_server(NEW, source) as (_, client):
        yield client


@pytest.mark.parametrize("count", [1, FEW_RECORDS + 50])
async def test_a_champion_of_an_older_version_answers_with_its_own_pipeline_in_every_protocol(
    client: httpx.AsyncClient, count: int
) -> None:
    for record in (RECORD, LATER):
        answer = (await client.post("/predict", json=[record] * count)).json()
        assert answer["predictions"] == [11.25] * count
        assert answer["pipeline_version"] == OLD.version
        split = {"columns": list(record), "data": [list(record.values())] * count}
        lines = "\n".join([",".join(record), *[",".join(map(str, record.values()))] * count])
        by_name = {"Alloy_A": [0] * count, "Alloy_B": [1] * count, "Temp": [0.25] * count}
        for reply in (
            await client.post("/invocations", json={"dataframe_split": split}),
            await client.post("/invocations", json={"dataframe_records": [record] * count}),
            await client.post("/invocations", content=lines, headers={"content-type": "text/csv"}),
            await client.post("/invocations", json={"instances": [[0.0, 1.0, 0.25]] * count}),
            await client.post("/invocations", json={"inputs": by_name}),
        ):  # fmt: skip
            assert reply.json() == {"predictions": [11.25] * count}, reply.text
        kinds = {"Temp": "FP64", "Alloy": "BYTES", "Turns": "INT64", "Grade": "BYTES"}
        tensors = [
            {"name": name, "shape": [count], "datatype": kinds[name], "data": [value] * count}
            for name, value in record.items()
        ]
        features = {"name": "features", "shape": [count, 3], "datatype": "FP32", "data": [0.0, 1.0, 0.25] * count}
        for inputs in (tensors, [features]):
            reply = await client.post("/v2/models/champion/infer", json={"inputs": inputs})
            assert reply.json()["outputs"][0]["data"] == [11.25] * count
            assert reply.json()["parameters"]["pipeline_version"] == OLD.version
    described = (await client.get("/v2/models/champion")).json()
    assert [each["name"] for each in described["inputs"]] == ["Temp", "Alloy"]


async def test_its_declaration_judges_and_names_the_faults(client: httpx.AsyncClient) -> None:
    wrong = [{"Temp": 150, "Alloy": "C", "Turns": 1.5}, {"Temp": 1, "colour": 1}]
    answer = await client.post("/predict", json=wrong)
    faults = {(each["record"], each["field"]): each["problem"] for each in answer.json()["error"]["faults"]}
    assert faults == {
        (0, "Turns"): "must be a whole number up to 9007199254740992, not 1.5",
        (0, "Temp"): "150.0 is outside of [0, 100]",
        (0, "Alloy"): "'C' is not one of A, B",
        (1, "Alloy"): "is missing",
        (1, "colour"): "is not a declared field; leave it out, or set COMPLEX_SYSTEM_SERVING_UNKNOWN_COLUMNS=ignore for the "
        "serving service",
    }


async def test_the_documentation_follows_the_model_that_answers() -> None:
    source = MemorySource()
    source.publish(OLD, 10.0)
    async with rest_server(NEW, source) as (models, client):

        async def examples() -> tuple[Any, ...]:
            document = (await client.get("/openapi.json")).json()

            def body(path: str) -> Any:
                content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
                return {name: each["value"] for name, each in content.items()}

            sent = [
                ("/predict", body("/predict")["records"]),
                ("/invocations", body("/invocations")["dataframe_split"]),
                ("/v2/models/champion/infer", body("/v2/models/{name}/infer")["columns"]),
                ("/v2/models/champion/infer", body("/v2/models/{name}/infer")["features"]),
            ]
            for path, content in sent:
                reply = await client.post(path, json=content)
                assert reply.status_code == 200, (path, reply.text)
            columns = list(document["components"]["schemas"]["RawRecord"]["properties"])
            return columns, "declaration of the data set has changed" in document["info"].get("description", "")

        assert await examples() == ([ID, *OLD.raw_names], True)
        source.publish(NEW, 20.0)
        await models.refresh()
        assert await examples() == ([ID, *NEW.raw_names], False)


async def test_a_request_that_is_still_arriving_is_answered_by_the_model_that_it_was_read_for() -> None:
    source = MemorySource()
    source.publish(OLD, 10.0)
    async with rest_server(NEW, source) as (models, client):
        body = json.dumps([RECORD]).encode()
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:10]
            begun.set()
            await go_on.wait()
            yield body[10:]

        asking = asyncio.create_task(client.post("/predict", content=slowly()))
        await begun.wait()
        await eventually(lambda: _in_progress(client, 2))
        source.publish(NEW, 20.0)
        assert await models.refresh()
        go_on.set()
        answer = (await asking).json()
        assert (answer["pipeline_version"], answer["predictions"]) == (OLD.version, [11.25])
        answer = (await client.post("/predict", json=[{"Temp": 25.0, "Turns": 9, "Grade": "2"}])).json()
        assert (answer["pipeline_version"], answer["predictions"]) == (NEW.version, [21.25])


async def test_what_the_champion_of_a_moment_ago_answers_is_told_of_too() -> None:
    source = MemorySource()
    source.publish(OLD, 10.0)
    models = ModelManager(source, Pipeline(NEW))
    await models.refresh()
    told: list[PredictionResult] = []
    engine = PredictionEngine(models, predicted=told.append)
    before = models.champion.require()
    batch = engine.reader_for(before).records([RECORD])
    source.publish(NEW, 20.0)
    await models.refresh()
    await engine.predict_batch(batch, predictor=before, live=True)
    await engine.predict_batch(batch, predictor=before)  # asked for by its name, it is no champion now
    assert [result.model.pipeline_version for result in told] == [OLD.version]


async def _in_progress(client: httpx.AsyncClient, count: int) -> bool:
    """Whether so many requests are under way; this one is one of them."""
    lines = (await client.get("/metrics")).text.splitlines()
    return any("in_progress" in line and line.endswith(f" {count}.0") for line in lines)


async def test_models_of_several_versions_are_asked_for_by_name() -> None:
    source = ManyModels(NEW)
    source.publish("ovens-lightgbm", 20.0, champion=True)
    source.dataset = OLD
    source.publish("ovens-pytorch", 10.0)
    tensors = [
        {"name": "Temp", "shape": [1], "datatype": "FP64", "data": [25]},
        {"name": "Alloy", "shape": [1], "datatype": "BYTES", "data": ["B"]},
    ]
    async with rest_server(NEW, source) as (_, client):
        reply = await client.post("/v2/models/ovens-pytorch/infer", json={"inputs": tensors})
        assert reply.json()["outputs"][0]["data"] == [11.25]
        reply = await client.post("/v2/models/ovens-lightgbm/infer", json={"inputs": tensors})
        assert "'Alloy'" in reply.json()["error"]
        assert (await client.post("/predict", json=[{**LATER, "Alloy": "B"}])).status_code == 422


async def test_a_challenger_of_another_version_makes_its_own_features() -> None:
    source = ManyModels(OLD)
    source.publish("ovens-lightgbm", 10.0, champion=True)
    source.dataset = NEW
    source.publish("ovens-pytorch", 20.0)
    models = ModelManager(source, Pipeline(NEW))
    await models.refresh()
    engine = PredictionEngine(models)
    seen: list[list[ShadowPredictions]] = []
    shadow = Shadow(models, 1.0, (), lambda result, shadows: seen.append(shadows))
    task = asyncio.create_task(shadow.run())
    result: PredictionResult = await engine.predict([LATER])
    assert result.predictions == [11.25]
    assert shadow.accept(result)
    await eventually(lambda: seen)
    assert [(each.model, each.predictions, each.error) for each in seen[0]] == [("ovens-pytorch", (21.25,), "")]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_arrow_pages_are_predicted_by_an_older_model_too() -> None:
    source = MemorySource()
    source.publish(OLD, 10.0)
    models = ModelManager(source, Pipeline(NEW))
    await models.refresh()
    result = await PredictionEngine(models).predict_table(pa.Table.from_pylist([LATER, LATER]))
    assert (result.predictions, result.model.pipeline_version) == ([11.25, 11.25], OLD.version)


async def test_an_artifact_of_an_older_version_is_served_from_the_directory(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    onnx_model = linear_onnx(OLD, 10.0)
    store.write({"model.onnx": onnx_model}, onnx_metadata(OLD, onnx_model, "DemonstratorNeuralNet", "pytorch-wandb"))
    models = ModelManager(WandbDirectorySource(store), Pipeline(NEW))
    assert await models.refresh()
    assert (await PredictionEngine(models).predict([RECORD])).predictions == [11.25]


async def test_where_data_processing_makes_the_features_an_older_model_is_refused() -> None:
    source = MemorySource()
    source.publish(OLD, 10.0)
    models = ModelManager(source, Pipeline(NEW), only_present=True)
    assert not await models.refresh()
    assert "COMPLEX_SYSTEM_SERVING_PIPELINE=broker" in models.champion.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"declaration": None}, "brings no declaration"),
        ({"declaration": {"name": "ovens"}}, "not readable here: field required"),
        ({"declaration": "text"}, "not readable here"),
        ({"declaration": Dataset.parse(AFTER.replace("200", "300")).as_content()}, "is of version"),
        ({"pipeline_version": "000000000000"}, "is of version"),
    ],
)
def test_a_model_without_a_usable_declaration_is_refused(changes: dict[str, Any], reason: str) -> None:
    metadata = onnx_metadata(OLD, linear_onnx(OLD), "ovens-lightgbm") | changes
    with pytest.raises(ModelRefusedError, match=rf"was trained for pipeline version .* {reason}"):
        pipeline_for("ovens-lightgbm version 1", metadata, Pipeline(NEW))


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (BEFORE.replace("name: ovens", "name: presses"), "is for the data set 'presses' and not for 'ovens'"),
        (BEFORE.replace("quality", "hardness"), "predicts 'hardness' and not 'quality'"),
    ],
)
def test_a_model_for_something_else_is_refused(declared: str, reason: str) -> None:
    other = Dataset.parse(declared)
    with pytest.raises(ModelRefusedError, match=reason):
        pipeline_for("it", onnx_metadata(other, linear_onnx(other), "it"), Pipeline(NEW))
