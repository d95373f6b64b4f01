"""The REST interface of monitoring: the views as JSON, ``/metrics`` for Prometheus, and a probe."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from complex_system.errors import UnauthorizedError
from complex_system.http.auth import ApiKey
from complex_system.monitoring import periods, views
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.points import Figures

DEFAULT_PERIOD = 3600.0
"""Seconds that a view of a period shows unless ``from`` and ``to`` say otherwise."""
JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def make_app(monitor: Monitor, api_key: str = "", ready: Callable[[], bool] = lambda: True) -> FastAPI:
    """Return the application; others may add routes, such as the page.

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
            return Response(await asyncio.to_thread(msgspec.json.encode, content), media_type=JSON)

        app.router.add_route(path, endpoint, methods=["GET"])

    add("/api/overview", lambda _: views.overview(monitor))
    add("/api/models", lambda _: views.models(monitor))
    add("/api/data", lambda _: views.data(monitor))
    add("/api/alerts", lambda _: views.alerts(monitor))
    add("/api/predictions", lambda request: periods.predictions(monitor, *period_of(request)))
    add("/api/system", lambda request: periods.system(monitor, *period_of(request)))
    add("/api/metric", lambda r: periods.metric(monitor, r.query_params.get("name", ""), *period_of(r)))

    async def metrics(_: Request) -> Response:
        return Response(exposition(monitor.figures), media_type=PROMETHEUS)

    async def health(_: Request) -> Response:
        is_ready = ready()
        return Response(msgspec.json.encode({"ready": is_ready}), 200 if is_ready else 503, media_type=JSON)

    app.router.add_route("/metrics", metrics, methods=["GET"])
    app.router.add_route("/health", health, methods=["GET"])
    return app


def period_of(request: Request) -> tuple[float, float]:
    """Return the query's ``from`` and ``to``, in seconds since 1970.

    Raises:
        ValueError: They are not times, or the wrong way round.
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
    return Response(msgspec.json.encode({"error": {"code": code, "message": message}}), status, media_type=JSON)


def exposition(figures: Figures) -> bytes:
    """Return figures in Prometheus' text format, as gauges ``monitoring_<group>_<figure>{name="<subject>"}``."""
    registry = CollectorRegistry()
    registry.register(_Point(figures))
    return generate_latest(registry)


class _Point(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    @override
    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for figure, number in sorted(self._figures.items()):
            name = re.sub(r"\W", "_", f"monitoring_{figure.name}")
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(
                    name, "Newest value that ml_monitoring measured", labels=[*figure.labels]
                )
            family.add_metric([*figure.labels.values()], number)
        yield from families.values()
