"""A fit that the workers of a Ray cluster share, with the real broker, database and MLflow; one of them is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import NotEnoughDataError
from complex_system.messaging.clients import DatabaseClient
from complex_system.service_layer.training.service import TrainerService
from complex_system.settings import Settings
from complex_system.tracking.registry import ModelRegistry
from complex_system.training.base import Progress, TrainingParameters, score
from complex_system.training.conformal import INTERVALS_FILE, Intervals, set_apart
from complex_system.training.distributed import SharedFit, fit_on_cluster
from complex_system.training.onnx import run_onnx
from complex_system_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)
from complex_system_services.ml_pytorch_regression_mlflow.ml_pytorch_regression_mlflow_service import (
    MlPytorchRegressionMlflowService,
)
from complex_system_services.ml_tensorflow_regression_mlflow.ml_tensorflow_regression_mlflow_service import (
    MlTensorflowRegressionMlflowService,
)
from ray_nodes import LabPages, Nodes, ray_nodes
from samples import lab_samples, processed_page
from support import Ear, running
from trainings import trainer

# MLflow, Ray and the frameworks warn of their own and each other's deprecations.
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RECORDS = 4000
SERVICES: dict[str, type[TrainerService]] = {
    "lightgbm": MlLightgbmRegressionMlflowService,
    "pytorch": MlPytorchRegressionMlflowService,
    "tensorflow": MlTensorflowRegressionMlflowService,
}
LONGEST = 240.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes() as cluster:
        cluster.use(2)
        yield cluster


@pytest.fixture
def fields(nodes: Nodes) -> dict[str, Any]:
    return {
        "ray_address": nodes.parameters.address,
        "ray_workers": 2,
        "epochs": 30,
        "boosting_rounds": 300,
        "request_timeout": 60.0,
    }


@pytest.fixture
async def filled(database: None, ear: Ear) -> None:
    await DatabaseClient(ear).upsert_processed(processed_page(5, RECORDS))


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainerService, "shared_from", 1000)


def workers() -> list[psutil.Process]:
    """The processes of Ray Train's workers on this test's nodes."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "RayTrainWorker" in "".join(process.cmdline()[:1]):
                found.append(process)
    return found


@pytest.mark.parametrize("name", list(SERVICES))
@pytest.mark.usefixtures("filled")
async def test_workers_fetch_and_train_together(name: str, ear: Ear, settings: Settings, dataset: Dataset) -> None:
    async with running(SERVICES[name], settings):
        await ear.ask_trainers(round="shared", trainers=[name])
        outcome = await ear.outcome("shared", LONGEST)
    assert outcome.status == "finished", outcome
    data, holdout = lab_samples(5, RECORDS)
    alone = set_apart(dataset, data)
    assert alone.calibration is not None
    assert outcome.samples == {
        "train": len(alone.train), "validation": len(alone.validation), "calibration": len(alone.calibration),
    }  # fmt: skip
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
    (ref,) = await asyncio.to_thread(registry.newest_versions)
    onnx, metadata = await asyncio.to_thread(registry.load_onnx_model, ref)
    files = await asyncio.to_thread(registry.load_files, ref, metadata)
    assert Intervals.decoded(files[INTERVALS_FILE]).records == len(alone.calibration)
    [predicted] = run_onnx(onnx, [holdout.x])
    shared = score(holdout.y, predicted[:, 0])
    by_one = trainer(name, TrainingParameters.of(settings)).fit(alone, lambda _: None)
    single = score(holdout.y, by_one.predict(holdout.x))
    assert shared.rmse == pytest.approx(single.rmse, rel=0.04)
    [validated] = run_onnx(onnx, [alone.validation.x])
    assert outcome.validation is not None
    assert outcome.validation.rmse == pytest.approx(score(alone.validation.y, validated[:, 0]).rmse, rel=1e-4)
    stages = [value.stage for value in ear.progress]
    assert sorted(set(stages), key=stages.index) == ["fetching", "training", "logging"]
    last = [value for value in ear.progress if value.stage == "training"][-1]
    assert last.train_rmse > 0 < last.validation_rmse


@pytest.mark.parametrize(("name", "at"), [("lightgbm", 60), ("pytorch", 8)])
def test_a_training_survives_the_loss_of_a_worker(name: str, at: int, nodes: Nodes, dataset: Dataset) -> None:
    parameters = TrainingParameters(epochs=25, boosting_rounds=400)
    killed: list[int] = []
    seen: list[int] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.step >= at and not killed:
            victim = workers()[-1]
            killed.append(victim.pid)
            victim.kill()

    pages = LabPages(21, RECORDS)
    work = SharedFit(trainer(name, parameters), dataset, pages, 100, keep_seconds=0.0)
    model, fitted = fit_on_cluster(nodes.parameters, work, on_progress)
    assert killed
    steps = [progress.step for progress in model.history]
    assert steps == list(range(1, len(steps) + 1))
    assert min(seen[seen.index(next(step for step in seen if step >= at)) + 1 :]) > 1, "it began from nothing again"
    _, holdout = lab_samples(5, 10 * RECORDS)
    alone = trainer(name, parameters).fit(pages.data(), lambda _: None)
    shared, single = (score(holdout.y, each.predict(holdout.x)) for each in (model, alone))
    assert shared.rmse == pytest.approx(single.rmse, rel=0.03)
    assert fitted.labelled == pages.labelled


def test_what_would_fail_again_is_not_tried_again(nodes: Nodes, dataset: Dataset) -> None:
    work = SharedFit(trainer("lightgbm"), dataset, LabPages(21, 8), 100)
    with pytest.raises(NotEnoughDataError, match="at least 5 are needed"):
        fit_on_cluster(nodes.parameters, work, lambda _: None)
