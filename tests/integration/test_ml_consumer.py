"""The consumer over the real broker, database and MLflow; the trainers are small stand-ins that keep to the protocol."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from msgspec import structs

from complex_system.domain.dataset import Dataset, Split
from complex_system.domain.keys import new_key
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.pages import Page, processed_schema
from complex_system.errors import TrackingUnavailableError
from complex_system.evaluation.baselines import cross_validated_baseline
from complex_system.evaluation.candidates import kept_cross_validation
from complex_system.evaluation.mlflow_log import ComparisonLog, LastRounds
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.service import SystemService
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import Empty, to_wire
from complex_system.protocol.operations import ALERT_ENDED, ALERT_RAISED, SCENARIO_CHANGED, Alert, ScenarioState
from complex_system.protocol.training import (
    GET_COMPARISON,
    TRAIN_MODEL,
    FoldCounts,
    TrainRequest,
)
from complex_system.service_layer.training.retrain import retrain
from complex_system.serving.models.predictor import Predictor
from complex_system.settings import Settings
from complex_system.testing.proxy import Proxy, SilentServer
from complex_system.tracking.registry import ModelRegistry
from complex_system.training.conformal import INTERVALS_FILE, Intervals
from complex_system.training.cross_validation import FewRecords
from complex_system.training.out_of_fold import OUT_OF_FOLD_FILE, OutOfFold
from complex_system.training.split import Part, groups_of, parts_of
from complex_system_services.ml_consumer.predictions import StoredProbes
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from models import delete_version_as_older_servers, linear_onnx, register_onnx
from support import Ear, TesterService, eventually, running
from training_rounds import QuickConsumer, StandInLightgbm, StandInPytorch, fill


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"trainers": "lightgbm,pytorch", "min_labelled": 100, "prediction_interval": 60.0, "serving_mlflow_port": 0}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All trainers of the rounds are there: none is left out because a busy machine keeps it silent."""
    monkeypatch.setattr(QuickConsumer, "round_times", replace(QuickConsumer.round_times, patience=60.0))


def holdout_rmse(table: pa.Table, dataset: Dataset, bias: float) -> float:
    frame = table.to_pandas()
    frame = frame[(parts_of(groups_of(dataset, table)) == Part.HOLDOUT) & frame[dataset.target].notna()]
    predicted = frame[list(dataset.feature_names)].to_numpy().sum(axis=1) + bias
    return float(np.sqrt(np.mean((frame[dataset.target].to_numpy() - predicted) ** 2)))


@pytest.mark.usefixtures("patient")
async def test_a_round_is_compared_in_mlflow_and_its_best_model_is_champion(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    from mlflow import MlflowClient

    table = await fill(tester, dataset, 1, 800)
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
    async with running(StandInLightgbm, settings, bias=50.0) as lightgbm, running(StandInPytorch, settings, bias=150.0):
        async with running(QuickConsumer, settings):
            first = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
            await eventually(lambda: ear.champions)
        assert [result.trainer for result in first.results] == ["pytorch", "lightgbm"]
        assert first.results[0].rmse == pytest.approx(holdout_rmse(table, dataset, 150.0), rel=1e-4)
        assert first.results[1].rmse == pytest.approx(holdout_rmse(table, dataset, 50.0), rel=1e-4)
        assert first.champion.model == f"{settings.model_prefix}-pytorch"
        assert first.baselines == {}  # the lab's best possible error is known
        assert ear.champions[0].pipeline_version == dataset.version
        crowned = await asyncio.to_thread(registry.champion)
        assert crowned is not None
        assert (crowned.model, crowned.version) == (first.champion.model, first.champion.version)

        client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
        experiment = client.get_experiment_by_name(settings.mlflow_experiment)
        runs = client.search_runs([experiment.experiment_id])
        (parent,) = [run for run in runs if run.info.run_name == f"comparison-{first.round}"]
        assert parent.info.run_id in first.run_url
        assert parent.data.metrics["rmse/lightgbm"] == pytest.approx(first.results[1].rmse)
        assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} == {
            "announced.json",
            "comparison.json",
            "comparison.png",
            "explanation.json",
            "explanation.png",
        }
        # The stand-in's model carries no sample, so it has no effects.
        explained = first.explanation
        assert explained is not None
        assert (explained.model, explained.version) == (first.champion.model, first.champion.version)
        assert explained.rmse == pytest.approx(first.champion.rmse, rel=1e-5)
        assert len(explained.importance) == 5
        assert explained.effects == ()
        with_model = {artifact.path for artifact in client.list_artifacts(crowned.run_id)}
        assert {"explanation.json", "explanation.png"} <= with_model
        rows = client.load_table(experiment.experiment_id, "comparison.json", [parent.info.run_id])
        assert list(rows["trainer"]) == ["pytorch", "lightgbm"]
        nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert {run.data.params["trainer"] for run in nested} == {"pytorch", "lightgbm"}
        assert {run.info.status for run in runs} == {"FINISHED"}

        # A restart without new data starts no round; a quarter more does, and a worse newcomer does not win.
        lightgbm.bias = 100.0
        async with running(QuickConsumer, settings) as consumer:
            trigger = await eventually(lambda: consumer._rounds.growth)
            assert trigger.last_labelled == (await DatabaseClient(tester).counts()).labelled
            await eventually(lambda: trigger._raw_before)
            assert len(lightgbm.rounds) == 1
            await fill(tester, dataset, 2, 400)
            second = await eventually(lambda: len(ear.comparisons) == 2 and ear.comparisons[1], 120)
            assert len(second.results) == 3  # two newcomers and the champion
            assert second.champion.version == first.champion.version
            assert second.holdout > first.holdout
            await consumer.broker.settle()
            assert len(ear.champions) == 1


async def test_a_round_goes_on_without_a_failed_and_a_missing_trainer(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(tester, dataset, 1, 400)
    settings = settings.copy(update={"trainers": "lightgbm,pytorch,tensorflow"})
    async with (
        running(StandInLightgbm, settings, bias=1.0),
        running(StandInPytorch, settings, bias=None),
        running(QuickConsumer, settings),
    ):
        comparison = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
    assert [result.trainer for result in comparison.results] == ["lightgbm"]
    assert "without pytorch: out of paper" in caplog.text
    assert "without tensorflow: silent" in caplog.text


async def test_trainers_that_come_late_or_are_started_again_still_take_part(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuickConsumer, "round_times", replace(QuickConsumer.round_times, patience=60.0))  # they come later
    await fill(tester, dataset, 1, 400)
    async with running(QuickConsumer, settings) as consumer:
        current = await eventually(lambda: consumer._runner.round)
        async with running(StandInLightgbm, settings, bias=1.0) as dying:
            dying.go_on.clear()
            await eventually(lambda: current.statuses["lightgbm"] == "training")
        async with running(StandInLightgbm, settings, bias=1.0), running(StandInPytorch, settings, bias=2.0) as busy:
            busy.round = "of its own schedule"
            await eventually(lambda: len(busy.asked) > 2)
            busy.round = None
            comparison = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
    assert {result.trainer for result in comparison.results} == {"lightgbm", "pytorch"}
    assert comparison.round == current.id


async def test_the_service_stops_at_once_in_the_middle_of_a_round(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    await fill(tester, dataset, 1, 400)
    async with running(StandInLightgbm, settings) as trainer:
        trainer.go_on.clear()
        async with asyncio.timeout(60):
            async with running(QuickConsumer, settings):
                await eventually(lambda: trainer.asked)


async def test_a_model_that_a_trainer_made_by_itself_is_compared_too(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    await fill(tester, dataset, 1, 400)
    settings = settings.copy(update={"min_labelled": 10_000})
    async with running(QuickConsumer, settings), running(StandInPytorch, settings, bias=3.0) as trainer:
        await tester.ask(TRAIN_MODEL, TrainRequest(round="mine", trainers=["pytorch"]))
        comparison = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
    assert comparison.round == "mine"
    assert comparison.champion.trainer == trainer.trainer


async def made_again(tester: TesterService, settings: Settings, run: str) -> str:
    """Trains a signed model again, and returns what came of it."""
    said: list[str] = []
    await retrain(tester, settings.mlflow_tracking_uri, run, said.append, "secret")
    return said[-1].partition(":")[0]


async def test_where_the_best_error_is_not_known_a_linear_model_takes_part_and_is_served_where_it_is_best(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    plant = dataset.copy(update={"name": "plant", "law": None})
    table = await fill(tester, plant, 1, 400)
    settings = settings.copy(update={"trainers": "pytorch", "model_key": "secret"})
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix, "secret")
    async with running(StandInPytorch, settings, plant, bias=-900.0) as pytorch:
        pytorch.changes = {"model_key": "secret"}
        async with running(QuickConsumer, settings, plant):
            first = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
            crowned = await eventually(lambda: ear.champions and ear.champions[0])
        parts = parts_of(groups_of(plant, table))
        target = table[plant.target].to_numpy(zero_copy_only=False).astype(float)
        holdout = np.isfinite(target) & (parts == Part.HOLDOUT)
        mean = target[np.isfinite(target) & (parts == Part.TRAIN)].mean()
        rmse = np.sqrt(np.mean((target[holdout] - mean) ** 2))
        assert first.baselines["mean"].rmse == pytest.approx(rmse, rel=1e-4)
        assert [(each.trainer, each.version) for each in first.results] == [("linear", "1"), ("pytorch", "1")]
        # The stand-ins submit no cross-validation, and the linear model is among the results.
        assert (first.ranked_by, set(first.baselines)) == ("hold-out", {"mean"})
        assert first.results[0].cv is not None
        assert first.verdicts["mean"].verdict == "better"
        assert first.intervals == f"95 % intervals are over {first.holdout} records of the hold-out part."
        # It is a model like a trainer's: signed, with reference, and predicting what was measured.
        assert (crowned.model, crowned.framework) == (f"{settings.model_prefix}-linear", "linear")
        ref = await asyncio.to_thread(registry.champion)
        assert ref is not None
        onnx, metadata = await asyncio.to_thread(registry.load_onnx_model, ref)
        assert await asyncio.to_thread(registry.load_reference, ref)
        assert metadata["cross_validation"]["rmse"] == pytest.approx(first.results[0].cv.rmse)
        assert await made_again(tester, settings, ref.run_id) == "The same model, bit for bit"
        files = await asyncio.to_thread(registry.load_files, ref, metadata)
        assert OutOfFold.decoded(files[OUT_OF_FOLD_FILE]).summary() == kept_cross_validation(metadata)
        assert first.explanation is not None
        assert first.explanation.importance[0].column == "rohwert_1_labormessung"
        assert {each.column for each in first.explanation.effects} == {each.column for each in first.explanation.importance}
        assert Intervals.decoded(files[INTERVALS_FILE]).records == metadata["cross_validation"]["records"]
        predictor = Predictor(Pipeline(plant), ref.model, ref.version, onnx, metadata)
        features = np.column_stack([table[name].to_numpy() for name in plant.feature_names]).astype(np.float32)
        errors = predictor.predict_features(features[holdout]) - target[holdout]
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(first.results[0].rmse, rel=1e-3)
        assert await asyncio.to_thread(registry.uncompared, plant.version, plant.split_rule) == []

        # A new linear model of more records is a little better, but not surely: the champion stays, and the reason is told.
        async with running(QuickConsumer, settings, plant):
            await fill(tester, plant, 2, 200)
            second = await eventually(lambda: len(ear.comparisons) == 2 and ear.comparisons[1], 120)
        assert (second.champion.model, second.champion.version) == (crowned.model, "1")
        assert [(each.trainer, each.version) for each in second.results] == [("linear", "1"), ("pytorch", "2")]
        assert second.results[1].challenge is not None
        assert second.results[1].challenge.outcome == "worse"
        assert second.kept.startswith(f"{crowned.model} 1 stays champion: the best new model, {crowned.model}, has RMSE ")
        assert "on the 191 records that both were validated with, which is not surely better" in second.kept
        assert second.kept in caplog.text
        assert await asyncio.to_thread(registry.versions, crowned.model) == ["1"]
        assert len(pytorch.rounds) == 2


async def test_few_records_are_ranked_by_cross_validation_and_a_restart_tells_it_again(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    from mlflow import MlflowClient

    plant = dataset.copy(update={"name": "plant", "law": None})
    table = await fill(tester, plant, 1, 400)
    few = FewRecords(plant, 2000)
    few.add(table.filter(pc.is_valid(table[plant.target])))
    records = few.keyed()
    assert records is not None
    mean = cross_validated_baseline("mean", records)
    good, bad = (
        structs.replace(mean, rmse=factor * mean.rmse, rmses=tuple(factor * each for each in mean.rmses))
        for factor in (0.01, 0.9)
    )
    async with (
        running(StandInLightgbm, settings, plant, bias=-5.0) as lightgbm,
        running(StandInPytorch, settings, plant, bias=-900.0) as pytorch,
    ):
        lightgbm.changes, pytorch.changes = {"cross_validation": to_wire(bad)}, {"cross_validation": to_wire(good)}
        async with running(QuickConsumer, settings, plant):
            told = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
        async with running(QuickConsumer, settings, plant):
            again = await tester.ask(GET_COMPARISON, Empty())
    assert told.ranked_by == "cross-validation"
    assert told.cross_validation == FoldCounts(records=len(records.groups), folds=5, repeats=mean.repeats)
    # The worse one on the hold-out part wins by its folds.
    assert [result.trainer for result in told.results] == ["pytorch", "lightgbm"]
    assert told.results[0].rmse > told.results[1].rmse
    assert told.results[0].cv.rmse == pytest.approx(good.rmse)
    assert told.baselines["mean"].cv.rmse == pytest.approx(mean.rmse)
    assert told.verdicts["mean"].verdict == "better"
    assert again == told
    client = MlflowClient(settings.mlflow_tracking_uri)
    run = client.get_run(told.run_url.rpartition("/")[2])
    assert run.data.tags["ranked_by"] == "cross-validation"
    assert run.data.tags["against_mean"] == "better"
    assert run.data.metrics["cv_rmse"] == pytest.approx(good.rmse)
    assert run.data.metrics["baseline_mean_cv_rmse"] == pytest.approx(mean.rmse)


@pytest.mark.long
async def test_a_comparison_waits_for_mlflow_and_is_logged_once(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, mlflow_server: Server
) -> None:
    from mlflow import MlflowClient

    await fill(tester, dataset, 1, 400)
    proxy = Proxy(mlflow_server.port)
    await proxy.join()
    through = settings.copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{proxy.port}", "trainers": "lightgbm"})
    try:
        async with running(StandInLightgbm, settings, bias=1.0) as trainer, running(QuickConsumer, through) as consumer:
            trainer.go_on.clear()
            await eventually(lambda: trainer.asked)
            await proxy.cut()
            trainer.go_on.set()
            await eventually(lambda: consumer.health().state == "waiting", 120)
            assert "MLflow" in consumer.health().detail
            assert not ear.comparisons
            await proxy.join()
            await eventually(lambda: ear.comparisons, 60)
            await eventually(lambda: consumer.health().state == "ready")
    finally:
        await proxy.cut()
    client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
    experiment = client.get_experiment_by_name(settings.mlflow_experiment)
    names = [run.info.run_name for run in client.search_runs([experiment.experiment_id])]
    assert names.count(f"comparison-{ear.comparisons[0].round}") == 1
    assert len(trainer.rounds) == 1


@pytest.mark.parametrize("step", [pytest.param("logging", marks=pytest.mark.long), "crowning"])
async def test_a_restart_in_the_middle_of_a_comparison_loses_it_not(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def away(*_: Any) -> Any:
        raise TrackingUnavailableError("gone")

    settings = settings.copy(update={"trainers": "lightgbm"})
    uri, prefix = settings.mlflow_tracking_uri, settings.model_prefix
    await asyncio.to_thread(register_onnx, uri, dataset, linear_onnx(dataset, -900.0), prefix=prefix, trainer="old")
    await fill(tester, dataset, 1, 400)
    async with running(StandInLightgbm, settings, bias=100.0):
        with monkeypatch.context() as patch:
            where = "evaluation.mlflow_log._table" if step == "logging" else "tracking.registry.ModelRegistry.set_champion"
            patch.setattr(f"complex_system.{where}", away)
            async with running(QuickConsumer, settings) as consumer:
                await eventually(lambda: consumer.health().detail == "gone", 120)
        assert not ear.comparisons
        async with running(QuickConsumer, settings):
            comparison = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
    champion = await asyncio.to_thread(ModelRegistry(uri, prefix).champion)
    assert champion is not None
    assert champion.trainer == comparison.champion.trainer == "lightgbm"


@pytest.mark.parametrize("fault", ["all trainers fail", "all models are refused"])
@pytest.mark.long
async def test_rounds_without_a_model_do_not_follow_each_other_at_once(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, fault: str
) -> None:
    await fill(tester, dataset, 1, 400)
    settings = settings.copy(update={"trainers": "lightgbm"})
    async with running(StandInLightgbm, settings, bias=1.0) as trainer, running(QuickConsumer, settings) as consumer:
        if fault == "all trainers fail":
            trainer.bias = None
        else:
            trainer.changes = {"pipeline_version": "another"}
        await eventually(lambda: consumer.health().state == "failing", 120)
        before = consumer.looks
        await eventually(lambda: consumer.looks > before + 5)
        assert len(trainer.rounds) == 1
        assert consumer.health().state == "failing"
        assert "next round comes after 30 s" in consumer.health().detail
        trainer.bias, trainer.changes = 1.0, {}
        await fill(tester, dataset, 2, 400)
        await eventually(lambda: ear.comparisons, 120)
        await eventually(lambda: consumer.health().state == "ready")


async def test_the_service_stops_at_once_while_mlflow_hangs(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    async with SilentServer() as silent:
        hanging = settings.copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{silent.port}"})
        async with asyncio.timeout(90):
            async with running(QuickConsumer, hanging):
                await silent.asked.wait()
                asked = asyncio.create_task(tester.ask(GET_COMPARISON, Empty(), 5.0))
                begin = time.monotonic()
            assert time.monotonic() - begin < 25.0  # MLflow's client waits for 30 s, three times
        await asyncio.gather(asked, return_exceptions=True)


async def fill_thrice(tester: TesterService, dataset: Dataset, seed: int, count: int) -> int:
    """Saves labelled records, each of them under three keys; returns how many."""
    database = DatabaseClient(tester)
    labelled = [record for record in Laboratory(seed).records(3 * count) if record[dataset.target] is not None]
    once = labelled[:count]
    records = once + [{**record, "_id": f"{record['_id']}-{copy}"} for record in once for copy in (2, 3)]
    await database.save_raw(records)
    table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
    await database.upsert_processed(Page(table, None, {"version": dataset.version}))
    return len(records)


@pytest.mark.usefixtures("patient")
async def test_copies_count_once_and_a_deleted_champion_is_replaced_by_the_next_round(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, mlflow_server: Server
) -> None:
    from mlflow import MlflowClient

    records = await fill_thrice(tester, dataset, 1, 150)
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
    settings = settings.copy(update={"min_labelled": 100})
    async with (
        running(StandInLightgbm, settings, bias=50.0) as lightgbm,
        running(StandInPytorch, settings, bias=150.0) as pytorch,
        running(QuickConsumer, settings),
    ):
        first = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
        assert (first.records, first.copies) == (records, 300)
        assert "300 of 450 labelled records have the same features and the same target as an earlier one" in first.verdict
        assert 10 < first.holdout < 40  # of 150 contents
        await eventually(lambda: ear.champions)

        # Its version is deleted: the alias counts as none, and the best newcomer gets it.
        await asyncio.to_thread(delete_version_as_older_servers, mlflow_server, first.champion.model, first.champion.version)
        assert await asyncio.to_thread(registry.champion) is None
        await fill_thrice(tester, dataset, 2, 100)
        second = await eventually(lambda: len(ear.comparisons) == 2 and ear.comparisons[1], 120)
        assert {(each.model, each.version) for each in second.results} == {
            (first.champion.model, "2"), (f"{settings.model_prefix}-lightgbm", "2"),
        }  # fmt: skip
        champion = await eventually(registry.champion, 10)
        assert (champion.model, champion.version) == (second.champion.model, "2")

        # A champion of the split by keys may have seen hold-out records: it is replaced, whatever its error.
        client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
        await asyncio.to_thread(client.delete_model_version_tag, champion.model, champion.version, "split")
        lightgbm.bias = pytorch.bias = 0.0
        await fill_thrice(tester, dataset, 3, 150)
        third = await eventually(lambda: len(ear.comparisons) == 3 and ear.comparisons[2], 120)
        assert third.champion.version == "3"
        assert (champion.model, champion.version) not in {(each.model, each.version) for each in third.results}
        assert third.replaced.startswith(
            f"{champion.model} {champion.version} was trained with another split (key; now content)"
        )
        assert third.replaced in third.verdict


@pytest.mark.long
@pytest.mark.parametrize("split", [Split(by="group", group=("material_id",)), Split(by="time")])
async def test_a_change_of_the_declared_split_trains_again_at_once_and_replaces_the_champion(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, split: Split
) -> None:
    from mlflow import MlflowClient

    plant = dataset.copy(update={"name": "plant", "law": None})
    table = pa.concat_tables([await fill(tester, plant, seed, 100) for seed in range(1, 11)])  # one after the other
    settings = settings.copy(update={"trainers": "pytorch"})
    async with running(StandInPytorch, settings, plant, bias=100.0), running(QuickConsumer, settings, plant):
        first = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
        await eventually(lambda: ear.champions)
    assert (first.split, first.replaced) == ("content", "")
    before = await asyncio.to_thread(  # trained before the change, and never compared
        register_onnx, settings.mlflow_tracking_uri, plant, linear_onnx(plant, 100.0),
        prefix=settings.model_prefix, trainer="lightgbm", champion=False,
    )  # fmt: skip
    changed = plant.copy(update={"split": split})
    async with running(StandInPytorch, settings, changed, bias=-900.0), running(QuickConsumer, settings, changed):
        second = await eventually(lambda: len(ear.comparisons) == 2 and ear.comparisons[1], 120)
        await eventually(lambda: len(ear.champions) == 2)
        assert first.champion.trainer == "linear"
        assert {(each.model, each.version) for each in second.results} == {
            (first.champion.model, "2"), (f"{settings.model_prefix}-pytorch", "2"),
        }  # fmt: skip
        assert second.split == changed.split_rule
        assert second.question == split.question
        assert second.replaced.startswith(
            f"{first.champion.model} 1 was trained with another split (content; now {changed.split_rule})"
        )
        began = [each for each in ear.rounds if each.round == second.round and each.stage == "started"]
        assert "another one than the champion's" in began[0].text
        assert before not in {(each.model, each.version) for found in ear.comparisons for each in found.results}
        labelled = sum(table[plant.target].is_valid().to_pylist())
        if split.by == "time":
            assert 0.05 * labelled < second.holdout < 0.25 * labelled  # the newest 15 %
        # The same split again: no round, and probes are drawn from the hold-out part.
        stored = StoredProbes(DatabaseClient(tester), changed)
        assert all(truth is None for _, truth in await stored.draw(1000)), "before a comparison all may be trained on yet"
        stored.round = second.round
        probes = await stored.draw(1000)
        assert probes
        assert all(truth is not None for _, truth in probes)
        if split.by == "group":
            assert len(probes) == second.holdout
            assert len({record["material_id"] for record, _ in probes}) == 1
    client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name(settings.mlflow_experiment).experiment_id],
        f"attributes.run_name = 'comparison-{second.round}'",
    )
    assert run.data.params["split"] == changed.split_rule
    assert run.data.params["question"] == split.question


async def test_a_champion_whose_model_was_deleted_is_replaced_by_the_next_round(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    from mlflow import MlflowClient

    uri, prefix = settings.mlflow_tracking_uri, settings.model_prefix
    client, registry = MlflowClient(uri, uri), ModelRegistry(uri, prefix)
    await asyncio.to_thread(register_onnx, uri, dataset, linear_onnx(dataset, 160.0), prefix=prefix, trainer="pytorch")
    gone = registry.champion()
    assert gone is not None
    await asyncio.to_thread(client.delete_registered_model, gone.model)
    assert registry.champion() is None
    await fill(tester, dataset, 1, 400)
    settings = settings.copy(update={"trainers": "lightgbm"})
    async with running(StandInLightgbm, settings, bias=0.0), running(QuickConsumer, settings):
        comparison = await eventually(lambda: ear.comparisons and ear.comparisons[0], 60)
        champion = await eventually(registry.champion, 20)
        assert champion.model == comparison.champion.model == f"{prefix}-lightgbm"
        await eventually(lambda: ear.champions)
    aliases = [model.aliases for model in client.search_registered_models(f"name LIKE '{prefix}-%'")]
    assert [each for each in aliases if each] == [{"champion": champion.version}]


async def test_stored_records_are_all_asked_for_in_time(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    table = await fill(tester, dataset, 1, 3 * StoredProbes.PAGE)
    keys = table.column("_id").to_pylist()
    parts = parts_of(groups_of(dataset, table))
    holdout = {key for key, part in zip(keys, parts, strict=True) if part == Part.HOLDOUT}
    probes = StoredProbes(DatabaseClient(tester), dataset)
    assert probes.origin == "own"
    drawn = [[record["_id"] for record, _ in await probes.draw(1000)] for _ in range(7)]
    assert len(set(drawn[0]) | set(drawn[1]) | set(drawn[2])) == len(drawn[0]) + len(drawn[1]) + len(drawn[2])
    assert all(drawn), "after the last page comes the first again"
    assert sorted(drawn[3]) == sorted(drawn[0])
    assert set().union(*drawn) <= holdout
    assert all(truth is not None for _, truth in await probes.draw(3))

    class NothingUnseen(StoredProbes):
        def _unseen(self, records: list[Any]) -> list[Any]:
            return []

    blind = NothingUnseen(DatabaseClient(tester), dataset)
    labelled = set(table.filter(table.column(dataset.target).is_valid()).column("_id").to_pylist())
    asked = {record["_id"] for record, _ in await blind.draw(1000)}
    assert asked, "those without a target may be asked for"
    assert not asked & labelled, "a record that models may have seen is not: its target would be found"


async def test_predictions_are_asked_for_and_their_truth_is_announced(
    settings: Settings, ear: Ear, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = settings.copy(update={"prediction_interval": 0.1, "model_poll_interval": 0.2})
    async with running(MlServingMlflowService, settings), running(QuickConsumer, settings) as consumer:
        await eventually(lambda: consumer._requests._failed == "no_model")
        await asyncio.to_thread(
            register_onnx, settings.mlflow_tracking_uri, dataset, linear_onnx(dataset, 100.0), prefix=settings.model_prefix
        )
        await eventually(lambda: len(ear.truths) >= 6 and len(ear.predictions) >= 6, 120)
    predicted = {each.id: each for each in ear.predictions}
    assert ear.origins == {"probe"}
    for truth in ear.truths[:6]:
        record = predicted[truth.id].record
        r1, r2, r3 = (record[f"rohwert_{i}_labormessung"] for i in (1, 2, 3))
        assert truth.truth == pytest.approx((r1 + r2) ** 1.5 - np.exp(-0.25 * r3))
        assert record["aufbereiteter_wert"] is None
    assert caplog.text.count("No prediction: ") == 1  # said once, not at every try
    assert "Prediction 10" in caplog.text


async def measure(tester: SystemService, dataset: Dataset, seed: int, count: int) -> None:
    """As :func:`fill`, with the keys of now, as the source gives them."""
    database = DatabaseClient(tester)
    records = [{**record, "_id": new_key()} for record in Laboratory(seed).records(count)]
    await database.save_raw(records)
    table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
    await database.upsert_processed(Page(table, None, {"version": dataset.version}))


def alert(key: str, *, retrain: bool = True, **fields: Any) -> Alert:
    now = time.time()
    return Alert(
        key=key, rule="r", metric="m", subject="", severity="warning", retrain=retrain, since=now, began=now, value=3, newest=3,
        threshold=2, sentence=f"About {key}.", **fields,
    )  # fmt: skip


@pytest.mark.long
async def test_the_trainers_learn_all_where_inputs_moved_and_only_what_is_newer_than_a_moved_error(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    settings = settings.copy(
        update={"trainers": "lightgbm", "retrain_newest": 300, "retrain_pause": 0.5, "retrain_growth": 1e6}
    )
    await fill(tester, dataset, 1, 2000)
    async with running(StandInLightgbm, settings, bias=100.0) as trainer, running(QuickConsumer, settings) as consumer:
        first = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
        assert (first.cause, first.alerts, first.kept) == ("first", (), "")
        assert trainer.rounds[0].since is None
        await eventually(lambda: consumer.health().state == "ready")

        began = time.time()
        await tester.announce(ALERT_RAISED, alert("no-training", retrain=False))
        await tester.announce(ALERT_RAISED, alert("drift-1", moved="input"))
        await measure(tester, dataset, 2, 300)
        await eventually(lambda: "of 300 new labelled records" in consumer.health().detail)
        assert len(trainer.rounds) == 1, "too few records to learn from"
        trainer.bias = -900.0
        await measure(tester, dataset, 3, 500)
        second = await eventually(lambda: len(ear.comparisons) > 1 and ear.comparisons[1], 120)
        assert (second.cause, second.alerts, second.moved) == ("alert", ("drift-1",), "input")
        assert (trainer.rounds[1].since, trainer.rounds[1].after) == (None, None)
        assert second.champion.version == first.champion.version
        assert second.kept.startswith(f"{settings.model_prefix}-lightgbm 1 stays champion with RMSE")
        assert f"the best new model, {settings.model_prefix}-lightgbm 2, has" in second.kept
        assert 0.05 * 300 < second.holdout < 0.3 * 300, "the hold-out part of the newest 300"
        assert len(ear.champions) == 1
        assert [(told.stage, told.moved) for told in ear.rounds] == [("started", None), ("started", "input")]

        await tester.announce(ALERT_RAISED, alert("error-1", moved="error", error_changed=began))
        await eventually(lambda: ear.rounds[-1].moved == "error", 120)
        trainer.bias = 150.0
        third = await eventually(lambda: next((each for each in ear.comparisons[2:] if not each.kept), None), 120)
        for key in third.alerts:
            await tester.announce(ALERT_ENDED, alert(key))
        assert (third.cause, third.moved, third.alerts) == ("alert", "error", ("drift-1", "error-1"))
        assert trainer.rounds[-1].since == began
        await eventually(lambda: len(ear.champions) == 2)
        assert [champion.cause for champion in ear.champions] == ["first", "alert"]
        assert [champion.holdout for champion in ear.champions] == [first.holdout, third.holdout]
        assert await tester.ask(GET_COMPARISON, Empty()) == third
    async with running(QuickConsumer, settings) as consumer:
        recalled = await tester.ask(GET_COMPARISON, Empty())
        assert recalled == third
        await eventually(lambda: consumer._rounds.growth)
        assert consumer._rounds.since == began, "what is older stays left out after a restart"


@pytest.mark.parametrize("kept", [{"after": "0190-key"}, {"since": "1764000000.25"}, {}])
async def test_since_when_records_count_is_recalled_also_of_a_release_that_went_by_keys(
    settings: Settings, dataset: Dataset, kept: dict[str, str]
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    tags = {"kind": "comparison", "origin": "round", "dataset": dataset.name, "pipeline_version": dataset.version, "round": "r",
            "champion_changed": "True"}  # fmt: skip
    run = client.create_run(client.create_experiment(settings.mlflow_experiment), tags=tags).info.run_id
    for name, value in {"labelled": "400", **kept}.items():
        client.log_param(run, name, value)
    client.set_terminated(run)
    log = ComparisonLog(settings.mlflow_tracking_uri, settings.mlflow_experiment, dataset)
    since = float(kept["since"]) if "since" in kept else None
    assert log.recall() == LastRounds(400, None, since, kept.get("after"))


async def test_a_round_because_of_an_alert_that_fails_is_told_and_repeated_after_the_pause(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    settings = settings.copy(
        update={"trainers": "lightgbm", "retrain_newest": 100, "retrain_pause": 0.2, "retrain_growth": 1e6}
    )
    await fill(tester, dataset, 1, 400)
    async with running(StandInLightgbm, settings, bias=100.0) as trainer, running(QuickConsumer, settings):
        await eventually(lambda: ear.comparisons, 120)
        trainer.bias = None
        await tester.announce(ALERT_RAISED, alert("error-1"))
        await measure(tester, dataset, 2, 400)
        failed = await eventually(lambda: [told for told in ear.rounds if told.stage == "failed"], 120)
        assert failed[0].alerts == ("error-1",)
        assert "out of paper" in failed[0].text
        assert "if the alert is still open" in failed[0].text
        await eventually(lambda: len(trainer.rounds) > 2, 120)


async def test_requests_leave_out_what_cannot_be_processed(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    await asyncio.to_thread(
        register_onnx, settings.mlflow_tracking_uri, dataset, linear_onnx(dataset, 1.0), prefix=settings.model_prefix
    )
    settings = settings.copy(update={"prediction_interval": 0.1, "prediction_records": 40})
    async with running(MlServingMlflowService, settings), running(QuickConsumer, settings):
        await eventually(lambda: ear.truths, 120)
        began = ScenarioState(scenario="new_category", began=time.time(), ramp=0.0)
        await tester.announce(SCENARIO_CHANGED, began)
        ear.predictions.clear()
        predicted = await eventually(lambda: len(ear.predictions) > 100 and list(ear.predictions), 120)
        assert all(each.record["material_id"] != "44444444" for each in predicted)
        await tester.announce(SCENARIO_CHANGED, structs.replace(began, scenario="concept"))
        await eventually(lambda: _follows_another_law(ear), 120)


def _follows_another_law(ear: Ear) -> bool:
    records = {each.id: each.record for each in ear.predictions}
    newest = [(records[each.id], each.truth) for each in ear.truths if each.id in records][-20:]
    return bool(newest) and all(
        truth == pytest.approx((truth_of(record) or 0) + 3 * (15 - record["rohwert_2_labormessung"]))
        for record, truth in newest
    )
