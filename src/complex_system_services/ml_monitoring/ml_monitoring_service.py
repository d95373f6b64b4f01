"""Watches services, the served predictions and their inputs; keeps, shows and logs their figures."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar

from msgspec.structs import asdict, replace
from typing_extensions import override

from complex_system.background import Worker, run
from complex_system.errors import (
    ComplexSystemError,
    NobodyListensError,
    NotEnoughDataError,
    StartError,
    TrackingUnavailableError,
)
from complex_system.http.auth import require_key
from complex_system.http.server import RestServer
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.permissions import SERVICES
from complex_system.messaging.service import SystemService
from complex_system.monitoring import views
from complex_system.monitoring.history import Champion, History
from complex_system.monitoring.mlflow_log import MonitoringRun, PointBuffer
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.page.gateway import WsgiGateway
from complex_system.monitoring.points import Figures
from complex_system.monitoring.prediction_log import PredictionLog
from complex_system.monitoring.rest import make_app
from complex_system.monitoring.services import Host
from complex_system.protocol import database, operations, promotion, serving, training
from complex_system.protocol.base import Empty
from complex_system.service_layer.monitoring.alerting import alerting_of
from complex_system.service_layer.monitoring.keeper import LOOK_SECONDS, DatabaseClock, HistoryKeeper, collection_look
from complex_system.service_layer.monitoring.reference_source import ReferenceSource, crowned_at
from complex_system.service_layer.monitoring.trials import TrialClient
from complex_system.tracking.connection import load_mlflow
from complex_system.tracking.promotion import PromotionRegistry
from complex_system.tracking.registry import ModelVersionRef

log = logging.getLogger(__name__)

POINTS_AT_ONCE = 100
"""Points that are written to MLflow in one request."""
NO_DATA_BACKOFF_FACTOR = 5.0
"""Factor by which the pause is longer while training data are missing."""
CLOCK_SECONDS = 2.0
"""Seconds that the database gets, before anything is recorded, to say what time it is."""
DAY = 86_400.0


class MlMonitoringService(SystemService):
    """Takes a point of all figures every ``monitoring_interval``: for the page, the database, MLflow, Prometheus and the alert rules.

    What cannot be written waits in memory, up to a bound, while MLflow or the database is away.
    """

    acts_alone: ClassVar[bool] = True
    last_write: ClassVar[float] = 5.0
    """Seconds that MLflow, and the database, get for the last points when the service ends."""
    keep_interval: ClassVar[float] = 5.0
    """Seconds between two writes of the history."""
    ask_interval: ClassVar[float] = 10.0
    """Seconds between two questions for targets that came to the database."""
    deliver_interval: ClassVar[float] = 0.5
    """Seconds between two looks for alerts that are due at a receiver."""

    @override
    async def warm_up(self) -> None:
        def load() -> None:
            load_mlflow()
            importlib.import_module("complex_system.monitoring.page.app")

        await run(load, "warm-up")

    @override
    async def on_start(self) -> None:
        settings = self.settings
        self._host = Host()
        history = History(settings.monitoring_days * DAY)
        self._clock = DatabaseClock()
        self.monitor = Monitor(
            self.dataset,
            settings.monitoring_window,
            history,
            silent_after=settings.silent_after,
            services=frozenset(SERVICES),
            log=PredictionLog(settings.predictions_days, settings.predictions_rows),
            now=self._clock,
        )
        self._documents, self._database = documents, _ = DocumentClient(self), DatabaseClient(self)
        self._keeper = HistoryKeeper(self.monitor, documents, settings.monitoring_waiting_hours, self._check_lease)
        self._registry = PromotionRegistry(settings.mlflow_tracking_uri, settings.model_prefix or self.dataset.name)
        self._references = ReferenceSource(self.dataset, self._registry, self._database, documents)
        self._reference_stale = True
        self._buffer = PointBuffer()
        self._run = MonitoringRun(
            settings.mlflow_tracking_uri, settings.mlflow_experiment, self.dataset.name, settings.monitoring_mlflow_days
        )
        self._worker = Worker("mlflow")
        self._writing, self._measuring = asyncio.Lock(), asyncio.Lock()
        callbacks = (self.announce, history.alert, self._keeper.keep)
        self._alerts = await asyncio.to_thread(alerting_of, settings, self.dataset, *callbacks, self._clock)
        with contextlib.suppress(
            ComplexSystemError, TimeoutError
        ):  # without the database, by this host's clock until it is there
            async with asyncio.timeout(CLOCK_SECONDS):
                await self._clock.ask(self._database)
        await self._open_rest()
        await asyncio.to_thread(self.monitor.prepare)
        short = min(settings.monitoring_interval, 2.0)
        self._reference_interval = short
        self.every(settings.monitoring_interval, self._measure)
        self.every(short, self._write)
        self.every(short, self._update_reference)
        self.every(min(1.0, settings.silent_after / 4), self._check_services)
        self.every(min(settings.monitoring_interval, self.keep_interval), self._keep)
        self.every(settings.monitoring_interval, self._count)
        self.every(self.ask_interval, self._keeper.ask_targets)
        self.every(self.ask_interval, self._ask_promotion)
        if self.dataset.collect:
            self.every(LOOK_SECONDS, collection_look(self, self.monitor.flow))
        for turn in self._alerts.delivery.turns():
            self.every(self.deliver_interval, turn)

    def _check_lease(self) -> None:
        assert self.lease is not None
        self.lease.check()

    async def _open_rest(self) -> None:
        require_key(self.settings.serving_host, self.settings.api_key)
        self.app = make_app(self.monitor, self.settings.api_key, lambda: self.broker.connected, self._documents)
        self._page = await asyncio.to_thread(self._make_page, asyncio.get_running_loop())
        self.app.mount("/", self._page)  # last, so that it takes what no other route does
        settings = self.settings
        rest = RestServer(self.app, settings.serving_host, settings.monitoring_port, self.known_as())
        try:
            await rest.start()
        except StartError as error:
            raise StartError(f"{error.message} (COMPLEX_SYSTEM_MONITORING_PORT)") from error
        self._rest, self.url = rest, rest.url

    def _make_page(self, loop: asyncio.AbstractEventLoop) -> WsgiGateway:
        from complex_system.monitoring.page.app import page_of  # takes a second, in its thread

        settings = self.settings
        return page_of(
            self.monitor, loop, mlflow_uri=settings.mlflow_tracking_uri, api_key=settings.api_key, decide=self._decide,
            trials=TrialClient(self), card=self._registry.card, now=self._clock,
        )  # fmt: skip

    @override
    async def on_stop(self) -> None:
        if not hasattr(self, "_rest"):  # ended while it started
            return
        self._page.close()
        await self._rest.stop()
        if not self.may_act:  # another replica has read the history by now, and goes on with it
            return
        if waiting := await self._alerts.delivery.close(2.0):
            log.warning("%d alerts wait in the database for their receivers", waiting)
        self.monitor.keep_services()
        lost = await self._keeper.close(self.last_write)
        if lost and self.monitor.history.loaded:
            log.warning("The newest part of the history is lost: %s", lost)
        try:
            async with asyncio.timeout(self.last_write):
                await self._send()
                await self._worker.run(self._run.close)
        except TrackingUnavailableError as error:
            log.warning("%d points are lost: %s", len(self._buffer), error.message)
        except TimeoutError:
            log.warning("%d points are lost: MLflow did not take them in time", len(self._buffer))
        await self._worker.close(0.5)

    # What is heard and answered

    @hears(serving.PREDICTION_MADE)
    async def _predicted(self, event: serving.PredictionMade) -> None:
        if self.monitor.predicted(event):  # the event of a new champion may have been missed; its predictions cannot be
            self._reference_stale = True

    @hears(serving.PREDICTION_FAILED)
    async def _failed(self, event: serving.PredictionFailed) -> None:
        self.monitor.failed(event)

    @hears(serving.TRUTH_KNOWN)
    async def _measured(self, event: serving.TruthKnown) -> None:
        self.monitor.measured(event)

    @hears(training.CHAMPION_CHANGED)
    async def _champion_changed(self, event: training.ChampionChanged) -> None:
        self._reference_stale = True
        self.monitor.history.crowned(Champion(**asdict(event), at=self.monitor.now))

    @hears(training.COMPARISON_FINISHED)
    async def _compared(self, event: training.ComparisonFinished) -> None:
        self.monitor.compared(event)
        self._alerts.compared(event)

    @hears(training.TRAINING_ROUND)
    async def _round_changed(self, event: training.TrainingRound) -> None:
        self._alerts.round_changed(event)

    @hears(database.RECORDS_REJECTED)
    async def _rejected(self, event: database.RecordsRejected) -> None:
        self.monitor.flow.rejected(self.monitor.now, event.rejections)

    @hears(database.RANGE_EXCEEDED)
    async def _range_exceeded(self, event: database.RangeExceeded) -> None:
        self.monitor.flow.range_exceeded(self.monitor.now, event.counts, event.records)

    @hears(operations.SERVICE_HEARTBEAT)
    async def _heartbeat_received(self, beat: operations.Heartbeat) -> None:
        self.monitor.services.heartbeat_received(beat)

    @answers(operations.GET_ALERTS)
    async def _get_alerts(self, _: Empty) -> operations.Alerts:
        return self._alerts.alerts()

    @answers(operations.TEST_MESSAGES)
    async def _test_messages(self, _: Empty) -> operations.TestedChannels:
        return await self._alerts.delivery.test()

    @answers(operations.GET_MONITORING)
    async def _get_monitoring(self, _: Empty) -> operations.MonitoringSnapshot:
        return replace(views.snapshot(self.monitor), run_id=self._run.run_id, waiting_points=len(self._buffer))

    # What is repeated

    async def _measure(self) -> None:
        """Take a point."""
        async with self._measuring:
            records, reference = self.monitor.records, self.monitor.reference
            drift = None
            if records and reference is not None:
                drift = await asyncio.to_thread(self.monitor.measure_data, records, reference)
            figures = self.monitor.point(Figures(self._host.figures() | self._alerts.figures()), drift)
            self._buffer.add(figures, datetime.fromtimestamp(self.monitor.at, UTC))
            if self.may_act:
                await self._alerts.evaluate(self.monitor.at, figures, drift)

    async def _check_services(self) -> None:
        silent = self.monitor.services.newly_silent()
        for each in silent:
            log.warning("%s (%s) is silent: no heartbeat for %.0f s", each.service, each.replica, self.settings.silent_after)
        if silent:
            await self._measure()  # the alert does not wait for the next point

    async def _keep(self) -> None:
        await self._clock.ask(self._database)
        if await self._keeper.load():
            history = self.monitor.history
            log.info("Read the history: %d champions, %d alerts", len(history.champions), len(history.alerts()))
            await self._alerts.restore(reversed(history.alerts()))
            await self._recall_comparison()
        await self._keeper.keep()

    async def _recall_comparison(self) -> None:
        if self.monitor.comparison is None:
            try:
                comparison = await self.ask(training.GET_COMPARISON, Empty())
            except ComplexSystemError:
                return  # the next one is announced
            if comparison is not None:
                self.monitor.compared(comparison)

    async def _count(self) -> None:
        counts = await self._database.counts()
        self.monitor.flow.counted(self.monitor.now, counts)
        self.monitor.flow.ingested(await self.ask(database.GET_INGEST_COUNTS, Empty()))

    async def _ask_promotion(self) -> None:
        with contextlib.suppress(NobodyListensError):  # without ml_consumer nobody changes the champion
            self.monitor.promotion = await self.ask(promotion.GET_PROMOTION, Empty())

    async def _decide(self, asked: promotion.ChampionRequest) -> promotion.Promotion:
        """Have a decision from the page carried out."""
        self.monitor.promotion = await self.ask(promotion.DECIDE_ON_CHAMPION, asked)
        return self.monitor.promotion

    async def _write(self) -> None:
        """Send to MLflow what waits, as long as the service runs."""
        await self.while_running(self._send())

    async def _send(self) -> None:
        """Send to MLflow what waits; while MLflow is away the state says so, and the points wait."""
        async with self._writing:
            while self.may_act and (points := self._buffer.oldest(POINTS_AT_ONCE)):
                try:
                    await self._worker.run(partial(self._run.write, points))
                except TrackingUnavailableError as error:
                    await self.set_state("failing", f"{error.message} Points wait.")
                    raise
                self._buffer.drop(points)
                await self.set_state("ready")

    async def _update_reference(self) -> float | None:
        """Fetch the reference when the model has changed.

        Returns:
            Seconds until the next try where it is not the usual one: while the data are too few, less often.
        """
        if not self._reference_stale:
            return None
        self._reference_stale = False  # before the fetch: what changes meanwhile wants another one
        try:
            await self.while_running(self._fetch_reference())
        except NotEnoughDataError:
            self._reference_stale = True
            return NO_DATA_BACKOFF_FACTOR * self._reference_interval
        except BaseException:
            self._reference_stale = True
            raise
        return None

    def _known_since(self, champion: ModelVersionRef) -> float:
        """Return when a version became champion, by its mover's clock, but not before the champion before it, nor in the future."""
        before = self.monitor.history.champions
        return min(max(crowned_at(champion), before[-1].at if before else 0.0), self.monitor.now)

    async def _fetch_reference(self) -> None:
        reference, away = None, None
        try:
            found = await self._references.champion()
        except TrackingUnavailableError as error:
            found, away = None, error
        if found is not None:
            champion, reference = found
            self.monitor.history.crowned(
                Champion(
                    model=champion.model,
                    version=champion.version,
                    framework=champion.framework,
                    at=self._known_since(champion),
                )
            )
        if away is None or self.monitor.reference is None:
            self.monitor.reference = reference or await self._references.from_database()
        if away is not None:
            raise away
