"""Models by name, version and alias: loaded on first use, few at a time, swapped as the champion is."""

from __future__ import annotations

import asyncio

import onnx
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import ModelRefusedError, TrackingUnavailableError, UnknownModelError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models import manager as manager_module
from complex_system.serving.models.manager import ModelManager
from models import ManyModels, linear_onnx, onnx_metadata

A, B, C = "lab-lightgbm", "lab-pytorch", "lab-tensorflow"


@pytest.fixture
def source(dataset: Dataset) -> ManyModels:
    source = ManyModels(dataset)
    source.publish(A, 1.0)
    source.publish(A, 2.0, champion=True)
    source.publish(B, 3.0)
    source.publish(C, 4.0)
    return source


@pytest.fixture
async def models(source: ManyModels, dataset: Dataset) -> ModelManager:
    models = ModelManager(source, Pipeline(dataset), kept=2)
    await models.refresh()
    return models


async def test_the_champion_is_served_where_no_model_is_named(models: ModelManager) -> None:
    assert (await models.predictor()).info.label == f"{A} v2"
    assert (await models.predictor("champion")).info.label == f"{A} v2"


async def test_a_model_is_loaded_on_first_use_and_once(models: ModelManager, source: ManyModels) -> None:
    assert source.loads == [(A, "2")]
    found = await asyncio.gather(*(models.predictor(B) for _ in range(5)))
    assert {id(each) for each in found} == {id(found[0])}
    assert source.loads == [(A, "2"), (B, "1")]
    assert (await models.predictor(A, "1")).info.version == "1"


async def test_the_same_version_under_several_names_is_loaded_once(models: ModelManager, source: ManyModels) -> None:
    champion = await models.predictor()
    assert await models.predictor(A) is champion
    assert await models.predictor(A, "champion") is champion
    assert source.loads == [(A, "2")]


async def test_the_one_that_was_not_used_for_longest_is_dropped_and_the_champion_never(
    models: ModelManager, source: ManyModels
) -> None:
    await models.predictor(B)
    await models.predictor(C)
    await models.predictor(B)
    await models.predictor(A, "1")  # drops C
    await models.predictor(B)
    assert source.loads.count((B, "1")) == 1
    await models.predictor(C)
    assert source.loads.count((C, "1")) == 2
    assert len(models.slots()) == 3
    assert source.loads.count((A, "2")) == 1


async def test_a_name_follows_its_newest_version_and_a_version_stays(models: ModelManager, source: ManyModels) -> None:
    await models.predictor(B)
    await models.predictor(B, "1")
    source.publish(B, 30.0)
    await models.refresh()
    assert (await models.predictor(B)).info.version == "2"
    assert (await models.predictor(B, "1")).info.version == "1"


async def test_an_alias_is_followed_and_followed_back(models: ModelManager, source: ManyModels) -> None:
    for version in ("1", "2", "1"):
        source.crown(A, version)
        await models.predictor(A, "champion")
        await models.refresh()
        assert (await models.predictor()).info.version == version
        assert (await models.predictor(A, "champion")).info.version == version


async def test_a_newer_version_that_is_refused_leaves_the_old_one_and_says_so(
    models: ModelManager, source: ManyModels
) -> None:
    await models.predictor(B)
    source.publish(B, 30.0, pipeline_version="000000000000")
    await models.refresh()
    assert (await models.predictor(B)).info.version == "1"
    [loaded] = [each for each in (await models.status()).loaded if each.name == B]
    assert loaded.problem is not None
    assert loaded.problem.version == "2"
    assert "000000000000" in loaded.problem.reason


async def test_a_model_that_must_not_be_served_is_refused_and_not_loaded_for_every_request(
    models: ModelManager, source: ManyModels
) -> None:
    source.publish("lab-bad", 1.0, pipeline_version="000000000000")
    for _ in range(3):
        with pytest.raises(ModelRefusedError, match="000000000000"):
            await models.predictor("lab-bad")
    assert source.loads.count(("lab-bad", "1")) == 1


async def test_a_name_or_alias_that_was_refused_follows_its_repair(models: ModelManager, source: ManyModels) -> None:
    source.publish("lab-bad", 1.0, pipeline_version="000000000000")
    source.aliases["lab-bad"] = {"best": "1"}
    for version in (None, "best"):
        with pytest.raises(ModelRefusedError, match="000000000000"):
            await models.predictor("lab-bad", version)
    await models.refresh()
    assert source.loads.count(("lab-bad", "1")) == 2  # one first use each; looking again did not load it
    source.publish("lab-bad", 2.0)
    source.aliases["lab-bad"] = {"best": "2"}
    await models.refresh()
    assert (await models.predictor("lab-bad")).info.version == "2"
    assert (await models.predictor("lab-bad", "best")).info.version == "2"
    with pytest.raises(ModelRefusedError):
        await models.predictor("lab-bad", "1")


async def test_the_versions_that_can_be_asked_for_are_known(models: ModelManager, source: ManyModels) -> None:
    assert await models.versions(A) == ["1", "2"]
    assert await models.versions("champion") == ["2"]
    assert await models.versions("nobody") == []
    assert await models.predictor("champion", "2") is await models.predictor()
    with pytest.raises(UnknownModelError):
        await models.predictor("champion", "1")


async def test_what_a_foreign_error_says_stays_in_the_log(
    models: ModelManager, source: ManyModels, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    onnx_model = onnx.load_from_string(linear_onnx(dataset))
    onnx_model.ir_version = 99
    broken = onnx_model.SerializeToString()
    source.versions_of["lab-broken"] = [(broken, onnx_metadata(dataset, broken, "lab-broken"), {})]
    with pytest.raises(ModelRefusedError) as caught:
        await models.predictor("lab-broken")
    assert caught.value.message == "lab-broken version 1 cannot be read as ONNX (Fail); the log says more."
    assert "ir_version" in caplog.text.lower() or "IR version" in caplog.text


async def test_an_unknown_name_is_looked_for_once_in_a_while(
    models: ModelManager, source: ManyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        with pytest.raises(UnknownModelError):
            await models.predictor("nobody")
    assert source.looks == 1
    monkeypatch.setattr(manager_module, "LISTED_SECONDS", 0.0)
    source.publish("nobody", 1.0)
    models._unknown.clear()
    assert (await models.predictor("nobody")).info.name == "nobody"


async def test_many_unknown_names_are_not_all_remembered(models: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "MAX_UNKNOWN", 10)
    for number in range(35):
        with pytest.raises(UnknownModelError):
            await models.predictor(f"nobody-{number}")
    assert len(models._unknown) <= 10
    assert len(models.slots()) == 1


async def test_the_source_being_away_costs_what_is_not_loaded_and_nothing_else(
    models: ModelManager, source: ManyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    await models.predictor(B)

    def away(*_: object) -> None:
        raise TrackingUnavailableError("MLflow is away.")

    for method in ("find", "newest", "listed"):
        monkeypatch.setattr(source, method, away)
    with pytest.raises(TrackingUnavailableError):
        await models.refresh()
    with pytest.raises(TrackingUnavailableError):
        await models.predictor(C)
    assert (await models.predictor(B)).info.version == "1"
    assert (await models.predictor()).info.version == "2"
    assert (await models.status()).source_problem == "MLflow is away."
    monkeypatch.undo()
    assert (await models.predictor(C)).info.version == "1"


async def test_the_status_lists_all_models_and_what_is_loaded(models: ModelManager) -> None:
    await models.predictor(B)
    status = await models.status()
    assert {each.name: each.newest for each in status.models} == {A: "2", B: "1", C: "1"}
    assert status.models[0].aliases == {"champion": "2"}
    assert [each.loaded for each in status.models] == [["2"], ["1"], []]
    assert status.champion.model is not None
    assert status.champion.model.version == "2"
