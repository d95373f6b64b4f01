"""What the serving services share: a model holder, the REST server, the broker's subjects, prediction events."""

from __future__ import annotations

import asyncio
import gc
import logging
from abc import abstractmethod
from typing import Any, ClassVar

import pyarrow as pa
from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.domain.pages import Page, decode_page, encode_page
from complex_system.errors import ComplexSystemError, InvalidRequestError, StartError
from complex_system.http.loops import new_event_loop
from complex_system.http.server import RestServer
from complex_system.messaging.clients import ProcessingClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import CHAMPION_CHANGED, PREDICTION_FAILED, PREDICTION_MADE, ReplySubject
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.operations import State
from complex_system.service_layer.serving.prediction_events import PredictionEvents
from complex_system.serving.engine import Limits, LocalRoute, PredictionEngine, PredictionResult, RemoteRoute
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.source import ModelSource
from complex_system.serving.rest.app import make_app
from complex_system.serving.shadow import Shadow

log = logging.getLogger(__name__)

ANNOUNCED_RECORDS = 1000
"""Most predictions of one request that are announced."""
FAILURES_PAUSE = 1.0
"""Seconds between two events that tell of failed requests."""
NO_MODEL = "no model yet"
"""How the state ``waiting`` begins until a model is loaded; the service answers all the same."""


class ServingService(SystemService):
    """Serves the newest model of a source by REST and by the broker."""

    port_field: ClassVar[str]
    """Field of the settings that holds the REST port, 0 for any."""
    new_event_loop = staticmethod(new_event_loop)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipeline = Pipeline(self.dataset)
        settings = self.settings
        elsewhere = settings.serving_pipeline == "broker"
        self.models = ModelManager(self.make_source(), self.pipeline, kept=settings.serving_models, only_present=elsewhere)
        self.holder = self.models.champion
        limits = Limits(settings.serving_body_bytes, settings.serving_records, settings.serving_unknown_columns == "ignore")
        self.engine = PredictionEngine(self.models, self._route(), self._note, limits)
        self._app = make_app(
            self.engine,
            self.dataset,
            api_key=settings.api_key,
            broker_connected=lambda: self.broker.connected,
            broker_needed=elsewhere,
        )
        self._metrics = self._app.state.gate.metrics
        challengers = tuple(name.strip() for name in settings.serving_shadow_models.split(",") if name.strip())
        self._events = PredictionEvents(
            self.service_name(), lambda event: self.announce(PREDICTION_MADE, event), self._metrics
        )
        self._shadow = Shadow(self.models, settings.serving_shadow_share, challengers, self._events.put, self._metrics)
        self._settled = False
        self._sending: asyncio.Task[None] | None = None
        self._shadowing: asyncio.Task[None] | None = None
        self._rest: RestServer | None = None

    @abstractmethod
    def make_source(self) -> ModelSource:
        """Where the models come from."""

    @abstractmethod
    def subjects(self) -> list[ReplySubject]:
        """The subjects on which predictions of records are answered."""

    @abstractmethod
    def columns_subjects(self) -> list[ReplySubject]:
        """The subjects on which predictions of Arrow pages are answered."""

    @override
    async def on_start(self) -> None:
        port: int = getattr(self.settings, self.port_field)
        self._app.state.subjects = (self.subjects()[0].name, self.columns_subjects()[0].name)
        rest = RestServer(self._app, self.settings.serving_host, port)
        try:
            await rest.start()
        except StartError as error:
            raise StartError(f"{error.message} (COMPLEX_SYSTEM_{self.port_field.upper()})") from error
        self._rest, self.url = rest, rest.url
        log.info("REST interface at %s, its documentation at %s/docs", self.url, self.url)
        self._sending = asyncio.create_task(self._events.run())
        self._shadowing = asyncio.create_task(self._shadow.run())
        answered: list[tuple[ReplySubject, Any]] = [(subject, ServingService.get_prediction) for subject in self.subjects()]
        answered += [(subject, ServingService.get_prediction_columns) for subject in self.columns_subjects()]
        for subject, method in answered:
            handler = answers(subject)(method)
            self._subs.append(await self.broker.subscribe_reply_cb(subject, handler.__get__(self)))
        self.every(self.settings.model_poll_interval, self.look_for_model)
        self.every(FAILURES_PAUSE, self._tell_failures)

    @override
    async def on_stop(self) -> None:
        if self._rest is not None:
            await self._rest.stop()
        if self._shadowing is not None:
            self._shadowing.cancel()
            await asyncio.gather(self._shadowing, return_exceptions=True)
        if self._sending is not None:
            await self._events.end(self._sending)

    @override
    def initial_state(self) -> tuple[State, str]:
        predictor = self.holder.current
        why = self.holder.reason
        if predictor is None:
            return "waiting", f"{NO_MODEL}: {why}" if why else NO_MODEL
        own = predictor.info.pipeline_version
        older = f"; of pipeline version {own}, with its own pipeline" if own != self.dataset.version else ""
        return "ready", predictor.info.label + older + (f"; the newest is not served: {why}" if why else "")

    async def get_prediction(self, records: Any) -> list[list[float]]:
        """Answers a request by the broker: one row a record, as the contract has it."""
        if not isinstance(records, list):
            raise InvalidRequestError(f"A list of raw records is expected, not {type(records).__name__}.")
        with self._metrics.failures.counted():
            self.holder.require()
            if not records:  # the published contract answers an empty list with one
                return []
            result = await self.engine.predict(records)
        return [[prediction] for prediction in result.predictions]

    async def get_prediction_columns(self, encoded: Any) -> bytes:
        """Answers an Arrow page of raw columns with a page of predictions."""
        with self._metrics.failures.counted():
            page = await asyncio.to_thread(decode_page, encoded)
            result = await self.engine.predict_table(page.table)
        return await asyncio.to_thread(self._answer_page, page.table, result)

    @staticmethod
    def _answer_page(raw: pa.Table, result: PredictionResult) -> bytes:
        columns = {ID: raw.column(ID)} if ID in raw.column_names else {}
        columns["prediction"] = pa.array(result.predictions, pa.float32())
        model = result.model
        notes = {"model": model.name, "version": model.version, "pipeline_version": model.pipeline_version}
        return encode_page(Page(pa.table(columns), notes=notes))

    @hears(CHAMPION_CHANGED)
    async def champion_changed(self, _: Any) -> None:
        """Looks for the new champion at once; polling is the fall-back."""
        await self.look_for_model()

    async def look_for_model(self) -> None:
        """Takes up a newer model if there is one, and lets the state say how that went."""
        refresh = asyncio.create_task(self.models.refresh())
        ended = asyncio.create_task(self._shutdown_event.wait())
        await asyncio.wait({refresh, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not refresh.done():  # the source may hang for long; the service ends now
            refresh.cancel()
            await asyncio.gather(refresh, return_exceptions=True)
            return
        try:
            if refresh.result() and not self._settled:
                self._settled = True
                # What is loaded by now stays; looking through it again and again would hold up requests for a tenth of a second.
                gc.collect()
                gc.freeze()
        except ComplexSystemError as error:
            # The model at hand goes on serving; the next look is due at the usual interval.
            log.debug("Looking for a model: %s", error.message)
        finally:
            if self._state != "starting":
                await self.set_state(*self.initial_state())

    def _route(self) -> LocalRoute | RemoteRoute:
        if self.settings.serving_pipeline == "broker":
            return RemoteRoute(self.dataset, ProcessingClient(self).process)
        return LocalRoute()

    def _note(self, result: PredictionResult) -> None:
        head = result.head(ANNOUNCED_RECORDS)
        if head.batch.size and not self._shadow.takes(head):  # processed features have no records to announce
            self._events.put(head, [])

    async def _tell_failures(self) -> None:
        if failures := self._metrics.failures.take():
            await self.announce(PREDICTION_FAILED, {"service": self.service_name(), "failures": failures})
