"""Loading, refusing and swapping models, and what a prediction costs the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import (
    InternalError,
    InvalidRecordError,
    ModelRefusedError,
    NoModelError,
    TrackingUnavailableError,
)
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.engine import CHUNK_RECORDS, PredictionEngine, PredictionResult, RemotePipeline
from complex_system.serving.models import runtimes
from complex_system.serving.models import slot as slot_module
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.models.slot import ModelProblem, ModelSlot
from complex_system.serving.requests.examples import example_record
from complex_system.training import onnx as training_onnx
from complex_system.training.onnx import ONNX_INPUT, ONNX_OUTPUT, run_onnx
from models import MemorySource, linear_onnx, onnx_metadata


@pytest.fixture
def pipeline(dataset: Dataset) -> Pipeline:
    return Pipeline(dataset)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


@pytest.fixture
def models(source: MemorySource, pipeline: Pipeline) -> ModelManager:
    return ModelManager(source, pipeline)


@pytest.fixture
def slot(models: ModelManager) -> ModelSlot:
    return models.champion


def problem_of(slot: ModelSlot) -> ModelProblem:
    problem = slot.status.problem
    assert problem is not None
    return problem


def load(pipeline: Pipeline, onnx_model: bytes | None = None, **changes: Any) -> Predictor:
    onnx_model = linear_onnx(pipeline.dataset, 1.0) if onnx_model is None else onnx_model
    metadata = onnx_metadata(pipeline.dataset, onnx_model, "lab-lightgbm") | changes
    return Predictor(pipeline, "lab-lightgbm", "1", onnx_model, metadata)


def test_a_prediction_is_the_onnx_model_after_the_pipeline(pipeline: Pipeline, laboratory: Laboratory) -> None:
    predictor = load(pipeline)
    records = list(laboratory.records(40))
    expected = 1.0 + pipeline.features(records).sum(axis=1)
    assert predictor.predict(records) == pytest.approx(expected.tolist(), rel=1e-6)
    assert predictor.predict([]) == []
    assert predictor.info.label == "lab-lightgbm v1"
    assert predictor.info.pipeline_version == pipeline.dataset.version


def test_the_target_and_the_key_of_a_record_do_not_matter(pipeline: Pipeline, laboratory: Laboratory) -> None:
    predictor = load(pipeline)
    record = laboratory.complete_record()
    bare = {name: value for name, value in record.items() if name not in ("_id", pipeline.dataset.target)}
    assert predictor.predict([record, bare, {**record, pipeline.dataset.target: 1e9}]) == predictor.predict([bare]) * 3


@pytest.mark.parametrize("position", range(4))
def test_the_example_of_the_documentation_can_be_predicted(pipeline: Pipeline, position: int) -> None:
    assert len(load(pipeline).predict([example_record(pipeline.dataset, position)])) == 1


def test_a_bad_record_is_named(pipeline: Pipeline, laboratory: Laboratory) -> None:
    records = [laboratory.complete_record(), {**laboratory.complete_record(), "rohwert_2_labormessung": "much"}]
    with pytest.raises(InvalidRecordError, match=r"Record 1 .*rohwert_2_labormessung"):
        load(pipeline).predict(records)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pipeline_version": "000000000000"}, "pipeline version 000000000000"),
        ({"pipeline_version": None}, "pipeline version None"),
        ({"feature_names": []}, "other features"),
        ({"feature_names": ["b", "a"]}, "other features"),
        ({"sha256": "00"}, "damaged"),
        ({"sha256": None}, "damaged"),
        ({"target": "another"}, "predicts 'another'"),
    ],
)
def test_a_model_that_does_not_belong_here_is_refused(pipeline: Pipeline, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelRefusedError, match=reason):
        load(pipeline, **changes)


def test_features_in_another_order_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ModelRefusedError, match="another order"):
        load(pipeline, feature_names=list(reversed(pipeline.dataset.feature_names)))


def test_an_onnx_model_that_cannot_run_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ModelRefusedError, match="cannot be read as ONNX"):
        load(pipeline, b"this is no protobuf")
    with pytest.raises(ModelRefusedError, match="takes 3 features"):
        load(pipeline, linear_onnx(pipeline.dataset, width=3))
    with pytest.raises(ModelRefusedError, match="first prediction"):
        load(pipeline, linear_onnx(pipeline.dataset, bias=float("nan")))


def test_a_prediction_that_is_no_number_is_a_fault_and_no_answer(pipeline: Pipeline) -> None:
    features = np.full((1, len(pipeline.dataset.feature_names)), 3e38, dtype=np.float32)
    with pytest.raises(InternalError, match="finite"):
        load(pipeline).predict_features(features)


def test_many_rows_are_predicted_in_parts(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(1).random((10, len(pipeline.dataset.feature_names))).astype(np.float32)
    onnx_model, predictor = linear_onnx(pipeline.dataset), load(pipeline)
    whole, [trained] = predictor.predict_features(features), run_onnx(onnx_model, [features])
    for module in (runtimes, training_onnx):
        monkeypatch.setattr(module, "AT_ONCE", 4)
    assert predictor.predict_features(features) == pytest.approx(whole, rel=1e-6)
    [parts] = run_onnx(onnx_model, [features])
    assert parts.shape == (10, 1)
    np.testing.assert_allclose(parts, trained, rtol=1e-6)


async def test_without_a_model_a_prediction_says_what_to_do(models: ModelManager) -> None:
    assert not await models.refresh()
    with pytest.raises(NoModelError, match=r"no model yet.*training round"):
        await PredictionEngine(models).predict([{}])


async def test_a_newer_model_is_swapped_in_once(slot: ModelSlot, source: MemorySource, dataset: Dataset) -> None:
    source.publish(dataset, 1.0)
    assert await slot.refresh()
    assert not await slot.refresh()
    source.publish(dataset, 2.0)
    assert await slot.refresh()
    assert source.loads == 2
    assert slot.require().info.version == "2"


async def test_refreshes_at_the_same_time_load_a_model_once(slot: ModelSlot, source: MemorySource, dataset: Dataset) -> None:
    source.publish(dataset, 1.0)
    assert sorted(await asyncio.gather(*(slot.refresh() for _ in range(5)))) == [False] * 4 + [True]
    assert source.loads == 1


async def test_a_refused_model_leaves_the_old_one_and_is_not_tried_in_a_tight_loop(
    slot: ModelSlot, source: MemorySource, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.publish(dataset, 1.0)
    await slot.refresh()
    source.publish(dataset, 2.0, pipeline_version="000000000000")
    for _ in range(5):
        assert not await slot.refresh()
    assert source.loads == 2
    assert slot.require().info.version == "1"
    problem = problem_of(slot)
    assert problem.version == "2"
    assert problem.code == "model_refused"
    assert "000000000000" in problem.reason

    now = slot_module.time.monotonic()
    monkeypatch.setattr(slot_module.time, "monotonic", lambda: now + slot_module.RETRY_FIRST + 1)
    await slot.refresh()
    assert source.loads == 3  # tried again after the pause
    assert problem_of(slot).attempts == 2

    source.publish(dataset, 3.0)
    assert await slot.refresh()  # a newer version is taken at once
    assert slot.status.problem is None


async def test_a_foreign_error_while_loading_is_a_refusal_without_its_text(
    slot: ModelSlot, source: MemorySource, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.publish(dataset, 1.0)

    def fail(_: Any) -> Any:
        raise OSError("/secret/path is gone")

    monkeypatch.setattr(source, "load", fail)
    assert not await slot.refresh()
    assert "OSError" in problem_of(slot).reason
    assert "secret" not in str(slot.status)


async def test_a_source_that_is_away_keeps_the_model_and_is_noted(
    slot: ModelSlot, source: MemorySource, dataset: Dataset
) -> None:
    source.publish(dataset, 1.0)
    await slot.refresh()
    source.failure = TrackingUnavailableError("MLflow is away.")
    with pytest.raises(TrackingUnavailableError):
        await slot.refresh()
    assert slot.require().info.version == "1"
    assert slot.status.source_problem == "MLflow is away."
    source.failure = None
    await slot.refresh()
    assert slot.status.source_problem is None


async def test_a_long_batch_does_not_hold_up_the_loop(models: ModelManager, source: MemorySource, dataset: Dataset) -> None:
    source.publish(dataset, 1.0)
    await models.refresh()
    engine = PredictionEngine(models)
    record = Laboratory(seed=3).complete_record()
    long = asyncio.create_task(engine.predict([record] * 20_000))
    await asyncio.sleep(0)
    assert (await engine.predict([record])).predictions
    assert not long.done()
    assert len((await long).predictions) == 20_000


async def test_processing_elsewhere_gives_the_same_and_names_the_same_record(
    models: ModelManager, source: MemorySource, dataset: Dataset, laboratory: Laboratory
) -> None:
    source.publish(dataset, 1.0)
    await models.refresh()
    sizes: list[int] = []

    async def process(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        sizes.append(len(records))
        return models.pipeline.process(records).to_dicts()

    made: list[PredictionResult] = []
    remote = PredictionEngine(models, RemotePipeline(dataset, process), made.append)
    records = list(laboratory.records(CHUNK_RECORDS + 10))
    local = await PredictionEngine(models).predict(records)
    assert (await remote.predict(records)).predictions == pytest.approx(local.predictions)
    assert sizes == [CHUNK_RECORDS, 10]
    assert made[0].batch.head(2) == records[:2]

    records[CHUNK_RECORDS + 3]["material_id"] = "unknown"
    with pytest.raises(InvalidRecordError) as caught:
        await remote.predict(records)
    assert caught.value.faults[0]["record"] == CHUNK_RECORDS + 3


# A model that never ends


def endless_onnx(dataset: Dataset, wanted: float | None) -> bytes:
    """A model that answers the sum of the features, and loops without end where it is ``wanted``; always where that is None."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["still"]),
            helper.make_node("Identity", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["n", 1]),
        ],
    )
    condition = [] if wanted is None else [
        helper.make_node("Less", ["sum", "limit"], ["below"]),
        helper.make_node("Cast", ["below"], ["number"], to=TensorProto.INT32),
        helper.make_node("ReduceMin", ["number"], ["all_below"], keepdims=0),
        helper.make_node("Equal", ["all_below", "zero"], ["begins"]),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(np.array([1], np.int64), "axes"),
        numpy_helper.from_array(np.array([wanted or 0.0], np.float32), "limit"),
        numpy_helper.from_array(np.array(0, np.int32), "zero"),
        numpy_helper.from_array(np.array(True), "always"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", [ONNX_INPUT, "axes"], ["sum"], keepdims=1),
            *condition,
            helper.make_node("Loop", ["", "always" if wanted is None else "begins", "sum"], [ONNX_OUTPUT], body=body),
        ],
        "endless",
        [helper.make_tensor_value_info(ONNX_INPUT, TensorProto.FLOAT, ["n", len(dataset.feature_names)])],
        [helper.make_tensor_value_info(ONNX_OUTPUT, TensorProto.FLOAT, ["n", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    encoded: bytes = model.SerializeToString()
    return encoded


def test_a_model_that_loops_without_end_is_refused(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "RUN_SECONDS", 0.3)
    with pytest.raises(ModelRefusedError, match=r"within 0\.3\d* s and was stopped"):
        load(pipeline, endless_onnx(pipeline.dataset, None))
    assert load(pipeline).predict([]) == []


async def test_a_model_that_loops_for_some_records_holds_up_the_event_loop_once(
    pipeline: Pipeline, source: MemorySource, models: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "RUN_SECONDS", 0.5)
    source.publish(pipeline.dataset, 0.0, endless_onnx(pipeline.dataset, 4.5))
    await models.refresh()
    engine = PredictionEngine(models)
    good = {"material_id": "00000000", "rohwert_1_labormessung": 1.0, "rohwert_3_labormessung": 0.0}
    bad = {**good, "laborant": "TK", "rohwert_2_labormessung": 29.9, "rohwert_3_labormessung": 1.99}
    assert (await engine.predict([good])).predictions[0] < 4.5
    predictor = models.champion.require()
    assert predictor.quick
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    for is_first in (True, False):
        turning = asyncio.create_task(turn())
        await asyncio.sleep(0.02)
        turns = 0
        with pytest.raises(InternalError, match="was stopped"):
            await engine.predict([bad])
        assert (turns < 3) == is_first
        turning.cancel()
        assert not predictor.quick
    assert (await engine.predict([good])).predictions[0] < 4.5
