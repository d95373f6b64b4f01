"""The way of a request, the same in every protocol: key, body, model, prediction, errors, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from complex_system import tracing
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, InternalError, InvalidRecordError, NobodyListensError, NoModelError
from complex_system.http.auth import ApiKey
from complex_system.http.limits import BodyLimits, LimitedRequest
from complex_system.http.responses import challenge, json_response, status_of
from complex_system.logs import REQUEST, REQUEST_ID
from complex_system.pipeline.pipeline import OutsideRange
from complex_system.protocol.serving import ORIGIN_HEADER, ORIGINS, Origin
from complex_system.serving.engine import PredictionEngine, PredictionResult
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.reader import BatchReader

log = logging.getLogger(__name__)

OUTSIDE = "x-outside-range"
"""Header of an answer: how many values lie outside of the declared range and were taken all the same, by column."""
_MAX_NAMED = 20
LONG_BODY = 250_000
"""Bytes from which a body is decoded in a thread."""

Schema = dict[str, Any]
Responses = Mapping[int, type[msgspec.Struct] | Schema]
Handler = Callable[..., Awaitable[Response]]
"""Answers a :class:`PredictionRequest`; the parameters of the path are keyword arguments."""
_NO_RESPONSES: Responses = {}


class PredictingModel(msgspec.Struct, frozen=True):
    """The model that made the predictions."""

    name: str
    version: str
    framework: str


class Backend:
    """What all routes of one application share.

    Attributes:
        engine: Predicts.
        metrics: Counts.
        api_key: What clients must know.
        limits: Of bodies.
    """

    def __init__(
        self,
        engine: PredictionEngine,
        metrics: ServingMetrics,
        api_key: str = "",
        processing_connected: Callable[[], bool] | None = None,
    ) -> None:
        """Make the backend.

        Args:
            engine: Predicts.
            metrics: Counts.
            api_key: What clients must know; empty for none.
            processing_connected: Whether what processes the records elsewhere can be reached; None where nothing is needed.
        """
        self.engine = engine
        self.metrics = metrics
        self.api_key = ApiKey(api_key)
        self.limits = BodyLimits(engine.limits.body_bytes, engine.limits.records)
        self._processing_connected = processing_connected

    def require_ready(self) -> None:
        """Return if predictions can be made: a model is loaded and warm, and the broker is connected if it is needed.

        Raises:
            NoModelError: There is no model yet.
            NobodyListensError: The broker is needed and away.
        """
        self.engine.champion.require()
        self.require_processing()

    def require_processing(self) -> None:
        """Return if records can be processed.

        Raises:
            NobodyListensError: The broker is needed and away.
        """
        if self._processing_connected is not None and not self._processing_connected():
            raise NobodyListensError("The broker, which processes the records, is away.")

    @property
    def is_ready(self) -> bool:
        """Whether predictions can be made."""
        try:
            self.require_ready()
        except (NoModelError, NobodyListensError):
            return False
        return True


class PredictionRequest(LimitedRequest):
    """A request to one of the routes.

    Attributes:
        backend: What all routes share.
        predictor: The model that predicts, once it is known.
        size: Number of records, once they are read.
        outside: What lies outside of its range and was taken all the same, once it is known.
    """

    def __init__(self, scope: Scope, receive: Receive, backend: Backend) -> None:
        super().__init__(scope, receive, backend.limits)
        self.backend = backend
        self.predictor: Predictor | None = None
        self.size = 0
        self.outside: tuple[OutsideRange, ...] = ()
        self._live = False

    @property
    def knows_key(self) -> bool:
        """Whether the request carries the API key, or none is needed."""
        return self.backend.api_key.accepts(Headers(scope=self.scope))

    @property
    def _origin(self) -> Origin:
        """Who asks."""
        return ORIGINS.get(self.header(ORIGIN_HEADER), "live")

    @property
    def answer_headers(self) -> dict[str, str]:
        """Headers of the answer: the request's id, and how many values lie outside of their ranges, where some do."""
        found = {OUTSIDE: outside_header(self.outside)} if self.outside else {}
        return {REQUEST_ID: self.id, **found}

    async def find_model(self, name: str, version: str | None) -> Predictor:
        """Find the model that the request names; from now on the request is counted as its.

        Raises:
            NoModelError: No model is loaded yet.
            UnknownModelError: There is no such model.
            ModelRefusedError: The model exists and must not be served.
        """
        engine = self.backend.engine
        self.predictor = await engine.models.predictor(name, version)
        self._live = self.predictor is engine.champion.current
        return self.predictor

    async def predict(self, read: Callable[[BatchReader, bytes], Batch]) -> PredictionResult:
        """Read the body (:meth:`read`) and predict."""
        batch, predictor = await self.read(read)
        result = await self.backend.engine.predict_batch(batch, predictor, live=self._live, origin=self._origin)
        self.outside = result.outside
        return result

    async def read(self, read: Callable[[BatchReader, bytes], Batch]) -> tuple[Batch, Predictor]:
        """Read the body as the model takes it: the model that was found, else the champion.

        Args:
            read: Makes the batch; called in a thread if the body is long.

        Raises:
            NoModelError: There was no model when the request came.
        """
        engine = self.backend.engine
        if self.predictor is None and engine.champion.current is not None:
            self.predictor, self._live = engine.champion.current, True
        reader = engine.reader_for(self.predictor)
        body = await self.body()
        batch = read(reader, body) if len(body) <= LONG_BODY else await asyncio.to_thread(read, reader, body)
        self.size = batch.size
        if self.predictor is None:
            self.predictor = engine.champion.require()
            if engine.reader_for(self.predictor) is not reader:
                raise NoModelError("There was no model when the request came; there is one now: send it again.")
        return batch, self.predictor


@dataclass(frozen=True)
class ErrorFormat:
    """How a protocol writes errors.

    Attributes:
        schema: Type of the body.
        content: Makes the body from an error and its status.
        invalid_record: Status where records are not as declared.
    """

    schema: type[msgspec.Struct]
    content: Callable[[ComplexSystemError, int], msgspec.Struct]
    invalid_record: int = 400

    def response(self, error: ComplexSystemError, request_id: str) -> Response:
        """Return the response for an error."""
        status = self.invalid_record if error.code == InvalidRecordError.code else status_of(error)
        return json_response(self.content(error, status), status, {REQUEST_ID: request_id, **challenge(status)})


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An ASGI application for one route, and what the documentation says about it.

    Attributes:
        backend: What all routes share.
        path: Template of the path.
        handler: Answers the requests.
        errors: How errors are written.
        needs_key: Whether requests must carry the API key.
        method: Of HTTP; ``GET`` stands for ``HEAD``, too.
        tag: Group of routes.
        summary: A few words; empty for what is not documented.
        responses: Status to the type of the body, or to OpenAPI's own description.
        body: Makes OpenAPI's ``requestBody`` for a data set.
        predicts: Whether a request that fails counts as a prediction that failed.
    """

    backend: Backend
    path: str
    handler: Handler
    errors: ErrorFormat
    needs_key: bool
    method: str
    tag: str
    summary: str
    responses: Responses
    body: Callable[[Dataset], Schema] | None
    predicts: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = PredictionRequest(scope, receive, self.backend)
        REQUEST.set(request)
        counters, began = self.backend.metrics.requests, time.perf_counter()
        counters.in_progress += 1
        try:
            if self.needs_key:
                self.backend.api_key.require(Headers(scope=scope))
            response = await self.handler(request, **scope["path_params"])
        except ComplexSystemError as error:
            tracing.failed(error)
            response = self._refuse(request, error)
        except ClientDisconnect:
            response = Response(status_code=400)  # nobody reads it
        except Exception as error:
            log.exception("%s %s failed (request %s)", scope["method"], self.path, request.id)
            tracing.failed(error)
            response = self._refuse(request, InternalError("The request failed inside the service; its log says more."))
        finally:
            counters.in_progress -= 1
            request.release()
        model = request.predictor.info if request.predictor else None
        counters.add(self.path, model, response.status_code, time.perf_counter() - began, request.size)
        await response(scope, receive, send)

    def _refuse(self, request: PredictionRequest, error: ComplexSystemError) -> Response:
        if self.predicts and request.scope["method"] == "POST":
            self.backend.metrics.failures.count(error.code)
        return self.errors.response(error, request.id)


class TracedEndpoint(Endpoint):
    """One whose requests are parts of traces; the others know nothing of them, and are as fast as without."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set("http.response.status_code", message["status"])
                span.set("http.request.id", dict(message["headers"]).get(REQUEST_ID.encode(), b"").decode("latin-1"))
            await send(message)

        with tracing.http_request(scope["method"], self.path, scope["headers"]) as span:
            await super().__call__(scope, receive, sent)


@dataclass(frozen=True)
class Routes:
    """Makes the routes of one protocol.

    Attributes:
        backend: What all routes share.
        errors: How the protocol writes errors.
        tag: Group of its routes in the documentation.
        is_open: Whether they need no key.
        routes: Those that were added.
    """

    backend: Backend
    errors: ErrorFormat
    tag: str
    is_open: bool = False
    routes: list[Route] = field(default_factory=list)

    def add(
        self,
        path: str,
        handler: Handler,
        summary: str = "",
        responses: Responses = _NO_RESPONSES,
        *,
        method: str = "GET",
        body: Callable[[Dataset], Schema] | None = None,
        name: str | None = None,
        predicts: bool = True,
    ) -> None:
        """Add a route; for the arguments see :class:`Endpoint`. ``name`` is the handler's unless it is given."""
        endpoint = (TracedEndpoint if tracing.is_on() else Endpoint)(
            backend=self.backend, path=path, handler=handler, errors=self.errors, method=method, tag=self.tag, summary=summary,
            responses=responses, body=body, needs_key=bool(self.backend.api_key) and not self.is_open,
            predicts=predicts,
        )  # fmt: skip
        self.routes.append(Route(path, endpoint, methods=[method], name=name or handler.__name__))


def outside_header(found: Sequence[OutsideRange]) -> str:
    """Return the header's value, ``Temp=3, Druck=1``: names as in a URL, the first 20 columns, and ``...`` for more."""
    named = [f"{quote(each.column.name, safe='')}={each.count}" for each in found[:_MAX_NAMED]]
    return ", ".join([*named, *(["..."] if len(found) > _MAX_NAMED else [])])
