"""The stack in the rounds of the consumer: real models with their cross-validations, real MLflow, and a server that has it by name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import TrackingUnavailableError
from complex_system.evaluation.candidates import kept_cross_validation
from complex_system.pipeline.onnx_graph import RAW_ONNX_FILE
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.mlflow import MlflowChampionSource
from complex_system.settings import Settings
from complex_system.tracking.base import LoggedModel, TrainingResult
from complex_system.tracking.mlflow import MlflowTracker
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.base import score
from complex_system.training.conformal import INTERVALS_FILE
from complex_system.training.cross_validation import FewRecords, TrainerFit, out_of_fold
from complex_system.training.data import SampleCollector
from complex_system.training.linear import fit_linear
from complex_system.training.onnx import export_onnx, run_onnx
from complex_system.training.out_of_fold import OUT_OF_FOLD_FILE, OutOfFold
from complex_system.training.split import Part
from models import linear_onnx, register_onnx, rest_server
from support import Ear, TesterService, eventually, running
from training_rounds import QuickConsumer, fill
from trainings import quick_model, trainer


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"trainers": "lightgbm,pytorch", "min_labelled": 10_000, "prediction_interval": 60.0, "model_key": "secret"}


def trained(framework: str, dataset: Dataset, labelled: pa.Table) -> TrainingResult:
    """What a trainer makes of the labelled records, cross-validated like them."""
    collector, few = SampleCollector(dataset, list(Part)), FewRecords(dataset, 2000)
    collector.add(labelled)
    few.add(labelled)
    data, records, kind = collector.training_data(), few.keyed(), trainer(framework)
    assert records is not None

    started = datetime.now(UTC)
    model, folds = kind.fit(data, lambda _: None), out_of_fold(TrainerFit.of(kind, data), records)
    return TrainingResult(
        trainer=framework, framework=framework, round="by itself", dataset=dataset, data=data, model=model,
        onnx_model=export_onnx(model, data.validation.x, data.validation.y),
        validation=score(data.validation.y, model.predict(data.validation.x)), started_at=started,
        trained_at=datetime.now(UTC), timings={}, cross_validation=folds.summary(), files={OUT_OF_FOLD_FILE: folds.encoded()},
    )  # fmt: skip


def check_sum(onnx_model: bytes, members: dict[str, Any], results: list[TrainingResult], labelled: pa.Table) -> None:
    """The stack predicts the weighted sum of the registered models and of the linear one, which has no version."""
    assert sum(each["weight"] for each in members.values()) == pytest.approx(1, abs=1e-3)
    assert len(members) >= 2
    assert all(each["weight"] > 0 for each in members.values())
    data = results[0].data
    x = np.column_stack([labelled[name].to_numpy() for name in data.feature_names]).astype(np.float32)
    begin = next(iter(members)).rpartition("-")[0]
    parts = {f"{begin}-{each.trainer}": run_onnx(each.onnx_model, [x])[0][:, 0] for each in results}
    parts[f"{begin}-linear"] = fit_linear(data.train)(x)
    expected = np.sum([member["weight"] * parts[name].astype(np.float64) for name, member in members.items()], axis=0)
    np.testing.assert_allclose(run_onnx(onnx_model, [x])[0][:, 0], expected, atol=1e-3 * float(data.train.y.std()))
    assert all(member["version"] == ("" if name == f"{begin}-linear" else "1") for name, member in members.items())


def parameters_of(address: str, ref: ModelVersionRef) -> dict[str, str]:
    from mlflow import MlflowClient

    parameters: dict[str, str] = MlflowClient(address).get_run(ref.run_id).data.params
    return parameters


def gone_once(monkeypatch: pytest.MonkeyPatch) -> list[TrainingResult]:
    """MLflow does not answer the first time; returns what is logged from now on, that included."""
    log, logged = MlflowTracker.log, list[TrainingResult]()

    def log_later(tracker: MlflowTracker, result: TrainingResult) -> LoggedModel:
        logged.append(result)
        if len(logged) == 1:
            raise TrackingUnavailableError("MLflow is away.")
        return log(tracker, result)

    monkeypatch.setattr(MlflowTracker, "log", log_later)
    return logged


async def test_the_models_of_a_round_are_registered_as_one_and_served_by_name(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = dataset.copy(update={"name": "plant", "law": None})
    table = await fill(tester, plant, 1, 300)
    labelled = table.filter(pc.is_valid(table[plant.target]))
    prefix, address = settings.model_prefix, (settings.mlflow_tracking_uri, settings.mlflow_experiment)
    results = [await asyncio.to_thread(trained, framework, plant, labelled) for framework in ("lightgbm", "pytorch")]
    for each in results:
        await asyncio.to_thread(MlflowTracker(*address, prefix, "secret").log, each)

    # MLflow goes away while the stack is logged: the same one is logged when it is back.
    logged = gone_once(monkeypatch)
    async with running(QuickConsumer, settings, plant):
        told = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
        champion = await eventually(lambda: ear.champions and ear.champions[0])
    assert [each.trainer for each in logged if each.trainer == "stack"] == ["stack", "stack"]
    assert logged[0] is logged[1]
    assert told.ranked_by == "cross-validation"
    found = {each.trainer: each for each in told.results}
    assert {"lightgbm", "pytorch", "stack"} <= set(found)
    assert found["stack"].cv is not None
    assert champion.model == told.results[0].model, "the best by cross-validation, as there was none before"

    registry = ModelRegistry(address[0], prefix, "secret")
    stack = f"{prefix}-stack"
    assert await asyncio.to_thread(registry.versions, stack) == ["1"]
    ref = await asyncio.to_thread(registry.find, stack)
    assert (ref.trainer, ref.framework, ref.split) == ("stack", "stack", plant.split_rule)
    onnx_model, metadata = await asyncio.to_thread(registry.load_onnx_model, ref)
    members = {each["model"]: each for each in metadata["members"]}
    files = await asyncio.to_thread(registry.load_files, ref, metadata)
    assert {OUT_OF_FOLD_FILE, INTERVALS_FILE, RAW_ONNX_FILE, "sample.arrow"} <= set(files)
    assert await asyncio.to_thread(registry.load_reference, ref)
    folds = OutOfFold.decoded(files[OUT_OF_FOLD_FILE])
    assert folds.summary() == kept_cross_validation(metadata)
    assert folds.is_like(OutOfFold.decoded(results[0].files[OUT_OF_FOLD_FILE]))
    parameters = await asyncio.to_thread(parameters_of, address[0], ref)
    assert parameters["weights_from"] == "out-of-fold predictions"
    assert {name for name in parameters if name.startswith("weight_of_")} == {f"weight_of_{name}" for name in members}

    assert {each.model: each.weight for each in found["stack"].members} == {
        name: each["weight"] for name, each in members.items()
    }
    check_sum(onnx_model, members, results, labelled)

    asked = [
        {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP64", "data": [value]}
        for name, value in next(iter(Laboratory(1).records(1))).items()
        if name not in ("_id", plant.id, plant.target)
    ]
    async with rest_server(plant, MlflowChampionSource(registry, Pipeline(plant))) as (_, client):
        answer = await client.post(f"/v2/models/{stack}/infer", json={"inputs": asked})
        assert answer.status_code == 200, answer.text
        assert (answer.json()["model_name"], answer.json()["model_version"]) == (stack, "1")

    # A stack that is champion takes part in the next round; models that were not cross-validated make no new one.
    await asyncio.to_thread(registry.set_champion, ref, told.round)
    await asyncio.to_thread(
        register_onnx, address[0], plant, linear_onnx(plant, 5.0), prefix=prefix, champion=False, model_key="secret", round="next"
    )  # fmt: skip
    async with running(QuickConsumer, settings, plant):
        second = await eventually(lambda: len(ear.comparisons) == 2 and ear.comparisons[1], 120)
    assert {("stack", "1"), ("lightgbm", "2")} <= {(each.trainer, each.version) for each in second.results}
    assert await asyncio.to_thread(registry.versions, stack) == ["1"]


@pytest.mark.long
async def test_without_the_setting_there_is_no_stack(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    plant = dataset.copy(update={"name": "plant", "law": None})
    table = await fill(tester, plant, 1, 150)
    labelled = table.filter(pc.is_valid(table[plant.target]))
    settings = settings.copy(update={"stack": False})
    result = await asyncio.to_thread(trained, "lightgbm", plant, labelled)
    tracker = MlflowTracker(settings.mlflow_tracking_uri, settings.mlflow_experiment, settings.model_prefix, "secret")
    await asyncio.to_thread(tracker.log, result)
    async with running(QuickConsumer, settings, plant):
        told = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
    assert "stack" not in {each.trainer for each in told.results}


async def test_with_many_records_the_weights_come_from_hold_out_records_that_do_not_decide(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    for seed in range(1, 7):
        await fill(tester, dataset, seed, 700)
    tracking = {"prefix": settings.model_prefix, "champion": False, "model_key": "secret"}
    for trainer_name in ("lightgbm", "pytorch"):
        _, onnx_model = await asyncio.to_thread(quick_model, trainer_name)
        await asyncio.to_thread(
            register_onnx, settings.mlflow_tracking_uri, dataset, onnx_model, trainer=trainer_name, **tracking
        )
    async with running(QuickConsumer, settings):
        told = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
    assert told.ranked_by == "hold-out"
    assert told.baselines == {}, "the lab's best possible error is known"
    assert {each.trainer for each in told.results} == {"lightgbm", "pytorch", "stack"}
    assert told.champion.trainer == "stack"
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix, "secret")
    ref = await asyncio.to_thread(registry.find, f"{settings.model_prefix}-stack")
    _, metadata = await asyncio.to_thread(registry.load_onnx_model, ref)
    assert "cross_validation" not in metadata
    parameters = await asyncio.to_thread(parameters_of, settings.mlflow_tracking_uri, ref)
    assert parameters["weights_from"] == "hold-out records that do not decide"
    for_weights = int(parameters["weights_records"])
    assert for_weights >= 50
    assert told.holdout / (told.holdout + for_weights) == pytest.approx(0.8, abs=0.06)
