"""A monitor that has seen one of everything, as it comes over the broker."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.monitoring.history import Champion, History
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.points import Figures
from complex_system.monitoring.reference import Reference
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import to_wire
from complex_system.protocol.database import GET_COUNTS, GET_REJECTED
from complex_system.protocol.operations import ALERT_RAISED, SERVICE_HEARTBEAT
from complex_system.protocol.serving import PREDICTION_FAILED, PREDICTION_MADE, TRUTH_KNOWN
from complex_system.protocol.training import CHAMPION_CHANGED, COMPARISON_FINISHED

NOW = 1_800_000_000.0
SCORES = {"rmse": 2.0, "mae": 1.5, "r2": 0.9}
CHAMPION = {"model": "lab-lightgbm", "version": "1", "framework": "lightgbm"}
ALERT = {
    "key": "01890a5d-ac96-774b-bcce-b302099a8057", "rule": "drift", "metric": "drift/psi/rohwert_1_low",
    "subject": "rohwert_1_labormessung", "severity": "warning", "retrain": True, "since": NOW - 90, "began": NOW - 60, "ended": None,
    "value": 0.5, "newest": 0.4, "threshold": 0.25, "sentence": "It drifts.", "over": "",
    "actions": [{"round": "r1", "at": NOW - 50, "outcome": "kept", "what": "The old one is better."}],
}  # fmt: skip


def records_of(count: int) -> list[dict[str, Any]]:
    laboratory = Laboratory(3)
    return [{**laboratory.complete_record(), ID: f"key-{i:03}"} for i in range(count)]


def see_everything(monitor: Monitor, clock: list[float]) -> Figures:
    """Give the monitor one of everything, as it comes over the broker; return its point."""
    records = records_of(60)
    table = pa.Table.from_pylist(records_of(200))
    monitor.reference = Reference.of(monitor.dataset, Pipeline(monitor.dataset).features(records_of(200)), table)
    compared = {
        **SCORES, **CHAMPION, "trainer": "ml_lightgbm_regression_mlflow", "rmse_low": 1.9, "rmse_high": 2.1,
        "cv": {**SCORES, "rmse_low": 1.8, "rmse_high": 2.2},
    }  # fmt: skip
    hear_comparison(monitor, {
        "round": "r1", "results": [compared], "champion": {**CHAMPION, "trainer": compared["trainer"], "rmse": 2.0}, "holdout": 900,
        "kept": "", "cause": "growth", "alerts": [], "ranked_by": "cross-validation", "run_url": "http://127.0.0.1/run",
        "cross_validation": {"records": 800, "folds": 5, "repeats": 2},
        "baselines": {"mean": {**SCORES, "rmse_low": None, "rmse_high": None, "cv": {**SCORES, "rmse_low": 1.0, "rmse_high": 3.0}}},
        "verdicts": {"mean": {"verdict": "better", "better_by": 90.0, "low": 80.0, "high": 100.0}},
        "verdict": "It is better than the mean.", "not_better_than": [],
    })  # fmt: skip
    crown(monitor, NOW - 60, {**CHAMPION, "rmse": 2.0, "pipeline_version": "p", "cause": "growth"})
    made = [{"id": r[ID], "record": r, "prediction": (truth_of(r) or 0.0) + 3.0 + i % 2} for i, r in enumerate(records)]
    shadows = [
        {"model": "lab-pytorch", "version": "4", "framework": "pytorch", "milliseconds": 8.0,
         "predictions": [each["prediction"] + 2.0 for each in made]},
        {"model": "lab-tensorflow", "version": "1", "framework": "tensorflow", "error": "no ONNX model"},
    ]  # fmt: skip
    hear_prediction(monitor, {
        "service": CHAMPIONS_SERVICE, "model": "lab-lightgbm", "version": "1", "pipeline_version": monitor.dataset.version,
        "milliseconds": 4.0, "predictions": made, "shadows": shadows,
    })  # fmt: skip
    hear_prediction(monitor, {
        "service": "ml_serving", "model": "lab-wandb", "version": "v2", "pipeline_version": "another", "milliseconds": 9.0,
        "predictions": [{"id": None, "record": records[0], "prediction": 1.0}],
    })  # fmt: skip
    hear_truths(monitor, {"truths": [{"id": r[ID], "truth": truth_of(r)} for r in records[:50]]})
    hear_failures(monitor, {"service": CHAMPIONS_SERVICE, "failures": {"invalid_record": 2}})
    beat = {
        "service": "ml_serving_mlflow", "replica": "a", "instance": "i", "host": "h", "state": "ready", "detail": "lab-lightgbm 1",
        "pid": 7, "url": "http://127.0.0.1:1", "version": "0.3.0", "started": NOW - 500, "cpu_percent": 10.0,
        "memory_megabytes": 50.0, "pipeline_version": "",
    }  # fmt: skip
    for each in (
        beat,
        {**beat, "replica": "b", "state": "stopped"},
        {**beat, "service": "data_processing", "state": "working"},
    ):
        hear_heartbeat(monitor, each)
    reason = "material_id: 'X' is not one of 00000000; rohwert_1_labormessung: 31.0 is outside of [0, 30]"
    for i in range(2):
        count_records(monitor, NOW + i, {"raw": 10 * i, "processed": 5 * i, "labelled": i, "rejected": i})
    reject(monitor, NOW + 1, [{"_id": "bad", "reason": reason, "version": "p"}])
    keep_alert(monitor, ALERT)
    keep_alert(
        monitor, {**ALERT, "key": "past", "began": NOW - 600, "ended": NOW - 300, "over": "It is over.", "actions": []}
    )
    data = monitor.measure_data(monitor.records, monitor.reference)
    clock[0] += 10.0
    return monitor.point(host_figures({"cpu_utilization_percentage": 12.0, "disk_usage_percentage": 40.0}), data)


# What comes over the broker, to objects


def hear_comparison(monitor: Monitor, payload: dict[str, Any]) -> None:
    monitor.compared(COMPARISON_FINISHED.decode(payload))


def crown(monitor: Monitor, at: float, payload: dict[str, Any]) -> None:
    monitor.history.crowned(Champion(**to_wire(CHAMPION_CHANGED.decode(payload)), at=at))


def hear_prediction(monitor: Monitor, payload: dict[str, Any]) -> None:
    monitor.predicted(PREDICTION_MADE.decode(payload))


def hear_truths(monitor: Monitor, payload: dict[str, Any]) -> None:
    monitor.measured(TRUTH_KNOWN.decode(payload))


def hear_failures(monitor: Monitor, payload: dict[str, Any]) -> None:
    monitor.failed(PREDICTION_FAILED.decode(payload))


def hear_heartbeat(monitor: Monitor, payload: dict[str, Any]) -> None:
    monitor.services.heartbeat_received(SERVICE_HEARTBEAT.decode(payload))


def count_records(monitor: Monitor, at: float, payload: dict[str, Any]) -> None:
    monitor.flow.counted(at, GET_COUNTS.decode_reply(payload))


def reject(monitor: Monitor, at: float, payload: list[dict[str, Any]]) -> None:
    monitor.flow.rejected(at, GET_REJECTED.decode_reply(payload))


def keep_alert(monitor: Monitor, payload: dict[str, Any]) -> None:
    monitor.history.alert(ALERT_RAISED.decode(payload))


def host_figures(numbers: dict[str, float]) -> Figures:
    figures = Figures()
    figures.add("system", numbers)
    return figures


def new_monitor(dataset: Dataset, clock: list[float]) -> Monitor:
    return Monitor(dataset, 500, History(seed=1), monotonic=lambda: clock[0], now=lambda: NOW)
