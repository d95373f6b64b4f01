"""What the REST interface shows of a period: only roll-ups are read, however many predictions lie behind them.

Times, errors and latencies as in :mod:`views`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from complex_system.monitoring import series
from complex_system.monitoring.aggregates import HOUR, MINUTE, ErrorSums, Gauge, LatencySums, Rollup, begin_of
from complex_system.monitoring.change_points import Change
from complex_system.monitoring.history import MINUTES_KEPT, Pair
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.points import Figure
from complex_system.monitoring.series import Curve
from complex_system.monitoring.services import ServiceState
from complex_system.monitoring.views import Described, target_of
from complex_system.protocol.base import Message

MAX_POINTS = 300
"""Points of a curve in the REST interface."""
MAX_PAIRS = 2000
"""Pairs of a sample for a scatter plot there."""

S = TypeVar("S", ErrorSums, LatencySums)


class Span(Message, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """A period.

    Attributes:
        start: Begin, seconds since 1970 (UTC).
        end: End.
        seconds: Between two points of a curve.
    """

    start: float
    end: float
    seconds: int


class Line(Message, frozen=True, kw_only=True):
    """A curve with its sum; a point has ``at`` beside its figures.

    Attributes:
        points: Oldest first.
        total: The figures of the whole period.
    """

    points: list[dict[str, float]]
    total: dict[str, float]


class ModelLine(Line, frozen=True, kw_only=True):
    """Errors of a served model: ``rmse``, ``mae``, ``bias``, ``r2``, ``count``, ``lowest``, ``highest``.

    Attributes:
        service: The service that answers with it.
        model: Registered name.
        version: Registered version.
        shadow: Whether it is a challenger.
        label: For a legend.
    """

    service: str
    model: str
    version: str
    shadow: bool
    label: str


class GroupLine(Line, frozen=True, kw_only=True):
    """Errors of the champion's service for a group of records.

    Attributes:
        group: Column and value, such as ``material_id=00000000``.
    """

    group: str


class ServiceLine(Line, frozen=True, kw_only=True):
    """``latency_ms_*``, ``requests``, ``predictions`` and ``predictions_per_second`` of a service.

    Attributes:
        service: Its name.
    """

    service: str


class Failures(Message, frozen=True, kw_only=True):
    """Failed requests of a service with an error code.

    Attributes:
        service: Its name.
        code: The stable error code.
        count: How many there were.
    """

    service: str
    code: str
    count: int


class SampledPair(Message, frozen=True, kw_only=True):
    """A prediction with its truth.

    Attributes:
        at: When it was made, seconds since 1970 (UTC).
        prediction: In the target's unit.
        truth: In the target's unit.
        residual: Prediction - truth.
        group: Group of the record, as in :class:`GroupLine`.
        service: As in :class:`ModelLine`, and so are the next ones.
        model: Registered name.
        version: Registered version.
        shadow: Whether it is a challenger.
        label: For a legend.
    """

    at: float
    prediction: float
    truth: float
    residual: float
    group: str
    service: str
    model: str
    version: str
    shadow: bool
    label: str


class Predictions(Span, frozen=True, kw_only=True):
    """Errors, latencies and failures of a period.

    Attributes:
        target: What is predicted.
        windows: A line a served model.
        groups: A line a group of records.
        latency: A line a service.
        failures: By service and code.
        sample: Pairs, at most ``MAX_PAIRS``.
        changes: Of the error, those that began in the period.
        predictions: How many there were.
        joined: How many of them have met their truth.
        waiting: How many wait for it now.
    """

    target: Described
    windows: list[ModelLine]
    groups: list[GroupLine]
    latency: list[ServiceLine]
    failures: list[Failures]
    sample: list[SampledPair]
    changes: list[Change]
    predictions: int
    joined: int
    waiting: int


class System(Span, frozen=True, kw_only=True):
    """CPU, memory, latency and throughput over a period.

    Attributes:
        services: As they are now.
        series: ``[at, mean, lowest, highest]`` by flat name: figures of the host, of every service's processes, of the champion's
            latency, of record counts and predictions.
    """

    services: list[ServiceState]
    series: dict[str, list[list[float]]]


def predictions(monitor: Monitor, start: float, end: float) -> Predictions:
    """Return errors, latencies and failures of a period."""
    rollups, step = _rollups(monitor, start, end)
    models = series.errors_by_model(rollups, step)
    groups = series.errors_by_group(rollups, step, CHAMPIONS_SERVICE)
    services = series.latency_by_service(rollups, step)
    pairs = list(monitor.history.samples(start, end))

    def latency(each: LatencySums) -> dict[str, float]:
        return {**each.metrics(), "predictions_per_second": each.predictions / step}

    return Predictions(
        start=start,
        end=end,
        seconds=step,
        target=target_of(monitor),
        windows=[
            ModelLine(**by._asdict(), label=by.label, **_line(curve, ErrorSums, _errors))
            for by, curve in sorted(models.items())
        ],
        groups=[GroupLine(group=group, **_line(curve, ErrorSums, _errors)) for group, curve in groups.items()],
        latency=[ServiceLine(service=name, **_line(curve, LatencySums, latency)) for name, curve in services.items()],
        failures=[
            Failures(service=name, code=code, count=n) for (name, code), n in sorted(series.failed_requests(rollups).items())
        ],
        sample=[_sampled(pair) for pair in pairs[:: math.ceil(len(pairs) / MAX_PAIRS) or 1]],
        changes=[change for change in monitor.changes if start <= change.began < end],
        predictions=series.predictions(rollups),
        joined=sum(series.total(curve.values(), ErrorSums).n for by, curve in models.items() if not by.shadow),
        waiting=monitor.join.waiting,
    )


def system(monitor: Monitor, start: float, end: float) -> System:
    """Return what host and services did over a period."""
    rollups, step = _rollups(monitor, start, end)
    shown = {figure.flat: _readings(curve) for figure, curve in series.gauges(rollups, step, _is_system).items()}
    return System(start=start, end=end, seconds=step, services=monitor.services.services(), series=shown)


def metric(monitor: Monitor, name: str, start: float, end: float) -> list[list[float]]:
    """Return any figure over a period by its flat name, e.g. ``drift/psi/<feature>``: ``[at, mean, lowest, highest]``."""
    figure = Figure.parse(name)
    rollups, step = _rollups(monitor, start, end)
    return _readings(series.gauges(rollups, step, lambda each: each == figure).get(figure, {}))


def _rollups(monitor: Monitor, start: float, end: float) -> tuple[list[Rollup], int]:
    """Return the roll-ups of a period, minutes where they are kept and hours for longer ago, and the seconds of a point."""
    base = MINUTE if end - start <= MINUTES_KEPT and start >= monitor.at - MINUTES_KEPT else HOUR
    read = monitor.history.minutes if base == MINUTE else monitor.history.hours
    return read(begin_of(start, base), end), base * max(1, math.ceil((end - start) / base / MAX_POINTS))


def _line(curve: Curve[S], make: Callable[[], S], shown: Callable[[S], dict[str, float]]) -> dict[str, Any]:
    points = [{"at": at, **shown(sums)} for at, sums in sorted(curve.items())]
    return {"points": points, "total": shown(series.total(curve.values(), make))}


def _errors(sums: ErrorSums) -> dict[str, float]:
    return {**sums.metrics(), **({"lowest": sums.lowest, "highest": sums.highest} if sums.n else {})}


def _readings(curve: Curve[Gauge]) -> list[list[float]]:
    return [[at, gauge.mean, gauge.lowest, gauge.highest] for at, gauge in curve.items()]


def _sampled(pair: Pair) -> SampledPair:
    return SampledPair(
        at=pair.at,
        prediction=pair.prediction,
        truth=pair.truth,
        residual=pair.residual,
        group=pair.group,
        **pair.served._asdict(),
        label=pair.served.label,
    )


def _is_system(figure: Figure) -> bool:
    if figure.group == "services":
        return figure.name in ("services/cpu_percent", "services/memory_megabytes", "services/heartbeat_age")
    return figure.group in ("system", "latency", "records") or figure == Figure("performance/predictions_per_second")
