"""The REST interface of monitoring: the views as JSON, ``/metrics`` for Prometheus, and a probe."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from complex_system.errors import UnauthorizedError
from complex_system.http.auth import ApiKey
from complex_system.monitoring import period_views, prometheus, views
from complex_system.monitoring.monitor import Monitor

DAY = 86_400.0
DEFAULT_PERIOD = 3600.0
"""Seconds that a view of a period shows unless ``from`` and ``to`` say otherwise."""


def make_app(monitor: Monitor, api_key: str = "", ready: Callable[[], bool] = lambda: True) -> FastAPI:
    """The application; others may add routes, such as the page.

    ``GET /api/overview``, ``/api/models``, ``/api/data``, ``/api/alerts``; ``/api/predictions``, ``/api/system`` and
    ``/api/metric?name=`` with ``from`` and ``to`` in seconds since 1970 (the last hour without them); ``/metrics``; ``/health``.

    Args:
        monitor: What is shown. It belongs to the event loop, so views are made there; they take milliseconds.
        api_key: What clients of ``/api`` must send (:class:`ApiKey`); empty for none.
        ready: What ``/health`` says.
    """
    app = FastAPI(title="Monitoring", docs_url=None, redoc_url=None, openapi_url=None)

    key = ApiKey(api_key)

    def add(path: str, view: Callable[[Request], Any]) -> None:
        async def endpoint(request: Request) -> Response:
            try:
                key.require(request.headers)
                content = view(request)
            except UnauthorizedError as error:
                return _error(401, error.code, error.message)
            except ValueError as error:
                return _error(400, "invalid_request", str(error))
            return Response(await asyncio.to_thread(msgspec.json.encode, content), media_type="application/json")

        app.router.add_route(path, endpoint, methods=["GET"])

    def of_period(view: Callable[[Monitor, float, float], Any]) -> Callable[[Request], Any]:
        return lambda request: view(monitor, *period_of(request))

    add("/api/overview", lambda _: views.overview(monitor))
    add("/api/models", lambda _: views.models(monitor))
    add("/api/predictions", of_period(period_views.predictions))
    add("/api/data", lambda _: views.data(monitor))
    add("/api/system", of_period(period_views.system))
    add("/api/alerts", lambda _: views.alerts(monitor))
    add("/api/metric", lambda r: period_views.metric(monitor, r.query_params.get("name", ""), *period_of(r)))

    async def metrics(_: Request) -> Response:
        return Response(prometheus.exposition(monitor.metrics), media_type=prometheus.CONTENT_TYPE)

    async def health(_: Request) -> Response:
        return Response(
            b'{"ready":true}' if ready() else b'{"ready":false}', 200 if ready() else 503, media_type="application/json"
        )

    app.router.add_route("/metrics", metrics, methods=["GET"])
    app.router.add_route("/health", health, methods=["GET"])
    return app


def period_of(request: Request) -> tuple[float, float]:
    """The query's ``from`` and ``to``, in seconds since 1970.

    Raises:
        ValueError: They are no times, or the wrong way round.
    """
    end = _time(request, "to", time.time())
    start = _time(request, "from", end - DEFAULT_PERIOD)
    if start >= end:
        raise ValueError("'from' must be before 'to'.")
    return start, end


def _time(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e11:
        raise ValueError(f"'{name}' must be a time in seconds since 1970, not '{text[:40]}'.")
    return value


def _error(status: int, code: str, message: str) -> Response:
    content = {"error": {"code": code, "message": message}}
    return Response(msgspec.json.encode(content), status, media_type="application/json")
