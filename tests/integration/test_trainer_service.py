"""The trainer services over the real broker, database and MLflow."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from nats.errors import OutboundBufferLimitError

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import InvalidRequestError
from complex_system.evaluation.candidates import kept_cross_validation
from complex_system.local.processes import Child
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.monitoring.reference import Reference
from complex_system.pipeline.onnx_graph import RAW_ONNX_FILE
from complex_system.protocol.base import Empty, to_wire
from complex_system.protocol.operations import health_request
from complex_system.protocol.training import TRAIN_MODEL, TrainReply, TrainRequest
from complex_system.service_layer.training.job import PROGRESS_PAUSE, TrainingJob
from complex_system.service_layer.training.service import TrainerService
from complex_system.settings import Settings
from complex_system.testing.proxy import proxied
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.registry import ModelRegistry
from complex_system.tracking.wandb import artifact_folder
from complex_system.training.base import Progress, Trainer, TrainingParameters
from complex_system.training.conformal import INTERVALS_FILE, Intervals, set_apart
from complex_system.training.data import SampleCollector
from complex_system.training.out_of_fold import OUT_OF_FOLD_FILE, OutOfFold
from complex_system.training.split import Part
from complex_system_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)
from complex_system_services.ml_pytorch_regression.ml_pytorch_regression_service import MlPytorchRegressionService
from complex_system_services.ml_pytorch_regression_mlflow.ml_pytorch_regression_mlflow_service import (
    MlPytorchRegressionMlflowService,
)
from complex_system_services.ml_tensorflow_regression_mlflow.ml_tensorflow_regression_mlflow_service import (
    MlTensorflowRegressionMlflowService,
)
from envelopes import age
from models import linear_onnx, register_onnx
from raw_models import by_serving, predicted
from samples import lab_samples, processed_page
from support import Ear, eventually, running

# MLflow, TensorFlow and W&B warn of their own and each other's deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SERVICES: dict[str, type[TrainerService]] = {
    service.trainer_name: service
    for service in (
        MlLightgbmRegressionMlflowService,
        MlPytorchRegressionMlflowService,
        MlPytorchRegressionService,
        MlTensorflowRegressionMlflowService,
    )
}
RECORDS = 600
LOADED = 240.0
"""Seconds in which the slowest framework is imported on a busy machine."""


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"epochs": 4, "boosting_rounds": 30}


@pytest.fixture
async def filled(database: None, ear: Ear) -> None:
    """A database with training data."""
    await DatabaseClient(ear).upsert_processed(processed_page(5, RECORDS))


@pytest.mark.parametrize("trainer", list(SERVICES))
@pytest.mark.usefixtures("filled")
async def test_a_requested_training_is_announced_logged_and_registered(
    trainer: str, ear: Ear, settings: Settings, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer, replied = SERVICES[trainer].make_trainer, threading.Event()

    def import_later(service: TrainerService, parameters: TrainingParameters) -> Trainer:
        assert replied.wait(LOADED), "the reply waits for the framework"
        return make_trainer(service, parameters)

    monkeypatch.setattr(SERVICES[trainer], "make_trainer", import_later)
    async with running(SERVICES[trainer], settings) as service:
        assert service.health().state == "ready"  # before the framework is imported
        (reply,) = await ear.ask_trainers(round="r1", trainers=[trainer, "another"])
        replied.set()
        assert reply == TrainReply(trainer=trainer, accepted=True, round="r1")
        outcome = await ear.outcome("r1", LOADED)
        assert outcome.status == "finished", outcome
        await eventually(lambda: service.health().state == "ready")
    data = set_apart(dataset, lab_samples(5, RECORDS)[0])
    calibration = data.calibration or ()
    assert outcome.samples == {
        "train": len(data.train), "validation": len(data.validation), "calibration": len(calibration),
    }  # fmt: skip
    assert (outcome.trainer, outcome.framework) == (trainer, service.framework)
    assert outcome.model == f"{settings.model_prefix}-{trainer}"

    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
    (ref,) = await asyncio.to_thread(registry.newest_versions)
    assert (ref.model, ref.version, ref.run_id) == (outcome.model, outcome.version, outcome.run_id)
    assert (ref.trainer, ref.pipeline_version) == (trainer, dataset.version)
    onnx, metadata = await asyncio.to_thread(registry.load_onnx_model, ref)
    assert metadata["validation"] == to_wire(outcome.validation)
    files = await asyncio.to_thread(registry.load_files, ref, metadata)
    assert Intervals.decoded(files[INTERVALS_FILE]).records == len(calibration) > 0
    reference = Reference.decoded(await asyncio.to_thread(registry.load_reference, ref) or b"")
    assert (reference.pipeline_version, reference.samples) == (dataset.version, len(data.train))
    files = await asyncio.to_thread(registry.load_files, ref, metadata, [RAW_ONNX_FILE])
    records = list(Laboratory(6).records(200))
    from_raw = predicted(dataset, files[RAW_ONNX_FILE], records)
    assert np.abs(from_raw - by_serving(dataset, onnx, records)).max() <= 1e-5 * data.train.y.std()
    if trainer == "pytorch-wandb":
        store = ArtifactStore(artifact_folder(settings.wandb_dir))
        files, _ = store.read(store.newest() or "")
        assert files["model.onnx"] == onnx

    stages = [value.stage for value in ear.progress]
    assert sorted(set(stages), key=stages.index) == ["fetching", "training", "logging"]
    last = [value for value in ear.progress if value.stage == "training"][-1]
    steps = {"lightgbm": settings.boosting_rounds}.get(trainer, settings.epochs)
    assert (last.step, last.steps) == (steps, steps)
    assert last.train_rmse > 0 < last.validation_rmse


async def test_few_records_without_a_known_law_are_cross_validated(
    database: None, ear: Ear, settings: Settings, dataset: Dataset
) -> None:
    plant = Dataset(**{**dataset.dict(by_alias=True), "name": "plant", "law": None})
    page = processed_page(5, RECORDS)
    await DatabaseClient(ear).upsert_processed(replace(page, notes={"version": plant.version}))
    labelled = (await DatabaseClient(ear).counts()).labelled
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
    async with running(MlLightgbmRegressionMlflowService, settings, plant):
        await ear.ask_trainers(round="few", trainers=["lightgbm"])
        outcome = await ear.outcome("few", LOADED)
        assert outcome.status == "finished", outcome
    found = outcome.cross_validation
    assert found is not None
    assert (found.records, len(found.rmses), found.repeats) == (labelled, 10, 2)
    assert outcome.timings["cross_validation"] > 0
    stages = [value.stage for value in ear.progress]
    assert sorted(set(stages), key=stages.index) == ["fetching", "searching", "training", "cross-validating", "logging"]
    (ref,) = await asyncio.to_thread(registry.newest_versions)
    _, metadata = await asyncio.to_thread(registry.load_onnx_model, ref)
    assert kept_cross_validation(metadata) == found
    files = await asyncio.to_thread(registry.load_files, ref, metadata)
    assert OutOfFold.decoded(files[OUT_OF_FOLD_FILE]).summary() == found
    intervals = Intervals.decoded(files[INTERVALS_FILE])
    assert (intervals.method, intervals.records, intervals.units) == ("cross-validation", labelled, labelled)
    run = await asyncio.to_thread(MlflowClient(settings.mlflow_tracking_uri).get_run, outcome.run_id)
    assert run.data.metrics["cv_rmse"] == pytest.approx(found.rmse)
    assert run.data.metrics["cv_rmse_standard_error"] == pytest.approx(found.standard_error)
    assert run.data.params["search_trials"] == str(settings.lightgbm_trials)
    assert outcome.timings["searching"] > 0

    # Where the setting says so, nothing of it; and the search is made once there is a first model.
    async with running(MlLightgbmRegressionMlflowService, settings.copy(update={"cross_validate_below": labelled}), plant):
        await ear.ask_trainers(round="many", trainers=["lightgbm"])
        assert (await ear.outcome("many", LOADED)).cross_validation is None
        await ear.ask_trainers(round="next", trainers=["lightgbm"])
        assert "searching" in (await ear.outcome("next", LOADED)).timings


@pytest.mark.usefixtures("filled")
async def test_a_round_is_refused_by_who_is_not_meant_and_by_who_is_busy(
    ear: Ear, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce, announced = TrainingJob._announce, list[float]()

    def noted(job: TrainingJob, stage: str, progress: Progress | None = None) -> Any:
        if (
            stage == "training"
        ):  # when the fit says it: on a busy machine some come late, and the next ones right behind them
            announced.append(job._announced)
        return announce(job, stage, progress)

    monkeypatch.setattr(TrainingJob, "_announce", noted)
    busy = settings.copy(update={"epochs": 10_000_000, "patience": 10_000_000})
    async with running(MlPytorchRegressionMlflowService, busy) as service:
        (reply,) = await ear.ask_trainers(round="r1", trainers=["tensorflow"])
        assert reply == TrainReply(trainer="pytorch", accepted=False, round="r1", reason="not asked")
        assert (await ear.ask_trainers(round="r2", trainers=None))[0].accepted
        (reply,) = await ear.ask_trainers(round="r3")
        assert reply == TrainReply(trainer="pytorch", accepted=False, round="r2", reason="busy")
        await eventually(lambda: sum(value.stage == "training" for value in ear.progress) >= 5, LOADED)
        assert service.health().state == "working"
    await eventually(lambda: not service.worker._thread.is_alive())  # the fit ends with its service
    assert min(later - earlier for earlier, later in pairwise(announced)) >= PROGRESS_PAUSE
    assert sum(value.stage == "training" for value in ear.progress) <= len(announced)


@pytest.mark.usefixtures("filled")
async def test_a_round_may_leave_out_what_is_older_than_a_time_or_than_a_key(ear: Ear, settings: Settings) -> None:
    table = processed_page(5, RECORDS).table
    keys = table.column("_id").to_pylist()
    third = table.num_rows // 3

    def samples(of: pa.Table) -> dict[str, int]:
        collector = SampleCollector(Dataset.load(), list(Part))
        collector.add(of)
        data = set_apart(Dataset.load(), collector.training_data())
        found = {"train": len(data.train), "validation": len(data.validation)}
        return found if data.calibration is None else {**found, "calibration": len(data.calibration)}

    await DatabaseClient(ear).save_raw([record for record in Laboratory(5).records(RECORDS) if record["_id"] in keys])
    # The larger the key, the older the record.
    age("mongo", settings, {key: float(place) for place, key in enumerate(keys)})
    since = await DatabaseClient(ear).now() - (third - 0.5) * 86_400
    async with running(MlLightgbmRegressionMlflowService, settings):
        await ear.ask_trainers(round="r1", since=since)
        assert (await ear.outcome("r1", LOADED)).samples == samples(table.slice(0, third))
        await ear.ask_trainers(round="r2", after=keys[third])  # from the consumer of an earlier release
        assert (await ear.outcome("r2", LOADED)).samples == samples(table.slice(third + 1))
        await ear.ask_trainers(round="r3")
        assert (await ear.outcome("r3", LOADED)).samples == samples(table)


@pytest.mark.usefixtures("filled")
async def test_bad_requests_get_an_error_and_the_next_one_works(ear: Ear, settings: Settings) -> None:
    async with running(MlLightgbmRegressionMlflowService, settings):
        for value in ([], "text", 3, {"round": 3}, {"round": ""}, {"trainers": "lightgbm"}, {"trainers": [1]}, {"after": 3},
                      {"after": ""}, {"since": "yesterday"}):  # fmt: skip
            with pytest.raises(InvalidRequestError):
                await ear.ask(TRAIN_MODEL, value)
        reply = await ear.ask(TRAIN_MODEL, TrainRequest())
        assert reply.accepted
        assert (await ear.outcome(reply.round, LOADED)).status == "finished"


async def test_without_data_a_round_fails_and_the_next_one_with_data_does_not(
    ear: Ear, settings: Settings, database: None
) -> None:
    async with running(MlLightgbmRegressionMlflowService, settings) as service:
        await ear.ask_trainers(round="r1")
        outcome = await ear.outcome("r1", LOADED)
        assert outcome.status == "failed"
        assert "0 labelled records" in outcome.error
        assert service.health().state == "ready"
        await DatabaseClient(ear).upsert_processed(processed_page(5, RECORDS))
        await ear.ask_trainers(round="r2")
        assert (await ear.outcome("r2", LOADED)).status == "finished"
        # Who missed the end of its round and asks again hears the same outcome; nothing is trained twice.
        (reply,) = await ear.ask_trainers(round="r2")
        assert reply.accepted
        await eventually(lambda: sum(value.round == "r2" for value in ear.finished) == 2)
        first, again = (value for value in ear.finished if value.round == "r2")
        assert first == again


@pytest.mark.usefixtures("filled")
@pytest.mark.long
async def test_a_training_survives_a_tracking_server_that_is_away(
    ear: Ear, settings: Settings, mlflow_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxied(mlflow_server.port) as proxy:
        await proxy.cut()
        away = settings.copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{proxy.port}"})
        with caplog.at_level(logging.CRITICAL):
            async with running(MlLightgbmRegressionMlflowService, away) as service:
                await ear.ask_trainers(round="r1")
                await eventually(lambda: service.health().state == "waiting", LOADED)
                assert "does not answer" in service.health().detail
                await proxy.join()
                outcome = await ear.outcome("r1", LOADED)
    assert outcome.status == "finished"
    assert sum(value.stage == "training" for value in ear.progress) >= 1
    assert outcome.version == "1"


@pytest.mark.usefixtures("filled")
@pytest.mark.long
async def test_a_model_that_mlflow_could_not_take_is_logged_after_a_restart_of_its_trainer(
    ear: Ear, settings: Settings, mlflow_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxied(mlflow_server.port) as proxy:
        await proxy.cut()
        away = settings.copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{proxy.port}"})
        with caplog.at_level(logging.CRITICAL):
            async with running(MlLightgbmRegressionMlflowService, away) as service:
                await ear.ask_trainers(round="r1")
                await eventually(lambda: service.health().state == "waiting", LOADED)
                assert [kept.round for kept in service.outbox.trainings()] == ["r1"]
            trained = len(ear.progress)
            async with running(MlLightgbmRegressionMlflowService, away) as service:
                await eventually(lambda: "does not answer" in service.health().detail, LOADED)
                (reply,) = await ear.ask_trainers(round="r1")  # the consumer asks whether it still trains
                assert reply.accepted
                await proxy.join()
                outcome = await ear.outcome("r1", LOADED)
                await eventually(lambda: service.health().state == "ready")
                assert service.outbox.trainings() == []
    assert not any(value.stage == "training" for value in ear.progress[trained:]), "it is not trained again"
    data = set_apart(Dataset.load(), lab_samples(5, RECORDS)[0])
    assert data.calibration is not None
    assert outcome.status == "finished"
    assert outcome.samples == {part: len(getattr(data, part)) for part in ("train", "validation", "calibration")}
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
    (ref,) = await asyncio.to_thread(registry.newest_versions)
    assert (ref.model, ref.version, ref.run_id) == (outcome.model, outcome.version, outcome.run_id)
    assert ref.version == "1"


@pytest.mark.usefixtures("filled")
async def test_a_disk_that_takes_no_outbox_costs_no_model(
    ear: Ear, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    nowhere = settings.copy(update={"outbox_dir": str(tmp_path / "file")})
    async with running(MlLightgbmRegressionMlflowService, nowhere):
        await ear.ask_trainers(round="r1")
        assert (await ear.outcome("r1", LOADED)).status == "finished"
    assert "is not kept on disk, so a restart would lose it" in caplog.text


@pytest.mark.usefixtures("filled")
async def test_what_mlflow_refuses_is_a_failed_training(ear: Ear, settings: Settings) -> None:
    refused = settings.copy(update={"mlflow_experiment": "x" * 2000})
    async with running(MlLightgbmRegressionMlflowService, refused) as service:
        await ear.ask_trainers(round="r1")
        outcome = await ear.outcome("r1", LOADED)
        assert outcome.status == "failed"
        assert "refuses" in outcome.error
        assert service.health().state == "ready"


@pytest.mark.usefixtures("filled")
async def test_a_trainer_trains_on_its_own_schedule(ear: Ear, settings: Settings) -> None:
    often = settings.copy(update={"training_interval": 1.0})
    async with running(MlLightgbmRegressionMlflowService, often):
        assert ear.finished == []
        await eventually(lambda: len(ear.finished) >= 2, LOADED)
    assert {value.status for value in ear.finished} == {"finished"}
    assert len({value.round for value in ear.finished}) == len(ear.finished)


async def test_the_schedule_goes_on_after_a_restart_where_the_newest_model_left_it(
    settings: Settings, mlflow_server: Server, dataset: Dataset, nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AnHourAhead(datetime):  # the clock of the trainer's host
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    for module in ("service_layer.training.service", "tracking.connection"):
        monkeypatch.setattr(f"complex_system.{module}.datetime", AnHourAhead)
    monkeypatch.setattr("complex_system.service_layer.training.service.MAX_LOOK_PAUSE", 0.3)
    uri, prefix = settings.mlflow_tracking_uri, settings.model_prefix
    onnx_model = linear_onnx(dataset)
    await asyncio.to_thread(register_onnx, uri, dataset, onnx_model, prefix=prefix, trainer="lightgbm", champion=False)
    (newest,) = await asyncio.to_thread(ModelRegistry(uri, prefix).newest_versions)
    await asyncio.to_thread(register_onnx, uri, dataset, onnx_model, prefix=prefix, trainer="pytorch", champion=False)
    async with proxied(mlflow_server.port) as proxy:
        await proxy.cut()
        away = settings.copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{proxy.port}"})
        async with running(MlLightgbmRegressionMlflowService, away) as service:
            await eventually(lambda: service._loading is not None and service._loading.done(), LOADED)
            assert service._last_training is None
            await proxy.join()
            await eventually(lambda: service._last_training is not None, 40)
            age = (datetime.now(UTC) - newest.created_at).total_seconds()
            # MLflow says the time to the second, and its answer may come late; one of the two clocks is an hour ahead.
            assert time.monotonic() - service._last_training == pytest.approx(age, abs=5)
            assert service._last_training != service._made_at
            assert service._job is None


@pytest.mark.usefixtures("filled")
async def test_an_end_that_could_not_be_announced_is_kept_and_repeated_when_asked(
    ear: Ear, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(MlLightgbmRegressionMlflowService, settings) as service:
        with monkeypatch.context() as patch:

            async def publish(*_: Any) -> None:
                raise OutboundBufferLimitError

            patch.setattr(service.broker, "publish", publish)
            await ear.ask_trainers(round="r1")
            await eventually(lambda: service._last_outcome, LOADED)
        assert service._job is None
        assert ear.finished == []
        await ear.ask_trainers(round="r1")
        outcome = await ear.outcome("r1", LOADED)
    assert (outcome.status, outcome.version) == ("finished", "1")


async def test_the_process_ends_at_once_even_while_a_framework_is_imported(
    ear: Ear, settings: Settings, nats_server: Server, tmp_path: Path
) -> None:
    name = "ml_tensorflow_regression_mlflow"
    argv = [sys.executable, "-m", f"complex_system_services.{name}.run"]
    environment = {**nats_server.environment(), "FASTIOT_CONFIG_DIR": os.environ["FASTIOT_CONFIG_DIR"]}
    child = Child(name, argv, tmp_path / "log", environment)
    child.start()
    try:

        async def loading() -> bool:
            try:
                return "loading" in (await ear.ask(health_request(name), Empty(), 1.0)).detail
            except Exception:
                return False

        await eventually(loading, 60.0)
        child.signal_group(signal.SIGTERM)
        await eventually(lambda: child.exit_code is not None, 10.0)  # then it would be killed
        assert child.exit_code == 0, child.tail()
        assert "Loaded tensorflow" not in child.tail(), "it waited for the import"
    finally:
        child.stop()
