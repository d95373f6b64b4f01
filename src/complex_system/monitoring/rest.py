"""The REST interface of monitoring: present and past as JSON, ``/metrics`` for Prometheus, and a probe.

Times are seconds since 1970 (UTC), errors in the target's unit, latencies in milliseconds.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from complex_system.errors import (
    BusyError,
    ComplexSystemError,
    InvalidRequestError,
    NobodyListensError,
    ReplyTimeoutError,
    StoreUnavailableError,
    UnauthorizedError,
)
from complex_system.http.auth import ApiKey
from complex_system.http.login import Login
from complex_system.http.responses import HoldingResponse, error_response
from complex_system.monitoring import series, views
from complex_system.monitoring.aggregates import HOUR, MINUTE, ErrorSums, Gauge, LatencySums, Rollup, Served, begin_of
from complex_system.monitoring.history import MINUTES_KEPT, Documents, Pair
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.points import Figure, Figures
from complex_system.monitoring.prediction_export import MEDIA_TYPES, Format, exported
from complex_system.monitoring.series import Curve

DEFAULT_PERIOD = 3600.0
"""Seconds that a view of a period shows unless ``from`` and ``to`` say otherwise."""
MAX_POINTS = 300
"""Points of a curve."""
MAX_PAIRS = 2000
"""Pairs of a sample for a scatter plot."""
EXPORTS = 2
"""Exports of predictions at the same time."""
EXPORT_SECONDS = 1800.0
"""Time for an export to be read: nobody holds its place by reading slowly."""
MAX_NAME = 500
"""Characters of a figure's name in a request; parsed names are kept."""
JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

S = TypeVar("S", ErrorSums, LatencySums)


def make_app(
    monitor: Monitor, api_key: str = "", ready: Callable[[], bool] = lambda: True, documents: Documents | None = None
) -> FastAPI:
    """Return the application; others may add routes, such as the page.

    ``GET /api/overview``, ``/api/models``, ``/api/data``, ``/api/alerts``; ``/api/predictions``, ``/api/system`` and
    ``/api/metric?name=`` with ``from`` and ``to`` in seconds since 1970 (the last hour without them); ``/api/predictions.csv`` and
    ``.parquet``, likewise, with ``model`` and ``version``; ``/metrics``; ``/health``.

    Args:
        monitor: What is shown. It belongs to the event loop, so views are made there; they take milliseconds.
        api_key: What clients must know (:class:`ApiKey`), but for ``/health``; a browser logs in at ``/login``. Empty for none.
        ready: What ``/health`` says.
        documents: Where predictions are kept; without it, they cannot be exported.
    """
    app = FastAPI(title="Monitoring", docs_url=None, redoc_url=None, openapi_url=None)
    key = ApiKey(api_key)

    def add(path: str, view: Callable[[Request], Any]) -> None:
        async def endpoint(request: Request) -> Response:
            try:
                key.require(request.headers)
                content = view(request)
            except ComplexSystemError as error:
                return error_response(error)
            return Response(await asyncio.to_thread(msgspec.json.encode, content), media_type=JSON)

        app.router.add_route(path, endpoint, methods=["GET"])

    add("/api/overview", lambda _: views.overview(monitor))
    add("/api/models", lambda _: views.models(monitor))
    add("/api/data", lambda _: views.data(monitor))
    add("/api/alerts", lambda _: views.alerts(monitor))
    add("/api/predictions", lambda request: predictions(monitor, *period_of(request, monitor.now)))
    add("/api/system", lambda request: system(monitor, *period_of(request, monitor.now)))
    add("/api/metric", lambda request: metric(monitor, _figure_of(request), *period_of(request, monitor.now)))

    exports = asyncio.Semaphore(EXPORTS)

    def add_export(form: Format) -> None:
        async def endpoint(request: Request) -> Response:
            try:
                key.require(request.headers)
                start, end = period_of(request, monitor.now)
                model, version = (request.query_params.get(name, "") for name in ("model", "version"))
                parts = exported(monitor.log, stored(documents), form, start, end, model=model, version=version)
                return await streamed(parts, exports, MEDIA_TYPES[form], f"predictions-{monitor.dataset.name}.{form}")
            except ComplexSystemError as error:
                return error_response(error)

        app.router.add_route(f"/api/predictions.{form}", endpoint, methods=["GET"])

    add_export("csv")
    add_export("parquet")

    async def metrics(request: Request) -> Response:
        try:
            key.require(request.headers)
        except UnauthorizedError as error:
            return error_response(error)
        return Response(exposition(monitor.figures), media_type=PROMETHEUS)

    async def health(_: Request) -> Response:
        is_ready = ready()
        return Response(msgspec.json.encode({"ready": is_ready}), 200 if is_ready else 503, media_type=JSON)

    app.router.add_route("/metrics", metrics, methods=["GET"])
    app.router.add_route("/health", health, methods=["GET"])
    if key:
        app.router.routes.extend(Login(key, f"Monitoring of {monitor.dataset.name}").routes)
    return app


def stored(documents: Documents | None) -> Documents:
    """Return where predictions are kept.

    Raises:
        StoreUnavailableError: They are not.
    """
    if documents is None:
        raise StoreUnavailableError("No database keeps predictions here.")
    return documents


async def streamed(parts: AsyncGenerator[bytes], places: asyncio.Semaphore, media_type: str, name: str) -> Response:
    """Return a response that is sent as its parts are made; the first of them is made before.

    Args:
        parts: The body.
        places: How many responses may be made at the same time.
        media_type: Of the body.
        name: Of the file that a browser saves.

    Raises:
        BusyError: All places are taken.
        StoreUnavailableError: The database does not answer.
    """
    if places.locked():
        raise BusyError("Other exports of predictions are running; try again when one has ended.")
    await places.acquire()
    try:
        first = await anext(parts)
    except (NobodyListensError, ReplyTimeoutError, StoreUnavailableError) as error:
        places.release()
        raise StoreUnavailableError(f"The predictions cannot be read, try again later. {error.message}") from error
    except BaseException:
        places.release()
        raise

    async def body() -> AsyncIterator[bytes]:
        yield first
        async for part in parts:
            yield part

    async def end() -> None:
        places.release()
        await parts.aclose()

    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HoldingResponse(body(), end, media_type, headers, EXPORT_SECONDS)


def period_of(request: Request, now: float) -> tuple[float, float]:
    """Return the query's ``from`` and ``to``, in seconds since 1970; by default the period that ends now.

    Raises:
        InvalidRequestError: They are not times, or the wrong way round.
    """
    end = _time(request, "to", now)
    start = _time(request, "from", end - DEFAULT_PERIOD)
    if start >= end:
        raise InvalidRequestError("'from' must be before 'to'.")
    return start, end


def _figure_of(request: Request) -> str:
    name = request.query_params.get("name", "")
    if len(name) > MAX_NAME:
        raise InvalidRequestError(f"'name' must be the name of a figure, of at most {MAX_NAME} characters.")
    return name


def _time(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e11:
        raise InvalidRequestError(f"'{name}' must be a time in seconds since 1970, not '{text[:40]}'.")
    return value


# A period. Only roll-ups are read, however many predictions lie behind them.


def predictions(monitor: Monitor, start: float, end: float) -> dict[str, Any]:
    """Return errors, latencies and failures of a period.

    Returns:
        ``from``, ``to``, ``seconds`` (width of a point), ``target`` (``name``, ``unit``, ``description``); ``windows``: a line a
        served model and origin of requests, with ``service``, ``model``, ``version``, ``shadow``, ``origin``, ``label``, ``points``
        (``at``, ``rmse``, ``mae``, ``bias``, ``r2``, ``count``, ``lowest``, ``highest``) and ``total``; ``groups``: the errors of the
        champion's service by ``group``, likewise; ``latency``: by ``service``, likewise with ``latency_ms_*``, ``requests``,
        ``predictions`` and ``predictions_per_second``; ``failures``: ``service``, ``code``, ``count``; ``sample``: pairs with ``at``,
        ``prediction``, ``truth``, ``residual``, ``group`` and the model; ``changes`` of the error that began in the period;
        ``outliers``: of the champion's window, with ``at``, ``truth``, ``prediction`` and the record's ``key``; ``predictions`` and
        ``joined``: how many there were, and have met their truth; ``waiting``: how many wait for it now.
    """
    rollups, step = _rollups(monitor, start, end)
    models = series.errors_by_model(rollups, step)
    mine = [by for by in models if by.service == CHAMPIONS_SERVICE and not by.shadow]
    groups = [
        {"group": group, **_model(by), **_line(curve, ErrorSums, _errors)}
        for by in mine
        for group, curve in series.errors_by_group(rollups, step, by).items()
    ]
    services = series.latency_by_service(rollups, step)
    failed = sorted(series.failed_requests(rollups).items())
    pairs = list(monitor.history.samples(start, end))

    def latency(sums: LatencySums) -> dict[str, float]:
        return {**sums.metrics(), "predictions_per_second": sums.predictions / step}

    return {
        "from": start,
        "to": end,
        "seconds": step,
        "target": views.target_of(monitor),
        "windows": [{**_model(by), **_line(curve, ErrorSums, _errors)} for by, curve in sorted(models.items())],
        "groups": groups,
        "latency": [{"service": name, **_line(curve, LatencySums, latency)} for name, curve in services.items()],
        "failures": [{"service": name, "code": code, "count": n} for (name, code), n in failed],
        "sample": [_pair(pair) for pair in pairs[:: math.ceil(len(pairs) / MAX_PAIRS) or 1]],
        "changes": [change for change in monitor.changes if start <= change.began < end],
        "outliers": [pair._asdict() for pair in monitor.outliers],
        "predictions": series.predictions(rollups),
        "joined": sum(series.total(curve.values(), ErrorSums).n for by, curve in models.items() if not by.shadow),
        "waiting": monitor.join.waiting,
    }


def system(monitor: Monitor, start: float, end: float) -> dict[str, Any]:
    """Return CPU, memory, latency and throughput over a period.

    Returns:
        ``from``, ``to``, ``seconds``, ``services`` (as they are now) and ``series``: ``[at, mean, lowest, highest]`` by flat name, of
        the host, of every service's processes, of the champion's latency, of record counts and predictions.
    """
    rollups, step = _rollups(monitor, start, end)
    shown = {figure.flat: _readings(curve) for figure, curve in series.gauges(rollups, step, _is_system).items()}
    return {"from": start, "to": end, "seconds": step, "services": monitor.services.services(), "series": shown}


def metric(monitor: Monitor, name: str, start: float, end: float) -> list[list[float]]:
    """Return any figure over a period by its flat name, e.g. ``drift/psi/<feature>``: ``[at, mean, lowest, highest]``."""
    return _readings(series.readings(*_rollups(monitor, start, end), Figure.parse(name)))


def _rollups(monitor: Monitor, start: float, end: float) -> tuple[list[Rollup], int]:
    """Return the roll-ups of a period, minutes where they are kept and hours for longer ago, and the seconds of a point."""
    base = MINUTE if end - start <= MINUTES_KEPT and start >= monitor.at - MINUTES_KEPT else HOUR
    read = monitor.history.minutes if base == MINUTE else monitor.history.hours
    return read(begin_of(start, base), end), base * max(1, math.ceil((end - start) / base / MAX_POINTS))


def _line(curve: Curve[S], make: Callable[[], S], shown: Callable[[S], Mapping[str, float]]) -> dict[str, Any]:
    points = [{"at": at, **shown(sums)} for at, sums in sorted(curve.items())]
    return {"points": points, "total": shown(series.total(curve.values(), make))}


def _errors(sums: ErrorSums) -> dict[str, float]:
    return {**sums.metrics(), **({"lowest": sums.lowest, "highest": sums.highest} if sums.n else {})}


def _readings(curve: Curve[Gauge]) -> list[list[float]]:
    return [[at, gauge.mean, gauge.lowest, gauge.highest] for at, gauge in curve.items()]


def _pair(pair: Pair) -> dict[str, Any]:
    shown = {
        "at": pair.at,
        "prediction": pair.prediction,
        "truth": pair.truth,
        "residual": pair.residual,
        "group": pair.group,
    }
    return {**shown, **_model(pair.served)}


def _model(served: Served) -> dict[str, Any]:
    return {**served._asdict(), "label": served.label}


def _is_system(figure: Figure) -> bool:
    if figure.group == "services":
        return figure.name in ("services/cpu_percent", "services/memory_megabytes", "services/heartbeat_age")
    return figure.group in ("system", "latency", "records") or figure == Figure("performance/predictions_per_second")


# Prometheus


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
