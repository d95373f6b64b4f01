"""MLflow's disk fills while models are logged: none is refused, none is lost, none is registered twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from complex_system.errors import TrackingRefusedError, TrackingUnavailableError
from complex_system.local.servers import MlflowServer
from complex_system.tracking.connection import load_mlflow
from complex_system.tracking.mlflow import MlflowTracker
from complex_system.tracking.outbox import Outbox
from complex_system.tracking.registry import ModelRegistry
from plant import FULL
from small_disk import needs_root, small_disk
from support import started
from trainings import quick_result, trainer

pytestmark = [
    needs_root,
    *(() if FULL else (pytest.mark.long,)),
    pytest.mark.timeout(300),
    # MLflow warns of its own and its dependencies' deprecations.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOM = (0, 20_000, 60_000, 120_000)
"""Bytes that are left when a model is logged: too few for the database, or for the files."""


def test_a_full_disk_of_mlflow_delays_a_model_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    from mlflow import MlflowClient

    load_mlflow()  # before: the first import sets its own limit, which lasts for the other tests of the process
    # So that a server without room is noticed soon; MLflow's client asks again by itself.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    outbox, framework, delayed = Outbox(tmp_path / "outbox"), trainer("lightgbm"), []
    with small_disk(tmp_path / "disk", 48) as disk, started(MlflowServer(disk.folder / "mlflow", port=0)) as server:
        tracker = MlflowTracker(server.url, "full", "full")
        tracker.prepare()
        tracker.log(quick_result("lightgbm"))  # experiment, data sets and names are there
        for number, left in enumerate(ROOM, 2):
            kept = outbox.keep(quick_result("lightgbm"))
            disk.fill(left)
            try:
                tracker.log(outbox.load(kept, framework))
            except TrackingRefusedError as error:
                pytest.fail(error.message)
            except TrackingUnavailableError:
                delayed.append(left)
            disk.make_room()
            # The same process tries again, or the next one.
            logged = (tracker if number % 2 else MlflowTracker(server.url, "full", "full")).log(outbox.load(kept, framework))
            outbox.remove(kept)
            assert logged.version == str(number)
        client = MlflowClient(server.url)
        experiment = client.get_experiment_by_name("full").experiment_id
        runs = client.search_runs([experiment])
        assert [run.info.status for run in runs] == ["FINISHED"] * (len(ROOM) + 1)
        registry = ModelRegistry(server.url, "full")
        for version in registry.versions("full-lightgbm"):
            onnx, metadata = registry.load_onnx_model(registry.find("full-lightgbm", version))
            assert onnx
            assert metadata["model"] == "full-lightgbm"
    assert 0 in delayed, "the disk was never full"
    record_property("MLflow's disk: bytes left that delayed a model", delayed)
