"""Watches the host, the served predictions and their inputs, and logs it to MLflow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar

from typing_extensions import override

from complex_system.background import Worker
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, NotEnoughDataError, TrackingUnavailableError
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import CHAMPION_CHANGED, MONITORING_SUBJECT, PREDICTION_MADE, TRUTH_KNOWN
from complex_system.monitoring.drift import FeatureReference
from complex_system.monitoring.performance import ModelWindows, ServedMetrics, ServedModel
from complex_system.monitoring.report import MonitoringRun, PointBuffer
from complex_system.monitoring.system import SystemMetrics
from complex_system.preprocessing.pipeline import Pipeline
from complex_system.training.data import Matrix, Part, SampleCollector

log = logging.getLogger(__name__)

POINTS_AT_ONCE = 100
"""Points that are written to MLflow in one go."""
LAST_WRITE = 5.0
"""Seconds that MLflow gets for the last points when the service ends."""
NO_DATA_PAUSE = 5.0
"""How many times longer than usual the pause is until training data are looked for that were not there."""
CHAMPIONS_SERVICE = "ml_serving_mlflow"
"""The service whose figures are the system's own, ``performance/rmse`` and so on."""
_NOTHING_SERVED: dict[str, Any] = {"model": None, "performance": {"count": 0.0}, "latency": {}}


class MlMonitoringService(SystemService):
    """Logs system metrics, the error against the truth, latencies and the drift of every feature to MLflow.

    A point is taken every ``monitoring_interval``. It waits in memory, up to a bound, while MLflow is away.
    """

    most_reference: ClassVar[int] = 50_000
    """Training samples that the drift is measured against, at most."""

    @override
    async def on_start(self) -> None:
        settings = self.settings
        window = settings.monitoring_window
        self._system = SystemMetrics()
        self._windows = ModelWindows(window, time.monotonic)
        self._records: deque[Record] = deque(maxlen=window)
        self._pipeline = Pipeline(self.dataset)
        self._reference: FeatureReference | None = None
        self._reference_wanted = True
        self._buffer = PointBuffer()
        self._run = MonitoringRun(settings.mlflow_tracking_uri, settings.mlflow_experiment, self.dataset.name)
        self._worker = Worker("mlflow")
        self._writing = asyncio.Lock()
        self._snapshot: dict[str, Any] = {
            "system": {}, "model": None, "performance": {}, "latency": {}, "services": {}, "drift": {}, "samples": 0,
        }  # fmt: skip
        self.every(settings.monitoring_interval, self._measure)
        self.every(min(settings.monitoring_interval, 2.0), self._write)
        self._refer_interval = min(settings.monitoring_interval, 2.0)
        self.every(self._refer_interval, self._refer)

    @override
    async def on_stop(self) -> None:
        try:
            async with asyncio.timeout(LAST_WRITE):
                await self._send()
                await self._worker.run(self._run.close)
        except TrackingUnavailableError as error:
            log.warning("%d points are lost: %s", len(self._buffer), error.message)
        except TimeoutError:
            log.warning("%d points are lost: MLflow did not take them in time", len(self._buffer))
        await self._worker.close(0.5)

    # What is heard

    @hears(PREDICTION_MADE)
    async def _predicted(self, event: dict[str, Any]) -> None:
        predictions = event["predictions"]
        by = ServedModel(str(event["service"]), str(event["model"]), str(event["version"]))
        pairs = [(None if each.get("id") is None else str(each["id"]), float(each["prediction"])) for each in predictions]
        changed = self._windows.predicted(by, float(event["milliseconds"]), pairs)
        if event.get("pipeline_version") == self.dataset.version:
            self._records.extend(each["record"] for each in predictions[-self.settings.monitoring_window :])
        if changed:  # the event of a new champion may have been missed; the model that answers cannot be
            self._reference_wanted = True

    @hears(TRUTH_KNOWN)
    async def _measured(self, event: dict[str, Any]) -> None:
        for each in event["truths"]:
            self._windows.measured(str(each["id"]), float(each["truth"]))

    @hears(CHAMPION_CHANGED)
    async def _champion_changed(self, _: Any) -> None:
        self._reference_wanted = True

    @answers(MONITORING_SUBJECT)
    async def _tell(self, _: Any) -> dict[str, Any]:
        return self._snapshot

    # What is done again and again

    async def _measure(self) -> None:
        """Takes a point."""
        system = self._system.read()
        served = self._windows.metrics()
        drift = await self._drift()
        services = {service: _described(metrics) for service, metrics in served.items()}
        champion = services.get(CHAMPIONS_SERVICE, _NOTHING_SERVED)
        self._snapshot = {
            "at": time.time(),
            "system": {name.removeprefix("system/"): value for name, value in system.items()},
            **champion,
            "services": services,
            "drift": drift,
            "samples": len(self._records),
            "reference_samples": self._reference.samples if self._reference else 0,
            "run_id": self._run.run_id,
            "waiting_points": len(self._buffer),
        }
        performance = {f"performance/{name}": value for name, value in _figures(champion).items()}
        for service, described in services.items():
            performance |= {f"performance/{service}/{name}": value for name, value in _figures(described).items()}
        self._buffer.add({
            **system,
            **performance,
            **{f"drift/psi/{name}": value for name, value in drift.items()},
            **({"drift/psi_max": max(drift.values())} if drift else {}),
            "drift/samples": float(len(self._records)),
        })  # fmt: skip

    async def _drift(self) -> dict[str, float]:
        records, reference = list(self._records), self._reference
        if reference is None or not records:
            return {}
        return await asyncio.to_thread(lambda: reference.drift(self._features(records)))

    def _features(self, records: list[Record]) -> Matrix:
        while True:
            try:
                return self._pipeline.features(records)
            except InvalidRecordError as error:
                bad = {fault["record"] for fault in error.faults}
                records = [record for position, record in enumerate(records) if position not in bad]

    async def _write(self) -> None:
        """Sends to MLflow what waits, as long as the service runs."""
        await self.while_running(self._send())

    async def _send(self) -> None:
        """Sends to MLflow what waits; while MLflow is away, says so, and the points wait."""
        async with self._writing:
            while points := self._buffer.oldest(POINTS_AT_ONCE):
                try:
                    await self._worker.run(partial(self._run.write, points))
                except TrackingUnavailableError as error:
                    await self.set_state("failing", f"{error.message} Points wait.")
                    raise
                self._buffer.drop(points)
                await self.set_state("ready")

    async def _refer(self) -> float | None:
        """Fetches the training data when the model has changed, and keeps their histograms.

        Returns:
            Seconds until the next look where it is not the usual one: too few data are asked for less often.
        """
        if not self._reference_wanted:
            return None
        self._reference_wanted = False  # before the fetch: what changes meanwhile wants another one
        try:
            self._reference = await self._fetch_reference()
        except NotEnoughDataError:
            self._reference_wanted = True
            return NO_DATA_PAUSE * self._refer_interval
        except Exception:
            self._reference_wanted = True
            raise
        return None

    async def _fetch_reference(self) -> FeatureReference:
        collector = SampleCollector(self.dataset, [Part.TRAIN])
        pages = DatabaseClient(self).processed_pages(collector.columns, labelled=True, version=self.dataset.version)
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                await asyncio.to_thread(collector.add, page.table)
                if collector.count() >= self.most_reference:
                    break
        features = collector.samples(Part.TRAIN).x[: self.most_reference]
        return await asyncio.to_thread(FeatureReference, self.dataset, features)


def _described(metrics: ServedMetrics) -> dict[str, Any]:
    """A service's metrics with the model that they are of."""
    model = {"model": metrics.served.model, "version": metrics.served.version}
    return {"model": model, "performance": metrics.performance, "latency": metrics.latency}


def _figures(described: dict[str, Any]) -> dict[str, float]:
    return {**described["performance"], **described["latency"]}
