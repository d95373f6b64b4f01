"""A monitor with days of history, made by its own functions: a laboratory, its models, a drift, an alert, a new champion."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import MATERIALS, Laboratory, true_value, truth_of
from complex_system.domain.pages import raw_schema
from complex_system.explanation.model import explain_model
from complex_system.monitoring.aggregates import HOUR, MINUTE, Served
from complex_system.monitoring.history import History, Pair
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.points import Figures
from complex_system.monitoring.reference import Reference
from complex_system.pipeline.pipeline import Pipeline
from complex_system.pipeline.rows import Matrix
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.explanation import ModelExplanation
from complex_system.protocol.operations import Action, Alert, SentMessage
from complex_system.protocol.serving import PredictedRecord, PredictionMade
from monitoring_page.messages import alert, champion, compared, comparison, crowned, heartbeat

DAY = 24 * HOUR
SERVICES = {  # CPU in percent of a core, memory in MB
    "data_processing": (4, 210), "database_mongo": (9, 165), "dummy_data_generation": (2, 120), "ml_consumer": (3, 340),
    "ml_lightgbm_regression_mlflow": (1, 390), "ml_monitoring": (6, 310), "ml_pytorch_regression": (1, 720),
    "ml_pytorch_regression_mlflow": (1, 705), "ml_serving": (3, 260), "ml_serving_mlflow": (14, 275),
    "ml_tensorflow_regression_mlflow": (1, 910),
}  # fmt: skip
CROWNED = (  # days ago, model, version, RMSE at the comparison, why
    (9.0, "lab-lightgbm", "1", 14.79, "first"), (7.6, "lab-pytorch", "2", 14.58, "growth"),
    (4.2, "lab-pytorch", "4", 14.47, "growth"), (1.56, "lab-pytorch", "5", 15.02, "alert"),
)  # fmt: skip
DRIFT_BEGAN, ALERTED, RETRAINED, CLEARED = 1.9, 1.66, 1.56, 1.47
"""Days ago."""


class Plant:
    """Makes pairs with errors as the laboratory's models have them: most of the error is that r1 is known to its bin only."""

    def __init__(self, seed: int = 3) -> None:
        self.draw = random.Random(seed)

    def pair(self, at: float, served: Served, extra: float, drift: float) -> Pair:
        draw = self.draw
        r1, r2, r3 = draw.uniform(0, 30), draw.uniform(0, 30), draw.uniform(0, 2)
        seen = min(30.0, r2 * (1 + drift))
        middle = 6 * math.floor(r1 / 6) + 3
        truth = true_value(r1, r2, r3)
        prediction = (middle + seen) ** 1.5 + 0.4 - math.exp(-0.25 * r3) + draw.gauss(0, extra)
        return Pair(at, prediction, truth, served, f"material_id={draw.choice(MATERIALS)}")


def champion_at(days_ago: float) -> Served:
    crowned = [each for each in CROWNED if each[0] >= days_ago] or [CROWNED[0]]
    return Served("ml_serving_mlflow", crowned[-1][1], crowned[-1][2], origin="live")


def drift_at(days_ago: float) -> float:
    """How far the sensor of r2 reads too much, as a share; from the new champion on the models know it."""
    if days_ago > DRIFT_BEGAN or days_ago <= RETRAINED:
        return 0.0
    return 0.32 * min(1.0, (DRIFT_BEGAN - days_ago) / 0.2)


def make_history(now: float, days: float = 9.0, pairs_a_minute: int = 4, seed: int = 3) -> History:
    """A history up to ``now``: minutes of the last day, hours before."""
    history, plant = History(seed=seed), Plant(seed)
    draw = plant.draw
    artifact = Served("ml_serving", "lab-pytorch-wandb", "3", origin="live")
    minutes = int(days * DAY / MINUTE)
    for i in range(minutes, -1, -1):
        at = now - i * MINUTE
        ago = i * MINUTE / DAY
        day = 1 + 0.55 * math.sin(2 * math.pi * (at % DAY) / DAY - 1.9)
        served, drift = champion_at(ago), drift_at(ago)
        minute = history.minute(at)
        extra = {"1": 4.6, "2": 3.6, "4": 2.4, "5": 3.1}[served.version]
        count = max(1, round(pairs_a_minute * day))
        for n in range(count):
            history.paired(plant.pair(at + n * 50 / count, served, extra, drift))
            if n % 3 == 0:
                history.paired(plant.pair(at + n * 50 / count, artifact, 4.4, drift))
            if n % 4 == 0 and ago < 1.5:
                shadow = Served("ml_serving_mlflow", "lab-lightgbm", "6", True, "live")
                history.paired(plant.pair(at + n * 50 / count, shadow, 5.2, 0.0))
        if i % 4 == 0:
            probed = served._replace(origin="probe")
            history.paired(plant.pair(at, probed, extra, drift))
            minute.answered(probed, 1.6 * math.exp(draw.gauss(0, 0.35)), 1)
        for _ in range(max(1, count // 3)):
            minute.answered(served, 1.6 * math.exp(draw.gauss(0, 0.35)) + (9 if draw.random() < 0.012 else 0), 4)
            if draw.random() < 0.4:
                minute.answered(artifact, 1.9 * math.exp(draw.gauss(0, 0.35)), 3)
        if draw.random() < 0.002:
            minute.failed("ml_serving_mlflow", "invalid_record", 1)
        if ago <= 1.02 or i % 10 == 0:
            minute.read(Figures.of_flat(_metrics(draw, ago, day, drift)))
    history.changed()
    history.drop(now)
    for days_ago, model, version, rmse, cause in CROWNED:
        framework = model.removeprefix("lab-")
        event = champion(model, version, rmse, framework=framework, cause=cause, holdout=1000)
        history.crowned(crowned(now - days_ago * DAY, event))
    for each in _alerts(now):
        history.alert(each)
    history.loaded = True
    return history


def _metrics(draw: random.Random, ago: float, day: float, drift: float) -> Iterator[tuple[str, float]]:
    training = any(0 < days_ago - ago < 0.012 for days_ago, *_ in CROWNED)
    yield "system/cpu_utilization_percentage", min(100, 17 + 14 * day + draw.gauss(0, 3) + 48 * training)
    yield "system/system_memory_usage_percentage", 54 + 1.5 * day + draw.gauss(0, 0.2) + 6 * training
    yield "system/system_memory_usage_megabytes", (54 + 1.5 * day) * 160
    yield "system/disk_usage_percentage", 41.0
    for name, (cpu, memory) in SERVICES.items():
        busy = 70 * training * ("regression" in name)
        yield f"services/{name}/cpu_percent", max(0.1, cpu * (0.6 + 0.4 * day) + draw.gauss(0, 0.3) + busy)
        yield f"services/{name}/memory_megabytes", memory + draw.gauss(0, 2) + 60 * training * ("regression" in name)
    moved = 2.6 * drift
    for name, base in (
        ("material_id", 0.012),
        ("laborant", 0.02),
        ("rohwert_1_labormessung", 0.018),
        ("rohwert_3_labormessung", 0.02),
    ):
        yield f"data/psi/{name}", abs(base + draw.gauss(0, 0.004))
        yield (
            f"data/missing/{name}",
            0.2 if name == "laborant" else 0.11 if (name.startswith("rohwert_3") and ago < 0.1) else 0.0,
        )
        yield f"data/out_of_range/{name}", 0.0
        yield f"drift/psi/{name}", abs(base + draw.gauss(0, 0.004))
    for prefix in ("data", "drift"):
        yield f"{prefix}/psi/rohwert_2_labormessung", abs(0.02 + moved + draw.gauss(0, 0.004 + 0.02 * moved))
    yield "data/out_of_range/rohwert_2_labormessung", max(0.0, 0.3 * drift + draw.gauss(0, 0.004)) if drift else 0.0


def _alerts(now: float) -> Iterator[Alert]:
    done = Action(
        round="r-5", at=now - (ALERTED - 0.003) * DAY, outcome="new champion",
        what="lab-pytorch 5 is the new champion with RMSE 15.02 on the newest 1000 hold-out records; lab-pytorch 4 had 28.31.",
    )  # fmt: skip
    yield alert(
        "drift", now - ALERTED * DAY, rule="drift", metric="drift/evidence/rohwert_2_labormessung",
        subject="rohwert_2_labormessung", retrain=True, moved="input", ended=now - CLEARED * DAY, value=12.0, threshold=6.0,
        actions=(done,),
        sentence="rohwert_2_labormessung (second raw value) has moved: median 15 in the training data (80 % from 3 to 27), 18.2 in "
                    "the 412 records of the last 96 min (80 % from 3.7 to 30). By chance that happens at most once in 1,000,000 "
                    "independent records. The model's error has moved, too: 1.3 times that of its evaluation, 240 true values.",
        over="rohwert_2_labormessung (second raw value) is back to normal after 4.6 h: drift 0, limit 6.",
    )  # fmt: skip
    yield alert(
        "error", now - (ALERTED + 0.03) * DAY, rule="error", metric="performance/error_ratio_low", severity="critical",
        retrain=True, moved="error", ended=now - (CLEARED + 0.03) * DAY, value=1.957, actions=(done,),
        sentence="The predictions of aufbereiteter_wert are 1.4 times as wrong as when the model was chosen, and surely 1.2 times "
                    "(RMSE 20.4, limit 1.1 times), for 9 min.",
        over="The model's error is back to normal after 4.6 h: error 0.93, limit 1.1.",
        messages=(
            *_told("raised", now - (ALERTED + 0.03) * DAY), *_told("ended", now - (CLEARED + 0.03) * DAY)
        ),
    )  # fmt: skip
    yield alert(
        "missing", now - 0.049 * DAY, rule="missing-values", metric="data/missing_excess/rohwert_3_labormessung", value=0.114,
        sentence="Third raw value (rohwert_3_labormessung) is missing in 11.4 % of the live records, 11.4 % more than in the "
                    "training data (limit 10 %): the sensor or its connection may have failed.",
        messages=(
            SentMessage(event="raised", channel="webhook", at=now - 0.049 * DAY, due=now + 200, attempts=9, problem="status 503"),
            SentMessage(event="raised", channel="mailto", at=now - 0.049 * DAY, due=now + 7200, quiet=True),
        ),
    )  # fmt: skip


def _told(event: str, at: float) -> tuple[SentMessage, ...]:
    """Webhook and mail, delivered at the first attempt."""
    usual: dict[str, Any] = {"event": event, "at": at, "due": at, "attempts": 1, "outcome": "delivered"}
    return (
        SentMessage(**usual, channel="webhook", finished=at + 0.4), SentMessage(**usual, channel="mailto", finished=at + 31)
    )  # fmt: skip


def explained(dataset: Dataset) -> ModelExplanation:
    """What a model depends on that knows the laboratory's law, as far as the features tell it."""
    pipeline, laboratory = Pipeline(dataset), Laboratory(13)
    records = [laboratory.complete_record() for _ in range(1500)]
    place = {name: i for i, name in enumerate(dataset.feature_names)}
    bins = [place[f"rohwert_1_{each}"] for each in ("very_low", "low", "medium", "high", "very_high")]

    def predict(x: Matrix) -> list[float]:
        r1, r2 = x[:, bins] @ np.arange(3, 30, 6), 30 * x[:, place["rohwert_2_labormessung"]]
        r3 = x[:, place["rohwert_3_labormessung"]] + 1
        return ((r1 + r2) ** 1.5 + 0.4 - np.exp(-0.25 * r3)).tolist()  # type: ignore[no-any-return]

    y = np.array([truth_of(record) for record in records])
    table = pa.Table.from_pylist(records, raw_schema(dataset))
    return explain_model(("lab-pytorch", "5"), pipeline, predict, pipeline.features(records), y, table)


def make_monitor(now: float, days: float = 9.0, pairs_a_minute: int = 4) -> Monitor:
    """A monitor as it is after some days: history, services, comparison, a live window against a reference."""
    dataset = Dataset.load()
    ticks = [0.0]
    monitor = Monitor(
        dataset, 500, make_history(now, days, pairs_a_minute), silent_after=1e9, now=lambda: now, monotonic=lambda: ticks[0]
    )
    for name, (cpu, memory) in SERVICES.items():
        for replica in range(2 if name == "ml_serving_mlflow" else 1):
            beat = heartbeat(
                name, replica=f"{name}-{replica}", host="plant-1", detail="lab-pytorch v5" if name == "ml_serving_mlflow" else "",
                url=f"http://127.0.0.1:{8001 + replica}" if "serving" in name else "", cpu_percent=float(cpu),
                memory_megabytes=float(memory),
            )  # fmt: skip
            monitor.services.heartbeat_received(beat)
    ticks[0] = 1.4
    monitor.flow.counted(now - 60, RecordCounts(raw=268_113, processed=268_014, labelled=134_102, rejected=97))
    monitor.flow.counted(now, RecordCounts(raw=268_240, processed=268_142, labelled=134_166, rejected=97))
    results = [
        ("lab-pytorch", "5", "pytorch", 15.02, 12.61, 0.9771), ("lab-lightgbm", "6", "lightgbm", 15.21, 12.74, 0.9766),
        ("lab-pytorch-wandb", "3", "pytorch", 15.24, 12.8, 0.9765), ("lab-tensorflow", "5", "tensorflow", 15.58, 13.02, 0.9754),
        ("lab-pytorch", "4", "pytorch", 28.31, 23.4, 0.919),
    ]  # fmt: skip
    rows = [
        compared(
            model, version, rmse, trainer=name, framework=name, mae=mae, r2=r2, rmse_low=0.967 * rmse, rmse_high=1.034 * rmse
        )
        for model, version, name, rmse, mae, r2 in results
    ]
    url = "http://127.0.0.1:8080/#/experiments/1/runs/0123456789abcdef"
    monitor.compared(comparison(*rows, cause="alert", run_url=url, explanation=explained(dataset)))
    laboratory = Laboratory(11)
    training = [laboratory.complete_record() for _ in range(4000)]
    live = [laboratory.complete_record() for _ in range(500)]
    for i, record in enumerate(live):
        record["rohwert_3_labormessung"] = None if i % 9 == 4 else record["rohwert_3_labormessung"]
        if record["laborant"] == "HANS" and i % 5 < 2:
            record["laborant"] = "AN"
    pipeline = Pipeline(dataset)
    reference = Reference.of(dataset, np.asarray(pipeline.features(training)), pa.Table.from_pylist(training))
    monitor.reference = reference
    predicted = [
        PredictedRecord(id=None, record=record, prediction=0.0, distance=1.4 if i % 70 == 3 else 0.6)
        for i, record in enumerate(live)
    ]
    monitor._coverage.told(
        PredictionMade(service="ml_serving_mlflow", model="lab-pytorch", version="5", half_width=24.3, calibrated=900)
    )
    monitor._live.add(now, predicted[:380], "live")
    monitor._live.add(now, predicted[380:], "probe")
    for pair in list(monitor.history.samples(now - HOUR, now)):
        monitor.windows.joined(pair)
        monitor.windows.answered(pair.served, 2.0, 1)
    measured = monitor.measure_data(monitor.records, reference)
    host = {"system/cpu_utilization_percentage": 31.0, "system/system_memory_usage_percentage": 55.1,
                   "system/system_memory_usage_megabytes": 8816.0, "system/disk_usage_percentage": 41.0}  # fmt: skip
    monitor.point(Figures.of_flat(host), measured)
    return monitor
