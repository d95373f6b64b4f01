"""What others read of monitoring stays as it was: MLflow's metrics, Prometheus' series, REST answers, documents, webhook and alerts.

``monitoring_formats.json`` was written by the release before figures, events and views became types.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.documents import Document
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.monitoring import views
from complex_system.monitoring.history import Champion, History
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.points import Figure, Figures
from complex_system.monitoring.reference import Reference
from complex_system.monitoring.rest import make_app
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import to_wire
from complex_system.protocol.database import GET_COUNTS, GET_REJECTED
from complex_system.protocol.operations import ALERT_RAISED, SERVICE_HEARTBEAT
from complex_system.protocol.serving import ORIGIN_LABELS, PREDICTION_FAILED, PREDICTION_MADE, TRUTH_KNOWN
from complex_system.protocol.training import CHAMPION_CHANGED, COMPARISON_FINISHED
from kept import KeptDocuments

NOW = 1_800_000_000.0
EXPECTED = Path(__file__).with_name("monitoring_formats.json")
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


async def rest_answers(monitor: Monitor) -> dict[str, Any]:
    period = {"from": NOW - 600, "to": NOW + 60}
    transport = httpx.ASGITransport(make_app(monitor))
    async with httpx.AsyncClient(transport=transport, base_url="http://monitoring") as client:
        answers = {path: (await client.get(f"/api/{path}")).json() for path in ("overview", "models", "data", "alerts")}
        answers |= {path: (await client.get(f"/api/{path}", params=period)).json() for path in ("predictions", "system")}
        named = {**period, "name": "services/ml_serving_mlflow/cpu_percent"}
        answers["metric"] = (await client.get("/api/metric", params=named)).json()
        answers["prometheus"] = (await client.get("/metrics")).text.splitlines()
    return answers


def rounded(value: Any) -> Any:
    """A value with five digits, so that another processor's last bits make no difference; whole numbers as integers."""
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        short = float(f"{value:.5g}") if abs(value) < 1e6 else value
        return int(short) if short == int(short) else short
    return value


async def formats(dataset: Dataset) -> dict[str, Any]:
    """Everything that others read of a monitor that has seen everything once."""
    clock, documents = [1000.0], KeptDocuments()
    monitor = new_monitor(dataset, clock)
    await monitor.history.load(documents, NOW)
    metrics = see_everything(monitor, clock).flat()
    await monitor.join.save(documents, NOW + 60)
    await documents.save(monitor.history.changed())
    shown = to_wire(views.snapshot(monitor))
    assert (shown.pop("run_id"), shown.pop("waiting_points")) == (None, 0)  # the service adds them
    kept = [[each.kind, each.key, each.at, each.body] for each in documents.kept.values()]
    answers = await rest_answers(monitor)
    lines = answers.pop("prometheus")
    series = {name: float(value) for name, _, value in (each.rpartition(" ") for each in lines) if not name.startswith("#")}
    whole = {"metrics": metrics, "prometheus": series, "rest": answers, "documents": sorted(kept, key=lambda each: each[:2]),
             "snapshot": shown}  # fmt: skip
    found: dict[str, Any] = json.loads(json.dumps(rounded(whole)))
    return found


def is_pair(row: list[Any]) -> bool:
    """Whether it is a pair of a window or of a sample, which since then ends with the record's key, a window's with its time, too."""
    return len(row) in (2, 5) and all(isinstance(each, int | float) for each in row[:2])


def as_before(value: Any, before: Any) -> Any:
    """Return what others read without what the release before did not have: documents, fields, and the origin at the end of a list."""
    if isinstance(value, dict) and isinstance(before, dict):
        return {name: as_before(value[name], each) for name, each in before.items() if name in value}
    if isinstance(value, list) and isinstance(before, list):
        if value and isinstance(value[0], list) and len(value[0]) == 4 and isinstance(value[0][3], dict):  # documents
            known = [each[:2] for each in before]
            value = [each for each in value if each[:2] in known]
        if len(value) == len(before) + 1 and value[-1] in ORIGIN_LABELS:
            value = value[:-1]
        if (
            is_pair(before)
            and len(value) == len(before) + (1 if isinstance(before[-1], str) else 2)
            and value[-1].startswith("key-")
        ):
            value = value[: len(before)]
        return [as_before(*each) for each in zip(value, before, strict=True)] if len(value) == len(before) else value
    return value


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    for _, key, _, body in found["documents"]:
        if key == "windows":  # of a model without a pair, that is not said any more
            body["pairs"] = [[by, pairs] for by, pairs in body["pairs"] if pairs]
    return found


@pytest.mark.parametrize("part", ["metrics", "prometheus", "rest", "documents", "snapshot"])
async def test_what_others_read_is_as_the_release_before_wrote_it(
    part: str, dataset: Dataset, expected: dict[str, Any]
) -> None:
    assert as_before((await formats(dataset))[part], expected[part]) == expected[part]


async def test_documents_of_the_release_before_are_read(dataset: Dataset, expected: dict[str, Any]) -> None:
    documents = KeptDocuments()
    for kind, key, at, body in expected["documents"]:
        documents.kept[kind, key] = Document(kind, key, at, body)
    restarted = new_monitor(dataset, [1000.0])
    await restarted.join.load(documents, NOW, 3600.0)
    await restarted.history.load(documents, NOW)
    restarted.restore()
    point = restarted.point(host_figures({}), None).flat()
    assert point["performance/rmse"] == pytest.approx(expected["metrics"]["performance/rmse"], rel=1e-4)
    assert point["performance/rmse_relative"] == pytest.approx(expected["metrics"]["performance/rmse_relative"], rel=1e-4)
    answers = rounded(await rest_answers(restarted))
    for view, part in (
        ("alerts", "open"), ("alerts", "past"), ("models", "comparison"), ("models", "champions"), ("data", "raw"),
        ("predictions", "windows"),
    ):  # fmt: skip
        before = expected["rest"][view][part]
        assert as_before(answers[view][part], before) == before, (view, part)
    assert answers["metric"] == expected["rest"]["metric"]
    assert answers["predictions"]["waiting"] == 10


def test_a_flat_name_becomes_the_figure_that_it_was_made_of(expected: dict[str, Any]) -> None:
    figures = (
        Figure("m"),
        Figure("drift/psi", "a/b c"),
        Figure("services/silent", "ml_serving"),
        Figure("services/silent"),
        Figure("services/cpu_percent", "ml_serving"),
        Figure("performance/rmse", "ml_serving"),
        Figure("performance/shadow/rmse", "of/two parts"),
    )
    assert [Figure.parse(figure.flat) for figure in figures] == list(figures)
    assert all(Figure.parse(name).flat == name for name in expected["metrics"])
