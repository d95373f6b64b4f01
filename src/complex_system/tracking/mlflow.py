"""Trainings in MLflow: one run each, with parameters, metrics per step, data set, native model, ONNX model and model version."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from complex_system.errors import TrackingRefusedError, TrackingUnavailableError
from complex_system.protocol.base import to_wire
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult
from complex_system.tracking.connection import (
    experiment_id,
    is_refusal,
    load_mlflow,
    log_files,
    open_client,
    run_url,
    translated,
)
from complex_system.tracking.flavors import log_native
from complex_system.tracking.model_files import TRAINING
from complex_system.tracking.registry import (
    DATA_UNTIL,
    ONNX_FILE,
    ONNX_FOLDER,
    ONNX_METADATA,
    PREFIX,
    REFERENCE_FILE,
    REFERENCE_FOLDER,
    SPLIT,
    TRAINED_UNTIL,
)
from complex_system.tracking.signature import signed

BATCH = 1000
"""Metrics that MLflow takes in one request."""


@dataclass
class _Begun:
    """What was logged of a training; after a failure it is not logged again."""

    experiment: str
    run_id: str
    native: Any = None


class MlflowTracker(Tracker):
    """Logs to one MLflow server. The version is registered last, with all of its tags."""

    def __init__(self, tracking_uri: str, experiment: str, prefix: str, model_key: str = "") -> None:
        """Prepare a tracker; nothing is imported or sent yet.

        Args:
            tracking_uri: MLflow server.
            experiment: Name of the experiment; made when it is missing.
            prefix: The registered model is named ``<prefix>-<trainer>``.
            model_key: Signs the models; empty for no signature.
        """
        self._uri = tracking_uri
        self._experiment = experiment
        self._prefix = prefix
        self._model_key = model_key
        self._begun: dict[tuple[str, str], _Begun] = {}

    @override
    def prepare(self) -> None:
        load_mlflow().set_tracking_uri(self._uri)

    @override
    def log(self, result: TrainingResult) -> LoggedModel:
        try:
            return self._log(result)
        except Exception as error:
            if isinstance(error, TrackingRefusedError) or not isinstance(error, TrackingUnavailableError):
                self._give_up(result)  # nobody calls again to go on with what was begun
            raise

    def _log(self, result: TrainingResult) -> LoggedModel:
        client = open_client(self._uri)
        with translated(self._uri, "logging a training"):
            begun = self._run_of(client, result)
            name = f"{self._prefix}-{result.trainer}"
            version = _registered(client, name, begun.run_id)
            if version is None:
                if begun.native is None:  # before the metrics: MLflow would ask for the history of each of them
                    begun.native = self._log_native(begun.run_id, result)
                self._log_run(client, begun, result)
                metadata = json.dumps(signed(result.metadata(name, begun.run_id), self._model_key), indent=2).encode()
                log_files(
                    client,
                    begun.run_id,
                    ONNX_FOLDER,
                    {**result.files, ONNX_FILE: result.onnx_model, ONNX_METADATA: metadata},
                )
                if result.training:
                    log_files(client, begun.run_id, TRAINING, result.training)
                if result.reference is not None:
                    log_files(client, begun.run_id, REFERENCE_FOLDER, {REFERENCE_FILE: result.reference})
                version = self._register(client, begun, result, name)
            client.set_terminated(begun.run_id, "FINISHED")
        del self._begun[result.trainer, result.round]
        return LoggedModel(name, version, begun.run_id, run_url(self._uri, begun.experiment, begun.run_id))

    def _give_up(self, result: TrainingResult) -> None:
        begun = self._begun.pop((result.trainer, result.round), None)
        if begun is not None:
            with suppress(TrackingUnavailableError), translated(self._uri, "ending a failed run"):
                open_client(self._uri).set_terminated(begun.run_id, "FAILED")

    def _run_of(self, client: Any, result: TrainingResult) -> _Begun:
        """Return the run of a training: after a failure, also in an earlier process, the run that was begun."""
        key = (result.trainer, result.round)
        if key not in self._begun:
            experiment = experiment_id(client, self._experiment)
            started = _milliseconds(result.started_at)
            mine = f"tags.trainer = '{result.trainer}' and attributes.start_time = {started}"
            earlier = [run for run in client.search_runs([experiment], mine) if run.data.tags.get("round") == result.round]
            if earlier:
                run_id = earlier[0].info.run_id
                client.update_run(run_id, status="RUNNING")
                self._begun[key] = _Begun(experiment, run_id, _native_of(client, run_id))
            else:
                source = {"mlflow.source.name": f"complex_system.{result.trainer}", "mlflow.source.type": "JOB"}
                name = f"{result.trainer} {result.round[-12:]}"
                run = client.create_run(experiment, start_time=started, tags=_tags(result) | source, run_name=name)
                self._begun[key] = _Begun(experiment, run.info.run_id)
        return self._begun[key]

    def _log_run(self, client: Any, begun: _Begun, result: TrainingResult) -> None:
        from mlflow.entities import DatasetInput, InputTag, Param

        parameters = {**result.model.parameters, "dataset": result.dataset.name, "best_step": result.model.best_step}
        run_id = begun.run_id
        client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])  # type: ignore[no-untyped-call]
        metrics = _metrics(result, begun.native.model_id)
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        for part in ("train", "validation"):
            tag = InputTag("mlflow.data.context", "training" if part == "train" else part)
            log_data(client, run_id, DatasetInput(_dataset(result, part), [tag]))

    def _log_native(self, run_id: str, result: TrainingResult) -> Any:
        mlflow = load_mlflow()
        mlflow.set_tracking_uri(self._uri)
        with mlflow.start_run(run_id=run_id):
            return log_native(result)

    def _register(self, client: Any, begun: _Begun, result: TrainingResult, name: str) -> str:
        """Register the native model; return the version."""
        try:
            client.create_registered_model(name, description=f"{result.dataset.target} by {result.trainer}")
        except Exception as error:
            if not is_refusal(error, "RESOURCE_ALREADY_EXISTS"):
                raise
        tags = {**_tags(result), "twin": ONNX_FOLDER, PREFIX: self._prefix}
        native = begun.native
        version = client.create_model_version(name, native.model_uri, begun.run_id, tags=tags, model_id=native.model_id)
        return str(version.version)


def _registered(client: Any, name: str, run_id: str) -> str | None:
    """Return the version that an earlier attempt registered of a run; None where there is none."""
    existing = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1)
    return str(existing[0].version) if existing else None


def _native_of(client: Any, run_id: str) -> Any:
    """Return the native model that an earlier process logged completely; None where there is none."""
    from mlflow.entities import LoggedModelStatus

    outputs = client.get_run(run_id).outputs  # which a search leaves out
    models = [client.get_logged_model(each.model_id) for each in (outputs.model_outputs if outputs else [])]
    return next((model for model in models if model.status == LoggedModelStatus.READY), None)


def log_data(client: Any, run_id: str, data: Any) -> None:
    """Record what a run was trained on.

    The trainers of a round have the same data. MLflow (3.5.1) checks whether it knows them before it inserts them, and refuses the
    second of two that do so at the same time; a second try finds them.
    """
    try:
        client.log_inputs(run_id, [data])
    except Exception as error:
        if not is_refusal(error, "BAD_REQUEST"):
            raise
        client.log_inputs(run_id, [data])


def _tags(result: TrainingResult) -> dict[str, str]:
    """Return the tags of a training's run and model version."""
    return {
        "framework": result.framework,
        "trainer": result.trainer,
        "round": result.round,
        "pipeline_version": result.dataset.version,
        "target": result.dataset.target,
        SPLIT: result.data.split,
        "question": result.dataset.split.question,
        **({DATA_UNTIL: repr(result.data.arrived)} if result.data.arrived else {}),
        **({} if result.data.until is None else {TRAINED_UNTIL: repr(result.data.until)}),
    }


def _metrics(result: TrainingResult, model_id: str) -> list[Any]:
    """Return the metrics of each step, and those of the model at the best step.

    Their times are those of the training, so that a repeated attempt adds nothing.
    """
    from mlflow.entities import Metric

    begin, end = _milliseconds(result.started_at), _milliseconds(result.trained_at)
    history = result.model.history
    metrics = []
    for i, progress in enumerate(history):
        time = begin + (end - begin) * (i + 1) // len(history)
        metrics.append(Metric("train_rmse", progress.train_rmse, time, progress.step))
        metrics.append(Metric("epoch_validation_rmse", progress.validation_rmse, time, progress.step))
    best = result.model.best_step
    scores = {f"validation_{name}": value for name, value in to_wire(result.validation).items()}
    seconds = {f"seconds_{stage}": value for stage, value in result.timings.items()}
    sizes = {name: float(size) for name, size in result.sizes.items()}
    metrics += [Metric(name, value, end, best, model_id=model_id) for name, value in scores.items()]
    if cross := result.cross_validation:
        metrics += [Metric("cv_fold_rmse", value, end, fold) for fold, value in enumerate(cross.rmses, 1)]
        kept = {"rmse": cross.rmse, "rmse_standard_error": cross.standard_error, "mae": cross.mae, "r2": cross.r2,
                "records": float(cross.records)}  # fmt: skip
        metrics += [Metric(f"cv_{name}", value, end, best) for name, value in kept.items()]
    return metrics + [Metric(name, value, end, best) for name, value in {**seconds, **sizes}.items()]


def _dataset(result: TrainingResult, part: str) -> Any:
    """Describe one part of the data for MLflow: names, size and digest, not the data."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.numpy_dataset import from_numpy

    samples = result.data.train if part == "train" else result.data.validation
    digest = hashlib.sha256(samples.x.tobytes() + samples.y.tobytes()).hexdigest()[:8]
    source = CodeDatasetSource({"database": "get-processed-columns", "pipeline_version": result.dataset.version})
    name = f"{result.dataset.name}-{part}"
    features = {column: samples.x[:, i] for i, column in enumerate(result.data.feature_names)}
    described = from_numpy(features, source=source, targets={result.dataset.target: samples.y}, name=name, digest=digest)
    return described._to_mlflow_entity()


def _milliseconds(time: Any) -> int:
    return int(time.timestamp() * 1000)
