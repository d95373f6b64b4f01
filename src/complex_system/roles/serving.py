"""What the serving services share: a model holder, the REST server, the broker's subjects, prediction events."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.errors import ComplexSystemError, InvalidRequestError, StartError
from complex_system.messaging.clients import ProcessingClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.service import State, SystemService
from complex_system.messaging.subjects import CHAMPION_CHANGED, PREDICTION_MADE, ReplySubject
from complex_system.preprocessing.pipeline import Pipeline
from complex_system.serving.engine import LocalRoute, PredictionEngine, PredictionResult, RemoteRoute
from complex_system.serving.holder import ModelHolder
from complex_system.serving.rest import make_app
from complex_system.serving.server import RestServer
from complex_system.serving.sources import ModelSource

log = logging.getLogger(__name__)

ANNOUNCED_RECORDS = 1000
"""Most predictions of one request that are announced."""
WAITING_EVENTS = 200
"""Prediction events that wait to be sent; further ones are dropped, because an answer never waits for an event."""
NO_MODEL = "no model yet"
"""How the state ``waiting`` begins until a model is loaded; the service answers all the same."""


class ServingService(SystemService):
    """Serves the newest model of a source by REST and by the broker."""

    port_field: ClassVar[str]
    """Field of the settings that holds the REST port, 0 for any."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.holder = ModelHolder(self.make_source(), Pipeline(self.dataset))
        self.engine = PredictionEngine(self.holder, self._route(), self._note)
        self._events: asyncio.Queue[PredictionResult] = asyncio.Queue(WAITING_EVENTS)
        self._dropped = 0
        self._sender: asyncio.Task[None] | None = None
        self._rest: RestServer | None = None

    @abstractmethod
    def make_source(self) -> ModelSource:
        """Where the models come from."""

    @abstractmethod
    def subjects(self) -> list[ReplySubject]:
        """The subjects on which predictions are answered."""

    @override
    async def on_start(self) -> None:
        port: int = getattr(self.settings, self.port_field)
        rest = RestServer(
            make_app(self.engine, self.dataset, api_key=self.settings.api_key), self.settings.serving_host, port
        )
        try:
            await rest.start()
        except StartError as error:
            raise StartError(f"{error.message} (COMPLEX_SYSTEM_{self.port_field.upper()})") from error
        self._rest, self.url = rest, rest.url
        log.info("REST interface at %s, its documentation at %s/docs", self.url, self.url)
        self._sender = asyncio.create_task(self._send_events())
        for subject in self.subjects():
            handler = answers(subject)(ServingService.get_prediction)
            self._subs.append(await self.broker.subscribe_reply_cb(subject, handler.__get__(self)))
        self.every(self.settings.model_poll_interval, self.look_for_model)

    @override
    async def on_stop(self) -> None:
        if self._rest is not None:
            await self._rest.stop()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    @override
    def initial_state(self) -> tuple[State, str]:
        predictor = self.holder.current
        why = self.holder.reason
        if predictor is None:
            return "waiting", f"{NO_MODEL}: {why}" if why else NO_MODEL
        return "ready", predictor.info.label + (f"; the newest is not served: {why}" if why else "")

    async def get_prediction(self, records: Any) -> list[list[float]]:
        """Answers a request by the broker: one row a record, as the contract has it."""
        if not isinstance(records, list):
            raise InvalidRequestError(f"A list of raw records is expected, not {type(records).__name__}.")
        result = await self.engine.predict(records)
        return [[prediction] for prediction in result.predictions]

    @hears(CHAMPION_CHANGED)
    async def champion_changed(self, _: Any) -> None:
        """Looks for the new champion at once; polling is the fall-back."""
        await self.look_for_model()

    async def look_for_model(self) -> None:
        """Takes up a newer model if there is one, and lets the state say how that went."""
        refresh = asyncio.create_task(self.holder.refresh())
        ended = asyncio.create_task(self._shutdown_event.wait())
        await asyncio.wait({refresh, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not refresh.done():  # the source may hang for long; the service ends now
            refresh.cancel()
            await asyncio.gather(refresh, return_exceptions=True)
            return
        try:
            refresh.result()
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
        # Cut here and not when it is sent, so that what waits holds no large request in memory.
        head = replace(
            result, records=result.records[:ANNOUNCED_RECORDS], predictions=result.predictions[:ANNOUNCED_RECORDS]
        )
        try:
            self._events.put_nowait(head)
        except asyncio.QueueFull:
            self._dropped += 1
            if self._dropped % 1000 == 1:
                log.warning("%d prediction events were dropped: the broker is slow or away", self._dropped)

    async def _send_events(self) -> None:
        while True:
            result = await self._events.get()
            try:
                await self.announce(PREDICTION_MADE, self._event(result))
            except Exception as error:  # noqa: BLE001 - an event that cannot be sent must not end the sender
                log.warning("A prediction event could not be sent: %s", error)

    def _event(self, result: PredictionResult) -> dict[str, Any]:
        pairs = zip(result.records, result.predictions, strict=True)
        return {
            "service": self.service_name(),
            "model": result.model.name,
            "version": result.model.version,
            "pipeline_version": result.model.pipeline_version,
            "milliseconds": result.milliseconds,
            "predictions": [
                {"id": record.get(ID), "record": record, "prediction": prediction} for record, prediction in pairs
            ],
        }
