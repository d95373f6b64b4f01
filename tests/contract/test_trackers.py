"""Our trackers keep the contract of ``complex_system.testing.trackers``, and what they do with MLflow and W&B beyond it."""

from __future__ import annotations

import asyncio
import json
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from complex_system.errors import TrackingRefusedError, TrackingUnavailableError
from complex_system.local.servers import Server, free_port
from complex_system.testing.proxy import proxied
from complex_system.testing.trackers import SECRET, KeptModel, TrackerContract, TrackerPlace
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult
from complex_system.tracking.mlflow import MlflowTracker
from complex_system.tracking.outbox import Outbox
from complex_system.tracking.registry import ModelRegistry
from complex_system.tracking.wandb import WandbTracker
from trainings import quick_result, trainer

# MLflow and W&B warn of their own and each other's deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Interrupted(AbstractContextManager[None]):
    """While it is open, a step of logging to MLflow fails as if the server had gone."""

    def __init__(self, step: str) -> None:
        self._step, self._patch = step, pytest.MonkeyPatch()

    def __enter__(self) -> None:
        def cut(*_: Any) -> None:
            raise TrackingUnavailableError("cut")

        self._patch.setattr(f"complex_system.tracking.mlflow.{self._step}", cut)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


class MlflowPlace(TrackerPlace):
    """An experiment, and the registered models of a prefix, in MLflow."""

    def __init__(self, make: Callable[[str, str, Path], Tracker], uri: str, prefix: str, folder: Path) -> None:
        from mlflow import MlflowClient

        self._make, self._uri, self._prefix, self._folder = make, uri, prefix, folder
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def tracker(self) -> Tracker:
        return self._make(self._uri, self._prefix, self._folder)

    def runs(self) -> list[str]:
        experiment = self._client.get_experiment_by_name(self._prefix)
        return [run.info.status.lower() for run in self._client.search_runs([experiment.experiment_id])]

    def models(self) -> list[KeptModel]:
        registry = ModelRegistry(self._uri, self._prefix)
        found = []
        for name in {ref.model for ref in registry.newest_versions()}:
            versions = [each.version for each in self._client.search_model_versions(f"name = '{name}'")]
            for version in sorted(versions, key=int):
                ref = registry.find(name, version)
                onnx, metadata = registry.load_onnx_model(ref)
                found.append(KeptModel(name, str(version), onnx, metadata, registry.load_files(ref, metadata)))
        return found

    def interruptions(self) -> list[Interrupted]:
        return [Interrupted("log_files"), Interrupted("MlflowTracker._register")]

    def away(self) -> Tracker:
        return self._make(f"http://user:{SECRET}@127.0.0.1:{free_port()}", self._prefix, self._folder)


class MlflowTrackerCases(TrackerContract):
    """The suite on MLflow, and what its runs say."""

    framework: ClassVar[str]
    trainer: ClassVar[str]

    @pytest.fixture
    def place(self, mlflow_server: Server, prefix: str, tmp_path: Path) -> MlflowPlace:
        return MlflowPlace(self.make, mlflow_server.url, prefix, tmp_path)

    @abstractmethod
    def make(self, uri: str, prefix: str, folder: Path) -> Tracker:
        """A tracker that registers in MLflow, in the experiment ``prefix``."""

    @pytest.fixture
    def prefix(self) -> str:
        return f"t{uuid.uuid4().hex[:8]}"

    @pytest.fixture(scope="class", autouse=True)
    def _closed(self, mlflow_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        tracker = self.make(mlflow_server.url, "unused", tmp_path_factory.mktemp("tracker"))
        tracker.prepare()
        yield
        tracker.close()

    @pytest.fixture
    def client(self, mlflow_server: Server) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=mlflow_server.url, registry_uri=mlflow_server.url)

    def result(self) -> TrainingResult:
        result = quick_result(self.framework, self.trainer)
        return replace(result, data=replace(result.data, copies=7))

    def test_a_run_and_its_version_say_what_was_trained_on(
        self, mlflow_server: Server, client: Any, prefix: str, tmp_path: Path
    ) -> None:
        result = self.result()
        logged = self.make(mlflow_server.url, prefix, tmp_path).log(result)
        run = client.get_run(logged.run_id)
        tags = {
            "framework": self.framework,
            "trainer": self.trainer,
            "round": result.round,
            "pipeline_version": result.dataset.version,
            "target": "aufbereiteter_wert",
            "split": "content",
            "question": "a new sample of what is known: records of the same batch or settings may have been trained on",
        }
        assert run.info.status == "FINISHED"
        assert tags.items() <= run.data.tags.items()
        assert run.data.metrics["validation_rmse"] == pytest.approx(result.validation.rmse)
        assert {
            "copies": 7,
            **{f"{part}_samples": size for part, size in result.samples.items()},
        }.items() <= run.data.metrics.items()
        assert logged.run_url == f"{mlflow_server.url}/#/experiments/{run.info.experiment_id}/runs/{logged.run_id}"
        assert (logged.model, logged.version) == (f"{prefix}-{self.trainer}", "1")
        assert client.get_model_version(logged.model, "1").tags == {**tags, "twin": "twin", "prefix": prefix}
        registry = ModelRegistry(mlflow_server.url, prefix)
        (ref,) = registry.newest_versions()
        _, metadata = registry.load_onnx_model(ref)
        assert registry.load_files(ref, metadata, ["unknown"]) == {}

    async def test_logging_goes_on_when_the_server_is_back(
        self, mlflow_server: Server, client: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = self.result()
        async with proxied(mlflow_server.port) as proxy:
            tracker = self.make(f"http://127.0.0.1:{proxy.port}", prefix, tmp_path)
            with monkeypatch.context() as patch:

                def cut(*_: Any) -> None:
                    raise TrackingUnavailableError("cut")

                patch.setattr("complex_system.tracking.mlflow.log_files", cut)
                with pytest.raises(TrackingUnavailableError):
                    await asyncio.to_thread(tracker.log, result)
            await proxy.cut()
            with pytest.raises(TrackingUnavailableError, match="does not answer"):
                await asyncio.to_thread(tracker.log, result)
            await proxy.join()
            logged = await asyncio.to_thread(tracker.log, result)
        experiment = client.get_experiment_by_name(prefix).experiment_id
        assert [run.info.run_id for run in client.search_runs([experiment])] == [logged.run_id]
        assert len(client.search_logged_models([experiment])) == 1
        assert len(client.get_metric_history(logged.run_id, "train_rmse")) == len(result.model.history)
        assert logged.version == "1"
        assert self.runs_elsewhere(tmp_path) <= 1, "a repeated attempt is no second run"

    def test_another_process_goes_on_with_what_the_outbox_has(
        self, mlflow_server: Server, client: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outbox = Outbox(tmp_path / "outbox")
        result = self.result()
        kept = outbox.keep(result)
        framework = trainer(self.framework)

        def process() -> LoggedModel:
            return self.make(mlflow_server.url, prefix, tmp_path).log(outbox.load(kept, framework))

        for step in ("log_files", "MlflowTracker._register"):  # killed after the native model, and before the version
            with monkeypatch.context() as patch:

                def cut(*_: Any) -> None:
                    raise TrackingUnavailableError("cut")

                patch.setattr(f"complex_system.tracking.mlflow.{step}", cut)
                with pytest.raises(TrackingUnavailableError):
                    process()
        logged = process()
        assert process() == logged  # killed before it was removed from the outbox
        experiment = client.get_experiment_by_name(prefix).experiment_id
        (run,) = client.search_runs([experiment])
        assert (run.info.run_id, run.info.status) == (logged.run_id, "FINISHED")
        assert len(client.search_logged_models([experiment])) == 1
        assert len(client.get_metric_history(logged.run_id, "train_rmse")) == len(result.model.history)
        assert [each.version for each in client.search_model_versions(f"name = '{logged.model}'")] == ["1"]
        registry = ModelRegistry(mlflow_server.url, prefix)
        ref = registry.find(logged.model, "1")
        onnx, metadata = registry.load_onnx_model(ref)
        assert (onnx, metadata) == (result.onnx_model, result.metadata(logged.model, logged.run_id))
        assert registry.load_files(ref, metadata) == result.files, "the outbox keeps them, too"
        assert self.runs_elsewhere(tmp_path) <= 1

    def test_what_the_server_refuses_leaves_nothing_half_done(
        self, mlflow_server: Server, client: Any, prefix: str, tmp_path: Path
    ) -> None:
        refused = f"{prefix}'"  # a quote breaks the registry's query, long after the run was begun
        secret = mlflow_server.url.replace("//", "//user:secret@")
        tracker = self.make(secret, refused, tmp_path)
        with pytest.raises(TrackingRefusedError, match="refuses") as caught:
            tracker.log(self.result())
        assert "secret" not in caught.value.message
        (run,) = client.search_runs([client.get_experiment_by_name(refused).experiment_id])
        assert run.info.status == "FAILED"
        assert not self.kept(tracker)

    def runs_elsewhere(self, folder: Path) -> int:
        """How many runs the tracker wrote beside MLflow's."""
        return 0

    @abstractmethod
    def kept(self, tracker: Any) -> Any:
        """What the tracker remembers of trainings under way."""


class TestMlflow(MlflowTrackerCases):
    framework = trainer = "lightgbm"

    def make(self, uri: str, prefix: str, folder: Path) -> Tracker:
        return MlflowTracker(uri, prefix, prefix)

    def kept(self, tracker: Any) -> Any:
        return tracker._begun

    def test_the_password_is_not_in_the_address_of_a_run(self, mlflow_server: Server, prefix: str, tmp_path: Path) -> None:
        logged = self.make(mlflow_server.url.replace("//", "//user:secret@"), prefix, tmp_path).log(self.result())
        assert logged.run_url.startswith(f"{mlflow_server.url}/#/")


def offline_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and configuration of the one run that W&B wrote for a later `wandb sync`."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    store, summary, config = DataStore(), {}, {}
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update if item.key}
    return summary, config


class TestWandb(MlflowTrackerCases):
    framework, trainer = "pytorch", "pytorch-wandb"

    def make(self, uri: str, prefix: str, folder: Path) -> Tracker:
        from complex_system.training.pytorch import state_bytes

        following = MlflowTracker(uri, prefix, prefix)
        return WandbTracker(
            following, state_bytes, mode="offline", project="KIOptipack-dev", group="test", directory=str(folder)
        )

    def kept(self, tracker: Any) -> Any:
        return tracker._done or tracker.following._begun

    def runs_elsewhere(self, folder: Path) -> int:
        return len(list((folder / "wandb").glob("offline-run-*")))

    def test_the_run_says_what_it_was_trained_on(self, mlflow_server: Server, prefix: str, tmp_path: Path) -> None:
        result = self.result()
        self.make(mlflow_server.url, prefix, tmp_path).log(result)
        summary, config = offline_run(tmp_path)
        assert {name: summary.get(name) for name in result.sizes} == result.sizes
        assert summary["copies"] == 7
        assert summary["validation_rmse"] == pytest.approx(result.validation.rmse)
        assert (config["split"], config["pipeline_version"]) == ("content", result.dataset.version)
