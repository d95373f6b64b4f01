"""The REST application: our own routes, and those of the protocols that others specified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import MAX_FAULTS
from complex_system.errors import ComplexSystemError, InvalidRecordError, NobodyListensError, NoModelError
from complex_system.http.limits import LimitedRequest
from complex_system.http.login import Login
from complex_system.http.responses import json_response
from complex_system.logs import REQUEST_ID
from complex_system.protocol.serving import ExplainedPrediction, ExplanationMethod
from complex_system.serving.engine import PredictionEngine, PredictionResult, off_loop
from complex_system.serving.known import RecordWarning
from complex_system.serving.metrics import CONTENT_TYPE, ServingMetrics
from complex_system.serving.models.manager import ModelsStatus
from complex_system.serving.models.slot import ModelStatus
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.rest.endpoint import (
    Backend,
    ErrorFormat,
    PredictingModel,
    PredictionRequest,
    Responses,
    Routes,
)
from complex_system.serving.rest.mlflow_scoring import scoring_routes
from complex_system.serving.rest.oip import InferenceError, oip_routes
from complex_system.serving.rest.openapi import SUBJECTS, documentation_routes
from complex_system.serving.rest.schemas import records_body
from complex_system.serving.rest.suggest import suggest_routes
from complex_system.serving.suggest.suggester import Suggester

LINKS = {
    "docs": "/docs",
    "predict": "/predict",
    "explain": "/explain",
    "suggest": "/suggest",
    "model": "/model",
    "models": "/models",
    "declaration": "/declaration",
    "inference": "/v2",
    "scoring": "/invocations",
    "metrics": "/metrics",
}


class Warned(msgspec.Struct, frozen=True):
    """Values of one column that lie outside of its declared range, and were taken all the same.

    ``records`` are the positions of the first 20 records that have one.
    """

    field: str
    count: int
    problem: str
    records: list[int]


class Predictions(msgspec.Struct, frozen=True):
    """One prediction for each record, in the order of the records.

    ``warnings`` are there only where there are some, ``intervals`` (lower and upper end) and ``record_warnings``
    (those of every record) only where they were asked for.
    """

    predictions: list[float]
    model: PredictingModel
    pipeline_version: str
    request_id: str
    warnings: list[Warned] | msgspec.UnsetType = msgspec.UNSET
    intervals: list[tuple[float, float]] | msgspec.UnsetType = msgspec.UNSET
    record_warnings: list[list[RecordWarning]] | msgspec.UnsetType = msgspec.UNSET


class Explained(msgspec.Struct, frozen=True):
    """One explanation for each record, in the order of the records. Base and contributions add up to the prediction."""

    explanations: list[ExplainedPrediction]
    base: Annotated[float, msgspec.Meta(description="Mean prediction of the background records.")]
    background: Annotated[int, msgspec.Meta(description="Number of background records, of the model's training.")]
    method: Annotated[
        ExplanationMethod,
        msgspec.Meta(description="Whether all coalitions of columns were evaluated, or a sample of orders."),
    ]
    model: PredictingModel
    pipeline_version: str
    request_id: str


class Subjects(msgspec.Struct, frozen=True):
    """Subjects of the broker: of records, of Arrow pages, and of explanations."""

    subject: str
    columns: str
    explain: str


class Live(msgspec.Struct, frozen=True):
    """The process is up."""

    status: Literal["live"]


class Ready(msgspec.Struct, frozen=True):
    """Predictions can be made. The model is named only to callers with the API key."""

    status: Literal["ready"]
    model: PredictingModel | msgspec.UnsetType = msgspec.UNSET


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with one field of one record."""

    record: int
    id: str | None
    field: str | None
    problem: str


class ErrorContent(msgspec.Struct, frozen=True):
    """What went wrong. ``code`` is stable: programs decide by it. ``faults`` are the first 20 of the records."""

    code: str
    message: str
    faults: list[Fault]


class Error(msgspec.Struct, frozen=True):
    """A request that failed."""

    error: ErrorContent


def make_app(
    engine: PredictionEngine,
    dataset: Dataset,
    api_key: str = "",
    *,
    metrics: ServingMetrics | None = None,
    broker_connected: Callable[[], bool] | None = None,
    broker_needed: bool = False,
    subjects: Callable[[], Mapping[str, str]] | None = None,
    suggester: Suggester | None = None,
) -> ASGIApp:
    """Make the application that serves an engine.

    Args:
        engine: Predicts.
        dataset: Declares what requests look like.
        api_key: What clients must know (:class:`ApiKey`), but for probes; a browser logs in at ``/login``. Empty for none.
        metrics: Counts; by default metrics of its own.
        broker_connected: Whether the broker is connected; None where there is none.
        broker_needed: Whether no prediction can be made without it.
        subjects: Returns the broker's subjects by their names in ``nats.md``, for the documentation; None without a broker.
        suggester: Finds settings; by default one of its own.
    """
    counting = metrics or ServingMetrics(engine.models, broker_connected)
    counting.registry.register(engine.outside)
    backend = Backend(engine, counting, api_key, broker_connected if broker_needed else None)
    # The router tries them in this order; the documentation is asked for least.
    routes = predict_routes(backend) + oip_routes(backend) + scoring_routes(backend) + status_routes(backend)
    routes += suggest_routes(backend, OWN_ERRORS, suggester or Suggester(engine))
    routes += subjects_routes(backend, subjects) if subjects is not None else []
    documentation = documentation_routes(backend, routes, dataset, subjects)
    # Endpoints answer their errors themselves, so the router needs no Starlette application around it: that would cost a request
    # another 7 %. What is left are paths and methods that do not exist.
    login = Login(backend.api_key, f"Predictions of {dataset.name}").routes if backend.api_key else []
    router = Router(routes + documentation + login)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app  # the router raises HTTPException only inside of an application
        try:
            await router(scope, receive, send)
        except HTTPException as error:
            await _not_routed(backend, scope, receive, error)(scope, receive, send)

    return app


def _not_routed(backend: Backend, scope: Scope, receive: Receive, error: HTTPException) -> Response:
    """Return the response for a path or a method that does not exist, in the format of its protocol."""
    backend.metrics.requests.add("other", None, error.status_code, 0.0, 0)
    content: Error | InferenceError = Error(ErrorContent(f"http_{error.status_code}", error.detail, []))
    if scope["path"].startswith("/v2"):
        content = InferenceError(error.detail)
    request_id = LimitedRequest(scope, receive, backend.limits).id
    return json_response(content, error.status_code, {**(error.headers or {}), REQUEST_ID: request_id})


def _error(error: ComplexSystemError, status: int) -> Error:
    faults = error.faults if isinstance(error, InvalidRecordError) else []
    return Error(ErrorContent(error.code, error.message, [Fault(**fault) for fault in faults]))


OWN_ERRORS = ErrorFormat(Error, _error, invalid_record=422)


def predict_routes(backend: Backend) -> list[Route]:
    """Return ``/predict`` and ``/explain``."""
    routes = Routes(backend, OWN_ERRORS, "predict")
    responses: Responses = {200: Predictions, 400: Error, 409: Error, 413: Error, 415: Error, 422: Error, 503: Error}
    routes.add("/predict", predict, "Predict raw records", responses, method="POST", body=records_body)
    explained: Responses = {**responses, 200: Explained}
    about = "Predict raw records, with the contribution of each raw column"
    routes.add("/explain", explain, about, explained, method="POST", body=records_body)
    return routes.routes


def status_routes(backend: Backend) -> list[Route]:
    """Return ``/model``, ``/models``, ``/declaration``, ``/``, ``/metrics`` and the probes, which need no key."""
    about = Routes(backend, OWN_ERRORS, "model")
    about.add("/model", champion, "The model that is served, and why a newer one is not", {200: ModelStatus}, name="model")
    about.add("/models", models, "All models that can be asked for, and those loaded", {200: ModelsStatus})
    content = {"description": "The declaration, as JSON", "content": {"application/json": {"schema": {"type": "object"}}}}
    about.add("/declaration", declaration, "What records the champion takes", {200: content, 503: Error})
    about.add("/", root)
    text = {"description": "Successful Response", "content": {"text/plain": {"schema": {"type": "string"}}}}
    about.add("/metrics", metrics, "Metrics in Prometheus' text format", {200: text})
    health = Routes(backend, OWN_ERRORS, "health", is_open=True)
    for path in ("/livez", "/health/live"):
        health.add(path, live, "The process is up", {200: Live})
    for path in ("/readyz", "/health/ready"):
        health.add(path, ready, "Predictions can be made", {200: Ready, 503: Error})
    return about.routes + health.routes


def subjects_routes(backend: Backend, subjects: Callable[[], Mapping[str, str]]) -> list[Route]:
    """Return ``/subjects``, whose documentation has the calls over NATS."""

    async def answered(_: PredictionRequest) -> Response:
        return json_response(Subjects(**subjects()))

    routes = Routes(backend, OWN_ERRORS, "NATS")
    about = "Subjects on which the same models answer over NATS, with programs to paste"
    routes.add(SUBJECTS, answered, about, {200: Subjects}, name="subjects")
    return routes.routes


async def predict(request: PredictionRequest) -> Response:
    """Predict raw records."""
    request.require_json()
    result = await request.predict(BatchReader.body)
    response: Response = await off_loop(result.batch.size, _predictions, result, request)
    return response


def _predictions(result: PredictionResult, request: PredictionRequest) -> Response:
    info = result.model
    model = PredictingModel(info.name, info.version, info.framework)
    warned = [Warned(each.column.name, each.count, each.message, list(each.records[:MAX_FAULTS])) for each in result.outside]
    intervals = msgspec.UNSET if result.half_width is None else result.intervals
    warnings = msgspec.UNSET if result.distances is None else result.warnings
    content = Predictions(
        result.predictions, model, info.pipeline_version, request.id, warned or msgspec.UNSET, intervals, warnings
    )
    return json_response(content, headers=request.answer_headers)


async def explain(request: PredictionRequest) -> Response:
    """Explain the predictions of raw records."""
    request.require_json()
    batch, predictor = await request.read(BatchReader.body)
    result = await request.backend.engine.explanations.explain(batch, predictor)
    request.outside = result.outside
    info = result.model
    content = Explained(
        list(result.explanations), result.base, result.background, result.method,
        PredictingModel(info.name, info.version, info.framework), info.pipeline_version, request.id,
    )  # fmt: skip
    return json_response(content, headers=request.answer_headers)


async def champion(request: PredictionRequest) -> Response:
    """Describe the champion."""
    return json_response(request.backend.engine.champion.status)


async def models(request: PredictionRequest) -> Response:
    """Describe all models."""
    return json_response(await request.backend.engine.models.status())


async def declaration(request: PredictionRequest) -> Response:
    """Return the declaration that the champion was trained for; the key has the name that it has now."""
    engine = request.backend.engine
    content = engine.champion.require().pipeline.dataset.as_content()
    return json_response({**content, "id": engine.models.pipeline.dataset.id})


async def root(_: PredictionRequest) -> Response:
    """List the interfaces."""
    return json_response({"service": "predictions", "version": __version__, **LINKS})


async def live(_: PredictionRequest) -> Response:
    """Tell that the process is up."""
    return json_response(Live("live"))


async def ready(request: PredictionRequest) -> Response:
    """Tell whether predictions can be made."""
    backend = request.backend
    try:
        backend.require_ready()
    except (NoModelError, NobodyListensError) as error:
        if request.knows_key:
            raise
        raise type(error)("Not ready.") from error
    if not request.knows_key:
        return json_response(Ready("ready"))
    info = backend.engine.champion.require().info
    return json_response(Ready("ready", PredictingModel(info.name, info.version, info.framework)))


async def metrics(request: PredictionRequest) -> Response:
    """Return the metrics."""
    return Response(request.backend.metrics.text(), headers={"content-type": CONTENT_TYPE})
