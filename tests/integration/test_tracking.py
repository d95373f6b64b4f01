"""Trainings in a real MLflow, and in W&B offline: what was logged, what comes back, what happens when the server is away."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typing_extensions import override

from complex_system.errors import ModelRefusedError, TrackingUnavailableError, UnknownModelError
from complex_system.local.servers import Server, free_port
from complex_system.testing.proxy import proxied
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult
from complex_system.tracking.mlflow import MlflowTracker, log_data
from complex_system.tracking.registry import ONNX_FILE, ONNX_FOLDER, ONNX_METADATA, ModelRegistry
from complex_system.tracking.wandb import ARTIFACT_TYPE, WandbTracker, artifact_folder
from complex_system.training.linear import LINEAR
from models import delete_version_as_older_servers
from samples import lab_samples
from trainings import FRAMEWORKS, PIECEWISE, network_from_state, quick_model, quick_result

# MLflow, TensorFlow and W&B warn of their own and each other's deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def tracker(mlflow_server: Server, prefix: str) -> MlflowTracker:
    tracker = MlflowTracker(mlflow_server.url, prefix, prefix)
    tracker.prepare()
    return tracker


@pytest.fixture
def client(mlflow_server: Server) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow_server.url, registry_uri=mlflow_server.url)


def _frame(names: tuple[str, ...], x: Any) -> pd.DataFrame:
    return pd.DataFrame(x.astype(np.float64), columns=list(names))


@pytest.mark.parametrize("framework", [*FRAMEWORKS, PIECEWISE, LINEAR])
def test_a_logged_model_comes_back_equal_and_does_not_care_for_the_order_of_columns(
    framework: str, tracker: MlflowTracker, mlflow_server: Server
) -> None:
    import mlflow

    logged = tracker.log(quick_result(framework))
    mlflow.set_tracking_uri(mlflow_server.url)
    loaded = mlflow.pyfunc.load_model(f"models:/{logged.model}/{logged.version}")
    data, holdout = lab_samples(2, 1000)
    frame = _frame(data.feature_names, holdout.x)
    shuffled = frame[list(np.random.default_rng(1).permutation(frame.columns))]
    expected = quick_model(framework)[0].predict(holdout.x)
    for order in (frame, shuffled):
        np.testing.assert_allclose(np.asarray(loaded.predict(order)).ravel(), expected, rtol=1e-5)
    assert loaded.metadata.get_input_schema().input_names() == list(data.feature_names)
    assert loaded.metadata.metadata["pipeline_version"] == quick_result(framework).dataset.version
    with pytest.raises(mlflow.exceptions.MlflowException, match="missing"):
        loaded.predict(frame.drop(columns=frame.columns[:1]))


@pytest.mark.parametrize("network", ["pytorch", PIECEWISE])
def test_the_pytorch_model_needs_no_package_of_ours(
    network: str, tracker: MlflowTracker, mlflow_server: Server, tmp_path: Path
) -> None:
    import mlflow

    logged = tracker.log(quick_result(network))
    mlflow.set_tracking_uri(mlflow_server.url)
    folder = mlflow.artifacts.download_artifacts(f"models:/{logged.model}/{logged.version}", dst_path=str(tmp_path))
    _, holdout = lab_samples(2, 1000)
    np.save(tmp_path / "x.npy", holdout.x)
    program = (
        "import sys; sys.modules['complex_system'] = None\n"
        "import numpy, torch\n"
        f"model = torch.load({str(Path(folder) / 'data' / 'model.pth')!r}, weights_only=False)\n"
        f"x = torch.from_numpy(numpy.load({str(tmp_path / 'x.npy')!r}))\n"
        "print(float(model(x).detach().sum()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) == pytest.approx(float(quick_model(network)[0].predict(holdout.x).sum()), rel=1e-4)


def test_a_run_says_what_was_done(tracker: MlflowTracker, client: Any) -> None:
    result = quick_result("lightgbm")
    logged = tracker.log(result)
    run = client.get_run(logged.run_id)
    assert run.data.params["num_leaves"] == "10"
    assert run.data.metrics["validation_r2"] == pytest.approx(result.validation.r2)
    history = client.get_metric_history(logged.run_id, "epoch_validation_rmse")
    assert [(m.step, m.value) for m in history] == [(p.step, p.validation_rmse) for p in result.model.history]
    inputs = {entry.dataset.name: json.loads(entry.dataset.profile) for entry in run.inputs.dataset_inputs}
    assert set(inputs) == {"lab-train", "lab-validation"}


async def test_metrics_go_to_mlflow_in_batches_after_the_training_and_not_one_by_one(
    mlflow_server: Server, prefix: str, client: Any
) -> None:
    result = quick_result("lightgbm")
    steps = [replace(result.model.history[-1], step=step) for step in range(1, 301)]
    model = copy(result.model)
    model.history = steps
    long = replace(result, model=model)
    async with proxied(mlflow_server.port) as proxy:
        tracker = MlflowTracker(f"http://127.0.0.1:{proxy.port}", prefix, prefix)
        await asyncio.to_thread(tracker.prepare)
        logged = await asyncio.to_thread(tracker.log, long)
        asked = bytes(proxy.sent)
    history = client.get_metric_history(logged.run_id, "epoch_validation_rmse")
    assert [m.step for m in history] == list(range(1, 301))
    values = 300 * sum(name.startswith("epoch_") for name in client.get_run(logged.run_id).data.metrics)
    assert values >= 300
    assert asked.count(b"POST /api/2.0/mlflow/runs/log-metric") == 0
    assert 1 <= asked.count(b"POST /api/2.0/mlflow/runs/log-batch") <= 5


def test_four_trainers_may_make_the_same_experiment_at_once(mlflow_server: Server, prefix: str, client: Any) -> None:
    trackers = [MlflowTracker(mlflow_server.url, prefix, prefix) for _ in range(4)]
    results = [quick_result("lightgbm", f"trainer{i}") for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        logged = list(pool.map(lambda pair: pair[0].log(pair[1]), zip(trackers, results, strict=True)))
    experiments = {client.get_run(one.run_id).info.experiment_id for one in logged}
    assert len(experiments) == 1
    assert sorted(one.model for one in logged) == [f"{prefix}-trainer{i}" for i in range(4)]


def test_trainers_may_note_the_same_data_in_one_moment(mlflow_server: Server, prefix: str, client: Any) -> None:
    from mlflow.entities import Dataset, DatasetInput

    experiment = client.create_experiment(prefix)
    runs = [client.create_run(experiment).info.run_id for _ in range(4)]
    together = Barrier(len(runs))

    def note(run: str) -> None:
        for number in range(25):
            together.wait(60)
            log_data(client, run, DatasetInput(Dataset(f"data-{number}", "digest", "code", "{}")))

    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(note, runs))
    for run in runs:
        noted = {entry.dataset.name for entry in client.get_run(run).inputs.dataset_inputs}
        assert noted == {f"data-{number}" for number in range(25)}


def test_a_registry_that_is_away_is_noticed_in_seconds(prefix: str) -> None:
    begin = time.monotonic()
    with pytest.raises(TrackingUnavailableError):
        ModelRegistry(f"http://127.0.0.1:{free_port()}", prefix).newest_versions()
    assert time.monotonic() - begin < 10


def test_the_champion_moves_among_the_models_of_a_prefix(tracker: MlflowTracker, mlflow_server: Server, prefix: str) -> None:
    registry = ModelRegistry(mlflow_server.url, prefix)
    assert registry.newest_versions() == []
    assert registry.champion() is None
    first = tracker.log(quick_result("lightgbm", "first"))
    tracker.log(quick_result("lightgbm", "second"))
    newer = tracker.log(quick_result("lightgbm", "second"))
    for longer in (f"{prefix}x", f"{prefix}-2"):
        MlflowTracker(mlflow_server.url, prefix, longer).log(quick_result("lightgbm", "second"))
        (stranger,) = ModelRegistry(mlflow_server.url, longer).newest_versions()
        ModelRegistry(mlflow_server.url, longer).set_champion(stranger)
    assert registry.champion() is None
    found = registry.newest_versions()
    assert [(ref.model, ref.version) for ref in found] == [(first.model, "1"), (newer.model, "2")]
    assert found[1].run_id == newer.run_id
    assert (found[1].framework, found[1].trainer) == ("lightgbm", "second")
    for ref in (found[0], found[1], found[0]):
        registry.set_champion(ref)
        assert registry.champion() == ref
    assert ModelRegistry(mlflow_server.url, f"{prefix}-2").champion() == stranger
    with pytest.raises(UnknownModelError, match="no model .* version or alias .7."):
        registry.find(first.model, "7")


def test_who_stays_champion_has_been_it_since_the_first_time(
    tracker: MlflowTracker, mlflow_server: Server, prefix: str
) -> None:
    tracker.log(quick_result("lightgbm", "first"))
    registry = ModelRegistry(mlflow_server.url, prefix)
    (ref,) = registry.newest_versions()
    since = []
    for _ in range(2):
        registry.set_champion(ref)
        champion = registry.champion()
        assert champion is not None
        since.append(champion.tags["champion_since"])
    assert since[0] == since[1]


def test_a_champion_that_was_registered_without_the_prefix_tag_is_known_by_its_name(
    tracker: MlflowTracker, mlflow_server: Server, prefix: str, client: Any
) -> None:
    logged = tracker.log(quick_result("lightgbm"))
    client.delete_model_version_tag(logged.model, logged.version, "prefix")
    (ref,) = ModelRegistry(mlflow_server.url, prefix).newest_versions()
    assert ref.model == logged.model


def test_of_two_champions_the_one_crowned_last_counts(
    tracker: MlflowTracker, mlflow_server: Server, prefix: str, client: Any
) -> None:
    tracker.log(quick_result("lightgbm", "first"))
    tracker.log(quick_result("lightgbm", "second"))
    registry = ModelRegistry(mlflow_server.url, prefix)
    first, second = registry.newest_versions()
    registry.set_champion(second)
    registry.set_champion(first)
    client.set_registered_model_alias(second.model, "champion", second.version)  # as if its removal had been cut off
    assert registry.champion() == first


def test_a_champion_whose_version_was_deleted_counts_as_none(
    tracker: MlflowTracker, mlflow_server: Server, prefix: str, client: Any
) -> None:
    for trainer in ("first", "second"):
        tracker.log(quick_result("lightgbm", trainer))
        tracker.log(quick_result("lightgbm", trainer))
    registry = ModelRegistry(mlflow_server.url, prefix)
    first, second = registry.newest_versions()
    registry.set_champion(first)
    delete_version_as_older_servers(mlflow_server, first.model, first.version)
    assert (registry.champion(), registry.champions()) == (None, [])
    assert [aliases for _, aliases in registry.listed()] == [{}, {}]
    with pytest.raises(UnknownModelError):
        registry.find(first.model, "champion")
    with pytest.raises(UnknownModelError):
        registry.set_champion(first)
    registry.set_champion(second)
    assert registry.champion() == second
    assert not client.get_registered_model(first.model).aliases  # the alias of the other model is gone, too
    older = registry.find(first.model, "1")
    registry.set_champion(older)
    assert registry.champion() == older
    delete_version_as_older_servers(mlflow_server, older.model, older.version)  # the last version of its model
    registry.set_champion(second)
    assert registry.champion() == second


@pytest.mark.parametrize("deleted", ["version", "last version", "model"])
def test_a_champion_that_was_deleted_counts_as_none_on_a_server_of_the_clients_release(
    clients_mlflow_server: Server, prefix: str, deleted: str
) -> None:
    from mlflow import MlflowClient

    uri = clients_mlflow_server.url
    client = MlflowClient(uri, uri)
    for trainer in ("first", "second"):
        client.create_registered_model(f"{prefix}-{trainer}")
        for _ in range(1 if deleted == "last version" else 2):
            tags = {"trainer": trainer, "prefix": prefix, "pipeline_version": "v"}
            client.create_model_version(f"{prefix}-{trainer}", "mlflow-artifacts:/nowhere", tags=tags)
    registry = ModelRegistry(uri, prefix)
    first, second = registry.newest_versions()
    registry.set_champion(first)
    if deleted == "model":
        client.delete_registered_model(first.model)
    else:
        client.delete_model_version(first.model, first.version)
        assert "champion" in client.get_registered_model(first.model).aliases, "this server keeps the alias"
    assert (registry.champion(), registry.champions()) == (None, [])
    assert all(aliases == {} for _, aliases in registry.listed())
    assert second in registry.newest_versions()
    with pytest.raises(UnknownModelError):
        registry.find(first.model, "champion")
    with pytest.raises(UnknownModelError):
        registry.set_champion(first)
    registry.mark_compared([(first.model, first.version), (second.model, second.version)], "r")
    registry.set_champion(second, "r")  # as the next round does
    assert registry.champion() == second
    assert {
        model.name: model.aliases for model in client.search_registered_models(f"name LIKE '{prefix}-%'") if model.aliases
    } == {second.model: {"champion": second.version}}


def test_an_onnx_model_is_loaded_with_its_metadata_and_refused_when_it_is_damaged(
    tracker: MlflowTracker, mlflow_server: Server, prefix: str, client: Any, tmp_path: Path
) -> None:
    result = quick_result("lightgbm")
    logged = tracker.log(result)
    registry = ModelRegistry(mlflow_server.url, prefix)
    ref = registry.find(logged.model, logged.version)
    onnx, metadata = registry.load_onnx_model(ref)
    assert onnx == result.onnx_model
    assert metadata == result.metadata(logged.model, logged.run_id)
    (tmp_path / "model.onnx").write_bytes(onnx[:-1])
    client.log_artifact(logged.run_id, str(tmp_path / "model.onnx"), "twin")
    with pytest.raises(ModelRefusedError, match="damaged"):
        registry.load_onnx_model(ref)
    empty = client.create_run(client.get_experiment_by_name(prefix).experiment_id)
    version = client.create_model_version(logged.model, f"{empty.info.artifact_uri}/none", empty.info.run_id)
    with pytest.raises(ModelRefusedError, match="missing"):
        registry.load_onnx_model(registry.find(logged.model, version.version))


class Following(Tracker):
    """Counts what is handed on; fails the first time."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @override
    def prepare(self) -> None:
        pass

    @override
    def log(self, result: TrainingResult) -> LoggedModel:
        self.asked.append(result.round)
        if len(self.asked) == 1:
            raise TrackingUnavailableError("away")
        return LoggedModel("model", "1", "run", "url")


def test_a_registered_model_is_read_with_the_key_that_its_trainer_signed_it_with(
    mlflow_server: Server, prefix: str, client: Any
) -> None:
    logged = MlflowTracker(mlflow_server.url, prefix, prefix, "model-key").log(quick_result("lightgbm", "signed"))
    ours, others = (ModelRegistry(mlflow_server.url, prefix, key) for key in ("model-key", "another"))
    ref = ours.find(logged.model, logged.version)
    _, metadata = ours.load_onnx_model(ref)
    with pytest.raises(ModelRefusedError, match="not signed"):
        others.load_onnx_model(ref)
    # Somebody who may write to MLflow replaces the model and its digest, or registers the files under another name.
    forged = {**metadata, "sha256": hashlib.sha256(b"evil").hexdigest()}
    client.log_text(ref.run_id, "evil", f"{ONNX_FOLDER}/{ONNX_FILE}")
    client.log_text(ref.run_id, json.dumps(forged), f"{ONNX_FOLDER}/{ONNX_METADATA}")
    assert ModelRegistry(mlflow_server.url, prefix).load_onnx_model(ref)[0] == b"evil"
    with pytest.raises(ModelRefusedError, match="not signed"):
        ours.load_onnx_model(ref)
    unsigned = MlflowTracker(mlflow_server.url, prefix, prefix).log(quick_result("lightgbm", "unsigned"))
    with pytest.raises(ModelRefusedError, match="replaced by the next training"):
        ours.load_onnx_model(ours.find(unsigned.model, unsigned.version))


def test_wandb_offline_writes_its_run_and_the_plain_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from complex_system.training.pytorch import state_bytes

    following = Following()
    tracker = WandbTracker(
        following,
        state_bytes,
        mode="offline",
        project="KIOptipack-dev",
        group="MVDP-pytorch-regression",
        directory=str(tmp_path),
    )
    tracker.prepare()
    result = quick_result("pytorch", "pytorch-wandb")
    try:
        with pytest.raises(TrackingUnavailableError):
            tracker.log(result)
        logged = tracker.log(result)
    finally:
        tracker.close()
    assert logged.model == "model"
    assert following.asked == [result.round] * 2
    runs = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 1, "a repeated attempt is no second run"
    content = runs[0].read_bytes()
    for name in ("KIOptipack-dev", "MVDP-pytorch-regression", "DemonstratorNeuralNet", ARTIFACT_TYPE, "input_dim"):
        assert name.encode() in content
    store = ArtifactStore(artifact_folder(str(tmp_path)))
    digest = store.newest()
    assert digest is not None
    files, metadata = store.read(digest)
    assert metadata == result.metadata("DemonstratorNeuralNet", runs[0].stem.removeprefix("run-"))
    assert files["model.onnx"] == result.onnx_model
    import torch

    _, holdout = lab_samples(2, 1000)
    predicted = network_from_state(files["model.pt"])(torch.from_numpy(holdout.x)).detach().numpy()[:, 0]
    np.testing.assert_array_equal(predicted, result.model.predict(holdout.x))
    said = [line for line in "".join(capfd.readouterr()).splitlines() if "wandb:" in line]
    assert [line for line in said if "anonymous setting" not in line] == []  # W&B's own trouble with pydantic 1
