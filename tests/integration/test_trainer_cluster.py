"""A trainer service whose searches and cross-validations run on a Ray cluster."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.messaging.clients import DatabaseClient
from complex_system.settings import Settings
from complex_system.training import cluster, ray_head
from complex_system.training.cluster import connected
from complex_system_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)
from ray_nodes import Nodes, ray_nodes, wait_for
from samples import processed_page
from support import Ear, eventually, running

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LOADED = 240.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes() as started:
        started.use(2)
        yield started


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"boosting_rounds": 30, "lightgbm_trials": 12, "lightgbm_seconds": 3600.0}


@pytest.fixture
def plant(dataset: Dataset) -> Dataset:
    """Declares the lab's columns, but no known function."""
    return Dataset(**{**dataset.dict(by_alias=True), "name": "plant", "law": None})


@pytest.fixture
async def filled(database: None, ear: Ear, plant: Dataset) -> None:
    await DatabaseClient(ear).upsert_processed(replace(processed_page(5, 600), notes={"version": plant.version}))


@pytest.mark.usefixtures("filled")
async def test_a_training_with_a_cluster_ends_as_one_without(
    ear: Ear, settings: Settings, plant: Dataset, nodes: Nodes
) -> None:
    found = []
    for name, address in (("alone", ""), ("cluster", nodes.parameters.address)):
        async with running(MlLightgbmRegressionMlflowService, settings.copy(update={"ray_address": address}), plant):
            await ear.ask_trainers(round=name)
            outcome = await ear.outcome(name, LOADED)
        assert outcome.status == "finished", outcome
        stages = [value.stage for value in ear.progress if value.round == name]
        assert sorted(set(stages), key=stages.index) == ["fetching", "searching", "training", "cross-validating", "logging"]
        folds = [value.step for value in ear.progress if (value.round, value.stage) == (name, "cross-validating")]
        assert folds == list(range(1, 11))
        found.append((outcome.cross_validation, outcome.validation, outcome.samples))
    assert found[0] == found[1]


@pytest.mark.usefixtures("filled")
async def test_a_search_on_the_cluster_ends_with_its_service(
    ear: Ear, settings: Settings, plant: Dataset, nodes: Nodes
) -> None:
    long = settings.copy(
        update={"ray_address": nodes.parameters.address, "lightgbm_trials": 100_000, "boosting_rounds": 2000}
    )
    async with running(MlLightgbmRegressionMlflowService, long, plant) as service:
        await ear.ask_trainers(round="long")
        await eventually(lambda: service.health().detail.startswith("searching"), LOADED)
        await eventually(lambda: sum(value.stage == "searching" for value in ear.progress) >= 2, LOADED)
        begin = time.monotonic()
    assert time.monotonic() - begin < 60.0, "the search would take hours"
    # The process of a service ends now in any case. Here, on a busy machine, its thread may still be leaving the cluster.
    await eventually(lambda: not service.worker._thread.is_alive(), LOADED)
    with connected(nodes.parameters) as ray:
        wait_for(lambda: ray.available_resources().get("CPU") == 2.0)


@pytest.mark.usefixtures("filled")
async def test_a_cluster_that_is_not_there_is_an_outcome_that_says_so(ear: Ear, settings: Settings, plant: Dataset) -> None:
    nowhere = settings.copy(update={"ray_address": "127.0.0.1:1"})
    async with running(MlLightgbmRegressionMlflowService, nowhere, plant) as service:
        await ear.ask_trainers(round="r1")
        await eventually(lambda: "Nothing answers at 127.0.0.1:1" in service.health().detail, LOADED)
        assert service.health().state == "waiting"
        outcome = await ear.outcome("r1", LOADED)
    assert outcome.status == "failed"
    assert "Nothing answers at 127.0.0.1:1" in outcome.error


@pytest.mark.usefixtures("filled")
async def test_a_training_goes_on_when_the_cluster_is_there(
    ear: Ear, settings: Settings, plant: Dataset, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, connection = threading.Event(), ray_head._connection

    def when_there(address: str) -> socket.socket:
        if not there.is_set():
            raise ConnectionRefusedError("not yet")
        return connection(address)

    monkeypatch.setattr(cluster, "PATIENCE", LOADED)
    monkeypatch.setattr(ray_head, "_connection", when_there)
    with_cluster = settings.copy(update={"ray_address": nodes.parameters.address})
    async with running(MlLightgbmRegressionMlflowService, with_cluster, plant) as service:
        await ear.ask_trainers(round="late")
        await eventually(lambda: "RAY_ADDRESS (not yet). Start the cluster" in service.health().detail, LOADED)
        assert service.health().state == "waiting"
        there.set()
        await eventually(lambda: service.health().state != "waiting", LOADED)
        outcome = await ear.outcome("late", LOADED)
        await eventually(lambda: service.health().state == "ready")
    assert outcome.status == "finished", outcome
