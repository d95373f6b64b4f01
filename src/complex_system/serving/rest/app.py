"""The REST application: our own routes, and the routers of the protocols that others specified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.metrics import CONTENT_TYPE
from complex_system.serving.rest.calls import REQUEST_ID, Call, Gate, OpenRoute, ServingRoute, json_response, refuse_route
from complex_system.serving.rest.mlflow_scoring import scoring_router
from complex_system.serving.rest.oip import oip_router
from complex_system.serving.rest.openapi import add_documentation
from complex_system.serving.rest.schemas import answers

LINKS = {
    "docs": "/docs",
    "predict": "/predict",
    "model": "/model",
    "models": "/models",
    "inference": "/v2",
    "scoring": "/invocations",
    "metrics": "/metrics",
}

MOST_PATHS = 200
"""Paths with parameters whose routes are remembered: clients choose them."""
_Way = tuple[ServingRoute, dict[str, Any]]


class ServingApp(FastAPI):
    """FastAPI that hands a path straight to its route.

    Its own way leads through four layers that do nothing for our routes, and past every route before the right one: together
    that takes longer than the prediction.
    """

    def __init__(self, gate: Gate, **options: Any) -> None:
        super().__init__(**options)
        self.gate = self.state.gate = gate
        self._straight: dict[tuple[str, str], _Way] = {}
        self._templates: list[ServingRoute] = []
        # Paths of routes with parameters, as they were asked for.
        self._found: dict[tuple[str, str], _Way] = {}

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._way(scope) if scope["type"] == "http" else None
        if way is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        route, scope["path_params"] = way
        await route.app(scope, receive, send)

    @override
    def include_router(self, router: APIRouter, **options: Any) -> None:
        super().include_router(router, **options)
        served = [route for route in self.routes if isinstance(route, ServingRoute)]
        self._templates = [route for route in served if route.param_convertors]
        for route in served:
            if not route.param_convertors:
                self._straight.update({(method, route.path): (route, {}) for method in route.methods})

    def _way(self, scope: Scope) -> _Way | None:
        """The route of a request and the parameters in its path; None for what FastAPI knows better."""
        asked = (scope["method"], scope["path"])
        way = self._straight.get(asked) or self._found.get(asked)
        if way is not None:
            return way
        for route in self._templates:
            match, found = route.matches(scope)
            if match is Match.FULL:
                if len(self._found) >= MOST_PATHS:
                    self._found.clear()
                way = self._found[asked] = route, found["path_params"]
                return way
        return None


def make_app(
    engine: PredictionEngine,
    dataset: Dataset,
    api_key: str = "",
    broker_connected: Callable[[], bool] | None = None,
    broker_needed: bool = False,
) -> FastAPI:
    """The application that serves an engine.

    Args:
        engine: Predicts.
        dataset: What the requests look like.
        api_key: What a client must send as ``X-API-Key``, or as ``Authorization: Bearer``; empty for none. Probes, metrics and
            documentation are open.
        broker_connected: Whether the broker is there; None where there is none.
        broker_needed: Whether no prediction can be made without it.
    """
    app = ServingApp(
        Gate(engine, api_key, broker_connected, broker_needed),
        title=f"Predictions of '{dataset.target}'",
        version=__version__,
        docs_url=None,
        redoc_url=None,
    )
    add_documentation(app, dataset, secured=bool(api_key))
    app.add_exception_handler(HTTPException, refuse_route)
    app.include_router(_own_router())
    app.include_router(oip_router())
    app.include_router(scoring_router())
    app.include_router(_probes())
    # Routes are tried in their order; the documentation's, which FastAPI has put first, are asked least.
    app.router.routes.sort(key=lambda route: not isinstance(route, ServingRoute))
    return app


def _own_router() -> APIRouter:
    router = APIRouter(route_class=ServingRoute)
    documented = {
        "responses": answers({200: "Predictions"} | dict.fromkeys((400, 413, 422, 503), "Error")),
    }

    @router.post("/predict", summary="Predict raw records", tags=["predict"], openapi_extra=documented)
    async def predict(call: Call) -> Response:
        batch = await call.read(lambda body, reader: reader.body(body))
        result = await call.predict(batch)
        answer = {
            "predictions": result.predictions,
            "model": result.model.reference,
            "pipeline_version": result.model.pipeline_version,
            "request_id": call.id,
        }
        return json_response(answer, headers={REQUEST_ID: call.id})

    one = {"responses": answers({200: "ModelStatus"})}
    every = {"responses": answers({200: "ModelsStatus"})}

    @router.get("/model", summary="The model that is served, and why a newer one is not", tags=["model"], openapi_extra=one)
    async def model(call: Call) -> Response:
        return json_response(call.gate.engine.holder.status())

    @router.get("/models", summary="All models that can be asked for, and those loaded", tags=["model"], openapi_extra=every)
    async def models(call: Call) -> Response:
        return json_response(await call.gate.engine.models.status())

    @router.get("/", include_in_schema=False)
    async def root(call: Call) -> Response:
        return json_response({"service": "predictions", "version": __version__, **LINKS})

    return router


def _probes() -> APIRouter:
    router = APIRouter(route_class=OpenRoute, tags=["health"])
    is_live: dict[str, Any] = {"responses": answers({200: "Live"})}
    is_ready: dict[str, Any] = {"responses": answers({200: "Ready", 503: "Error"})}

    async def live(call: Call) -> Response:
        return json_response({"status": "live"})

    async def ready(call: Call) -> Response:
        call.gate.require_ready()
        return json_response({"status": "ready", "model": call.gate.engine.holder.require().info.reference})

    for paths, endpoint, summary, extra in (
        (("/livez", "/health/live"), live, "The process is up", is_live),
        (("/readyz", "/health/ready"), ready, "Predictions can be made", is_ready),
    ):
        for path in paths:
            router.add_api_route(path, endpoint, summary=summary, openapi_extra=extra)
            # A route of its own: one for both methods would be two operations of one name in the document.
            router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)

    @router.get("/metrics", summary="Metrics in Prometheus' text format", response_class=PlainTextResponse)
    async def metrics(call: Call) -> Response:
        return Response(call.gate.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return router
