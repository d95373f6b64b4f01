"""The REST application: our own routes, and the routers of the protocols that others specified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.serving.calls import REQUEST_ID, Call, Gate, OpenRoute, ServingRoute, json_response, refuse_route
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.metrics import CONTENT_TYPE
from complex_system.serving.oip import oip_router
from complex_system.serving.schemas import answers, components, request_body
from complex_system.serving.scoring import scoring_router

LINKS = {
    "docs": "/docs",
    "predict": "/predict",
    "model": "/model",
    "models": "/models",
    "inference": "/v2",
    "scoring": "/invocations",
    "metrics": "/metrics",
}


class ServingApp(FastAPI):
    """FastAPI that hands a path without parameters straight to its route.

    Its own way leads through four layers that do nothing for our routes, and past every route before the right one: together
    that takes longer than the prediction.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._straight: dict[tuple[str, str], ServingRoute] = {}

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._straight.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        scope["path_params"] = {}
        await route.app(scope, receive, send)

    @override
    def include_router(self, router: APIRouter, **options: Any) -> None:
        super().include_router(router, **options)
        for route in self.routes:
            if isinstance(route, ServingRoute) and not route.param_convertors:
                self._straight.update({(method, route.path): route for method in route.methods})


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
    app = ServingApp(title=f"Predictions of '{dataset.target}'", version=__version__, description=dataset.description)
    app.state.gate = Gate(engine, api_key, broker_connected, broker_needed)
    _add_openapi(app, dataset, secured=bool(api_key))
    app.add_exception_handler(HTTPException, refuse_route)
    app.include_router(_own_router(dataset))
    app.include_router(oip_router(dataset))
    app.include_router(scoring_router(dataset))
    app.include_router(_probes())
    # Routes are tried in their order; the documentation's, which FastAPI has put first, are asked least.
    app.router.routes.sort(key=lambda route: not isinstance(route, ServingRoute))
    return app


def _own_router(dataset: Dataset) -> APIRouter:
    router = APIRouter(route_class=ServingRoute)
    documented = {
        "requestBody": request_body(dataset),
        "responses": answers({200: "Predictions"} | dict.fromkeys((400, 401, 413, 422, 503), "Error")),
    }

    @router.post("/predict", summary="Predict raw records", tags=["predict"], openapi_extra=documented)
    async def predict(call: Call) -> Response:
        batch = await call.read(call.gate.engine.reader.body)
        result = await call.predict(batch)
        answer = {
            "predictions": result.predictions,
            "model": result.model.reference,
            "pipeline_version": result.model.pipeline_version,
            "request_id": call.id,
        }
        return json_response(answer, headers={REQUEST_ID: call.id})

    @router.get("/model", summary="The model that is served, and why a newer one is not", tags=["model"])
    async def model(call: Call) -> Response:
        return json_response(call.gate.engine.holder.status())

    @router.get("/models", summary="All models that can be asked for, and those that are loaded", tags=["model"])
    async def models(call: Call) -> Response:
        return json_response(await call.gate.engine.models.status())

    @router.get("/", include_in_schema=False)
    async def root(call: Call) -> Response:
        return json_response({"service": "predictions", "version": __version__, **LINKS})

    return router


def _probes() -> APIRouter:
    router = APIRouter(route_class=OpenRoute, tags=["health"])
    unready: dict[str, Any] = {"responses": answers({503: "Error"})}

    async def live(call: Call) -> Response:
        return json_response({"status": "live"})

    async def ready(call: Call) -> Response:
        call.gate.require_ready()
        return json_response({"status": "ready", "model": call.gate.engine.holder.require().info.reference})

    for path in ("/livez", "/health/live"):
        router.add_api_route(path, live, summary="The process is up")
    for path in ("/readyz", "/health/ready"):
        router.add_api_route(path, ready, summary="Predictions can be made", openapi_extra=unready)

    @router.get("/metrics", summary="Metrics in Prometheus' text format")
    async def metrics(call: Call) -> Response:
        return Response(call.gate.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return router


def _add_openapi(app: FastAPI, dataset: Dataset, secured: bool) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(components(dataset))
            if secured:
                key = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
                schema["components"]["securitySchemes"] = {"key": key}
                schema["security"] = [{"key": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
