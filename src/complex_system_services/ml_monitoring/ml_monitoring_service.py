"""Watches the host, the served predictions and their inputs, and logs it to MLflow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import aclosing
from typing import Any, ClassVar

from typing_extensions import override

from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, NotEnoughDataError, TrackingUnavailableError
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import CHAMPION_CHANGED, MONITORING_SUBJECT, PREDICTION_MADE, TRUTH_KNOWN
from complex_system.monitoring.drift import FeatureReference
from complex_system.monitoring.performance import ErrorWindow, LatencyWindow
from complex_system.monitoring.report import MonitoringRun, PointBuffer
from complex_system.monitoring.system import SystemMetrics
from complex_system.preprocessing.pipeline import Pipeline
from complex_system.training.data import Matrix, Part, SampleCollector

log = logging.getLogger(__name__)

POINTS_AT_ONCE = 100
"""Points that are written to MLflow in one go."""


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
        self._errors = ErrorWindow(window)
        self._latency = LatencyWindow(window, time.monotonic)
        self._records: deque[Record] = deque(maxlen=window)
        self._pipeline = Pipeline(self.dataset)
        self._reference: FeatureReference | None = None
        self._reference_wanted = True
        self._served: dict[str, tuple[str, str]] = {}
        self._buffer = PointBuffer()
        self._run = MonitoringRun(settings.mlflow_tracking_uri, settings.mlflow_experiment, self.dataset.name)
        self._snapshot: dict[str, Any] = {"system": {}, "performance": {}, "latency": {}, "drift": {}, "samples": 0}
        self.every(settings.monitoring_interval, self._measure)
        self.every(min(settings.monitoring_interval, 2.0), self._write)
        self.every(min(settings.monitoring_interval, 2.0), self._refer)

    @override
    async def on_stop(self) -> None:
        try:
            await self._write()
            await asyncio.to_thread(self._run.close)
        except TrackingUnavailableError as error:
            log.warning("%d points are lost: %s", len(self._buffer), error.message)

    # What is heard

    @hears(PREDICTION_MADE)
    async def _predicted(self, event: dict[str, Any]) -> None:
        predictions = event["predictions"]
        self._latency.answered(float(event["milliseconds"]), len(predictions))
        for each in predictions:
            if each.get("id") is not None:
                self._errors.predicted(str(each["id"]), float(each["prediction"]))
        if event.get("pipeline_version") == self.dataset.version:
            self._records.extend(each["record"] for each in predictions[-self.settings.monitoring_window :])
        # The event of a new champion may have been missed; the model that answers cannot be.
        model = (str(event["model"]), str(event["version"]))
        before = self._served.get(event["service"])
        self._served[event["service"]] = model
        if before is not None and before != model:
            self._reference_wanted = True

    @hears(TRUTH_KNOWN)
    async def _measured(self, event: dict[str, Any]) -> None:
        for each in event["truths"]:
            self._errors.measured(str(each["id"]), float(each["truth"]))

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
        performance = self._errors.metrics()
        latency = self._latency.metrics()
        drift = await self._drift()
        self._snapshot = {
            "at": time.time(),
            "system": {name.removeprefix("system/"): value for name, value in system.items()},
            "performance": performance,
            "latency": latency,
            "drift": drift,
            "samples": len(self._records),
            "reference_samples": self._reference.samples if self._reference else 0,
            "models": {service: {"model": model, "version": version} for service, (model, version) in self._served.items()},
            "run_id": self._run.run_id,
            "waiting_points": len(self._buffer),
        }
        self._buffer.add({
            **system,
            **{f"performance/{name}": value for name, value in (performance | latency).items()},
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
        """Sends to MLflow what waits; while MLflow is away, says so, and the points wait."""
        while points := self._buffer.oldest(POINTS_AT_ONCE):
            try:
                await asyncio.to_thread(self._run.write, points)
            except TrackingUnavailableError as error:
                await self.set_state("failing", f"{error.message} Points wait.")
                raise
            self._buffer.drop(points)
            await self.set_state("ready")

    async def _refer(self) -> None:
        """Fetches the training data when the model has changed, and keeps their histograms."""
        if not self._reference_wanted:
            return
        self._reference_wanted = False
        try:
            self._reference = await self._fetch_reference()
        except NotEnoughDataError:
            log.debug("No training data to measure drift against yet")
        except Exception:
            self._reference_wanted = True
            raise

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
