"""The base of the serving services: models, REST server, the broker's subjects, prediction events."""

from __future__ import annotations

import asyncio
import gc
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from msgspec import to_builtins
from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.domain.pages import Page, decode_page, encode_page
from complex_system.errors import ComplexSystemError, InvalidRequestError, StartError
from complex_system.http.auth import require_key
from complex_system.http.server import RestServer, new_event_loop
from complex_system.messaging.clients import ProcessingClient
from complex_system.messaging.handlers import NAME, answers, hears
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import PREDICT, reply_subject
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import ArrowPage, Request
from complex_system.protocol.operations import State
from complex_system.protocol.serving import (
    EXPLAIN,
    ORIGIN_NAMES,
    PREDICT_COLUMNS,
    PREDICTION_FAILED,
    PREDICTION_MADE,
    ExplainedPredictions,
    ExplainRequest,
    Origin,
    PredictionFailed,
)
from complex_system.protocol.training import CHAMPION_CHANGED, ChampionChanged
from complex_system.service_layer.serving.events import PredictionEvents
from complex_system.service_layer.serving.trials import TrialHandlers
from complex_system.serving.engine import Limits, PredictionEngine, PredictionResult, RemotePipeline, off_loop
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.source import ModelSource
from complex_system.serving.requests.wanted import INTERVAL, WARNINGS, wanted_of, wanted_of_notes
from complex_system.serving.rest.app import make_app
from complex_system.serving.rest.endpoint import Backend, outside_header
from complex_system.serving.shadow import Shadow
from complex_system.serving.suggest.suggester import Suggester

if TYPE_CHECKING:
    from complex_system.serving.grpc.server import GrpcServer

log = logging.getLogger(__name__)

ANNOUNCED_RECORDS = 1000
"""Predictions of one request that are announced at most."""
FAILURES_PAUSE = 1.0
"""Seconds between two events about failed requests."""
NO_MODEL = "no model yet"
"""Beginning of the detail of the state ``waiting`` until a model is loaded; the service answers, with an error."""


class ServingService(TrialHandlers, SystemService):
    """Serves the newest model of a source over REST, over NATS, and over gRPC where its port is set.

    A subclass makes the source. It answers on the champion's subjects and port, as ``ml_serving_mlflow`` does, unless it overrides
    those, too.
    """

    port_field: ClassVar[str] = "serving_mlflow_port"
    """Field of the settings that holds the REST port, 0 for any; ``..._grpc_port`` is that of gRPC, 0 for none."""
    new_event_loop = staticmethod(new_event_loop)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipeline = Pipeline(self.dataset)
        settings = self.settings
        self._over_broker = over_broker = settings.serving_pipeline == "broker"
        self.models = ModelManager(self.make_source(), self.pipeline, kept=settings.serving_models, only_present=over_broker)
        self.champion = self.models.champion
        limits = Limits(settings.serving_body_bytes, settings.serving_records, settings.serving_unknown_columns)
        remote = RemotePipeline(self.dataset, ProcessingClient(self).process) if over_broker else None
        self.engine = PredictionEngine(self.models, remote, self._predicted, limits)
        self.suggester = Suggester(self.engine)
        self._metrics = ServingMetrics(self.models, lambda: self.broker.connected)
        self._app = make_app(
            self.engine,
            self.dataset,
            api_key=settings.api_key,
            metrics=self._metrics,
            broker_connected=lambda: self.broker.connected,
            broker_needed=over_broker,
            subjects=self._documented_subjects,
            suggester=self.suggester,
        )
        challengers = tuple(name.strip() for name in settings.serving_shadow_models.split(",") if name.strip())
        self._events = PredictionEvents(
            self.service_name(), lambda event: self.announce(PREDICTION_MADE, event), self._metrics
        )
        self._shadow = Shadow(self.models, settings.serving_shadow_share, challengers, self._events.put, self._metrics)
        self._is_frozen = False
        self._sending: asyncio.Task[None] | None = None
        self._shadowing: asyncio.Task[None] | None = None
        self._rest: RestServer | None = None
        self._grpc: GrpcServer | None = None

    @abstractmethod
    def make_source(self) -> ModelSource:
        """Return where the models come from; called once, when ``settings``, ``dataset`` and ``pipeline`` are there."""

    def subjects(self) -> list[Request[Any, Any]]:
        """Return the subjects on which predictions of records are answered; the first one is the service's own."""
        return [PREDICT]

    def columns_subjects(self) -> list[Request[ArrowPage, ArrowPage]]:
        """Return the subjects on which predictions of Arrow pages are answered; the first one is the service's own."""
        return [PREDICT_COLUMNS]

    def explain_subjects(self) -> list[Request[ExplainRequest, ExplainedPredictions]]:
        """Return the subjects on which predictions are explained; the first one is the service's own."""
        return [EXPLAIN]

    @override
    async def on_start(self) -> None:
        require_key(self.settings.serving_host, self.settings.api_key)
        port: int = getattr(self.settings, self.port_field)
        rest = RestServer(self._app, self.settings.serving_host, port, self.known_as())
        try:
            await rest.start()
        except StartError as error:
            raise StartError(f"{error.message} (COMPLEX_SYSTEM_{self.port_field.upper()})") from error
        self._rest, self.url = rest, rest.url
        log.info("REST interface at %s, its documentation at %s/docs", self.url, self.url)
        await self._start_grpc(rest)
        self._sending = asyncio.create_task(self._events.run())
        self._shadowing = asyncio.create_task(self._shadow.run())
        answered: list[tuple[Request[Any, Any], Any]] = [(each, ServingService.get_prediction) for each in self.subjects()]
        answered += [(each, ServingService.get_prediction_columns) for each in self.columns_subjects()]
        answered += [(each, ServingService.explain_prediction) for each in self.explain_subjects()]
        if PREDICT in self.subjects():  # who answers for the champion
            answered += self.trials
        for request, method in answered:
            handler = answers(request)(method)
            self._subs.append(await self.broker.subscribe_reply_cb(reply_subject(request), handler.__get__(self)))
        self.every(self.settings.model_poll_interval, self.look_for_model)
        self.every(FAILURES_PAUSE, self._announce_failures)

    async def _start_grpc(self, rest: RestServer) -> None:
        """Start gRPC where its port is set; where it cannot start, REST stops, too."""
        settings = self.settings
        field = self.port_field.replace("_port", "_grpc_port")
        port: int = getattr(settings, field)
        if not port:
            return
        from complex_system.serving.grpc.server import GrpcServer  # 20 MB that most services do not need

        connected = (lambda: self.broker.connected) if self._over_broker else None
        backend = Backend(self.engine, self._metrics, settings.api_key, connected)
        made = GrpcServer(backend, settings.serving_host, port, settings.grpc_tls_certificate, settings.grpc_tls_key)
        try:
            await made.start()
        except StartError as error:
            await rest.stop()
            raise StartError(f"{error.message} (COMPLEX_SYSTEM_{field.upper()})") from error
        self._grpc = made
        log.info("gRPC interface at %s%s", made.address, ", with TLS" if settings.grpc_tls_certificate else "")

    @override
    async def on_stop(self) -> None:
        servers = [server for server in (self._rest, self._grpc) if server is not None]
        await asyncio.gather(*(server.stop() for server in servers))
        if self._shadowing is not None:
            self._shadowing.cancel()
            await asyncio.gather(self._shadowing, return_exceptions=True)
        if self._sending is not None:
            await self._events.stop(self._sending)

    @override
    def initial_state(self) -> tuple[State, str]:
        predictor = self.champion.current
        why = self.champion.reason
        if predictor is None:
            return "waiting", f"{NO_MODEL}: {why}" if why else NO_MODEL
        own = predictor.info.pipeline_version
        older = f"; of pipeline version {own}, with its own pipeline" if own != self.dataset.version else ""
        refused = "the newest is not served: " if self.champion.problem else ""
        return "ready", predictor.info.label + older + (f"; {refused}{why}" if why else "")

    def _documented_subjects(self) -> dict[str, str]:
        answered = {"subject": self.subjects(), "columns": self.columns_subjects(), "explain": self.explain_subjects()}
        return {name: requests[0].name for name, requests in answered.items()}

    async def get_prediction(self, records: Any) -> list[list[float]] | dict[str, Any]:
        """Answer a request on NATS: a list of records with one row a record, as the contract has it.

        ``{"records": [...], "interval": 0.9}`` is answered with ``predictions``, the same rows, and ``intervals``.
        """
        if isinstance(records, dict):
            return await self._predict_with(records)
        if not isinstance(records, list):
            raise InvalidRequestError(f"A list of raw records is expected, not {type(records).__name__}.")
        with self._metrics.failures.counted():
            self.champion.require()
            if not records:  # the published contract: an empty list for an empty list
                return []
            result = await self.engine.predict(records, _origin())
        return [[prediction] for prediction in result.predictions]

    async def _predict_with(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request for predictions with something beside them."""
        records, beside = request.get("records"), request.keys() - {"records"}
        if not isinstance(records, list) or not beside or not beside <= {INTERVAL, WARNINGS}:
            raise InvalidRequestError(
                f"A list of raw records is expected, or a mapping with 'records' and '{INTERVAL}' or '{WARNINGS}'."
            )
        with self._metrics.failures.counted():
            result = await self.engine.predict(records, _origin(), wanted_of(request))
        answer: dict[str, Any] = await off_loop(len(records), _answer, result)
        return answer

    async def get_prediction_columns(self, encoded: ArrowPage) -> ArrowPage:
        """Answer an Arrow page of raw columns with a page of predictions."""
        with self._metrics.failures.counted():
            page = await asyncio.to_thread(decode_page, encoded)
            result = await self.engine.predict_table(page.table, _origin(), wanted_of_notes(page.notes))
        return await asyncio.to_thread(self._answer_page, page.table, result)

    async def explain_prediction(self, request: ExplainRequest) -> ExplainedPredictions:
        """Answer which raw columns make the champion's predictions."""
        with self._metrics.failures.counted():
            result = await self.engine.explain(request.records)
        return ExplainedPredictions(
            explanations=result.explanations, base=result.base, background=result.background, method=result.method,
            model=result.model.name, version=result.model.version, pipeline_version=result.model.pipeline_version,
        )  # fmt: skip

    def _answer_page(self, raw: pa.Table, result: PredictionResult) -> bytes:
        columns = {name: raw.column(name) for name in (ID, self.dataset.id) if name in raw.column_names}
        columns["prediction"] = pa.array(result.predictions, pa.float32())
        for name, values in result.columns().items():
            columns[name] = pa.array(values, pa.list_(pa.string()) if name == WARNINGS else pa.float32())
        model = result.model
        notes = {"model": model.name, "version": model.version, "pipeline_version": model.pipeline_version}
        if result.outside:
            notes["outside_range"] = outside_header(result.outside)
        return encode_page(Page(pa.table(columns), notes=notes))

    @hears(CHAMPION_CHANGED)
    async def champion_changed(self, _: ChampionChanged) -> None:
        """Look for the new champion immediately; polling is the fallback."""
        await self.look_for_model()

    async def look_for_model(self) -> None:
        """Load a newer model if there is one, and set the state to what came of it."""
        refresh = asyncio.create_task(self.models.refresh())
        ended = asyncio.create_task(self._shutdown_event.wait())
        await asyncio.wait({refresh, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not refresh.done():  # the source may hang; the service stops now
            refresh.cancel()
            await asyncio.gather(refresh, return_exceptions=True)
            return
        try:
            if refresh.result() and not self._is_frozen:
                self._is_frozen = True
                # What is loaded by now stays; each full collection of it would delay requests by a tenth of a second.
                gc.collect()
                gc.freeze()
        except ComplexSystemError as error:
            # The current model continues to serve; the next look is due at the usual interval.
            log.debug("Looking for a model: %s", error.message)
        finally:
            if self._state != "starting":
                await self.set_state(*self.initial_state())

    def _predicted(self, result: PredictionResult) -> None:
        if result.origin == "trial":
            return
        head = result.head(ANNOUNCED_RECORDS)
        if head.batch.size and not self._shadow.accept(head):  # processed features have no records to announce
            self._events.put(head, [])

    async def _announce_failures(self) -> None:
        if failures := self._metrics.failures.take():
            await self.announce(PREDICTION_FAILED, PredictionFailed(service=self.service_name(), failures=failures))


def _origin() -> Origin:
    """Return who asks in the request that is being answered."""
    return next((origin for origin, name in ORIGIN_NAMES.items() if name == NAME.get()), "live")


def _answer(result: PredictionResult) -> dict[str, Any]:
    """Return predictions with what was asked for beside them."""
    answer: dict[str, Any] = {"predictions": [[each] for each in result.predictions]}
    if result.half_width is not None:
        answer["intervals"] = result.intervals
    if result.distances is not None:
        answer["record_warnings"] = to_builtins(result.warnings)
    return answer
