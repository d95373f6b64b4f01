"""Roll-ups of a period as curves and sums, for the page and the REST interface. Nothing here reads a prediction.

Times, errors and latencies as in :mod:`views`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from complex_system.monitoring.aggregates import HOUR, MINUTE, ErrorSums, Gauge, LatencySums, Rollup, Served, begin_of
from complex_system.monitoring.change_points import Change
from complex_system.monitoring.history import MINUTES_KEPT, Pair
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.points import Figure
from complex_system.monitoring.services import ServiceState
from complex_system.monitoring.views import Described, target_of
from complex_system.protocol.base import Message

MAX_POINTS = 300
"""Points of a curve in the REST interface."""
MAX_PAIRS = 2000
"""Pairs of a sample for a scatter plot there."""

K = TypeVar("K")
S = TypeVar("S", ErrorSums, LatencySums, Gauge)
Curve = dict[float, S]
"""Sums by the begin of their step."""


@dataclass(frozen=True)
class PeriodSums:
    """The roll-ups of a period, merged in several ways.

    Attributes:
        rollups: Oldest first.
        step: Seconds of a point of a curve.
    """

    rollups: Sequence[Rollup]
    step: int

    def errors_by_model(self) -> dict[Served, Curve[ErrorSums]]:
        """Return errors over all records, by model."""
        return self._curves(
            ErrorSums,
            ((each, key.served, sums) for each in self.rollups for key, sums in each.errors.items() if not key.group),
        )

    def errors_by_group(self, service: str | None = None) -> dict[str, Curve[ErrorSums]]:
        """Return errors of the models that answered, by group of records; of one service, or of all."""
        return self._curves(
            ErrorSums,
            (
                (each, key.group, sums)
                for each in self.rollups
                for key, sums in each.errors.items()
                if key.group and not key.served.shadow and service in (None, key.served.service)
            ),
        )

    def latency_by_service(self) -> dict[str, Curve[LatencySums]]:
        """Return answered requests by service, without those of challengers."""
        return self._curves(
            LatencySums,
            (
                (each, by.service, sums)
                for each in self.rollups
                for by, sums in each.latency.items()
                if not by.shadow
            ),
        )  # fmt: skip

    def gauges(self, wanted: Callable[[Figure], bool]) -> dict[Figure, Curve[Gauge]]:
        """Return readings of the wanted figures."""
        found = {figure: wanted(figure) for figure in set[Figure]().union(*(each.gauges for each in self.rollups))}
        return self._curves(
            Gauge,
            (
                (each, figure, gauge)
                for each in self.rollups
                for figure, gauge in each.gauges.items()
                if found[figure]
            ),
        )  # fmt: skip

    def failures(self) -> dict[tuple[str, str], int]:
        """Return failed requests by service and error code, the most frequent first."""
        found: dict[tuple[str, str], int] = {}
        for rollup in self.rollups:
            for key, n in rollup.failures.items():
                found[key] = found.get(key, 0) + n
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @cached_property
    def predictions(self) -> int:
        """Predictions that were answered."""
        return sum(sums.predictions for each in self.rollups for by, sums in each.latency.items() if not by.shadow)

    @cached_property
    def pairs(self) -> int:
        """Joined pairs, those of challengers included."""
        return sum(sums.n for each in self.rollups for key, sums in each.errors.items() if not key.group)

    def _curves(self, make: Callable[[], S], picked: Iterable[tuple[Rollup, K, S]]) -> dict[K, Curve[S]]:
        curves: dict[K, Curve[S]] = {}
        for rollup, name, sums in picked:
            curve = curves.get(name)
            if curve is None:
                curve = curves[name] = {}
            begin = rollup.at - rollup.at % self.step
            whole = curve.get(begin)
            if whole is None:
                whole = curve[begin] = make()
            whole.merge(sums)
        return curves


def total(curve: Curve[S], make: Callable[[], S]) -> S:
    """Return the sum of a curve."""
    whole = make()
    for each in curve.values():
        whole.merge(each)
    return whole


# What the REST interface answers


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
    """Errors of a served model: ``rmse``, ``mae``, ``bias``, ``r2``, ``count``, ``lowest``, ``highest``."""

    service: str
    model: str
    version: str
    shadow: bool
    label: str


class GroupLine(Line, frozen=True, kw_only=True):
    """Errors of the champion's service for a group of records."""

    group: str


class ServiceLine(Line, frozen=True, kw_only=True):
    """``latency_ms_*``, ``requests``, ``predictions`` and ``predictions_per_second`` of a service."""

    service: str


class Failures(Message, frozen=True, kw_only=True):
    """Failed requests of a service with an error code."""

    service: str
    code: str
    count: int


class SampledPair(Message, frozen=True, kw_only=True):
    """A prediction with its truth."""

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
    sums = sums_of(monitor, start, end)
    models, groups, services = sums.errors_by_model(), sums.errors_by_group(CHAMPIONS_SERVICE), sums.latency_by_service()
    pairs = list(monitor.history.samples(start, end))

    def latency(each: LatencySums) -> dict[str, float]:
        return {**each.metrics(), "predictions_per_second": each.predictions / sums.step}

    return Predictions(
        start=start,
        end=end,
        seconds=sums.step,
        target=target_of(monitor),
        windows=[
            ModelLine(**by._asdict(), label=by.label, points=_points(curve, _errors), total=_errors(total(curve, ErrorSums)))
            for by, curve in sorted(models.items())
        ],
        groups=[
            GroupLine(group=group, points=_points(curve, _errors), total=_errors(total(curve, ErrorSums)))
            for group, curve in sorted(groups.items())
        ],
        latency=[
            ServiceLine(service=name, points=_points(curve, latency), total=latency(total(curve, LatencySums)))
            for name, curve in sorted(services.items())
        ],
        failures=[Failures(service=name, code=code, count=n) for (name, code), n in sorted(sums.failures().items())],
        sample=[_sampled(pair) for pair in pairs[:: math.ceil(len(pairs) / MAX_PAIRS) or 1]],
        changes=[change for change in monitor.changes if start <= change.began < end],
        predictions=sums.predictions,
        joined=sum(total(curve, ErrorSums).n for by, curve in models.items() if not by.shadow),
        waiting=monitor.join.waiting,
    )


def system(monitor: Monitor, start: float, end: float) -> System:
    """Return what host and services did over a period."""
    sums = sums_of(monitor, start, end)
    series = {figure.flat: _readings(curve) for figure, curve in sorted(sums.gauges(_is_system).items())}
    return System(start=start, end=end, seconds=sums.step, services=monitor.services.services(), series=series)


def metric(monitor: Monitor, name: str, start: float, end: float) -> list[list[float]]:
    """Return any figure over a period by its flat name, e.g. ``drift/psi/<feature>``: ``[at, mean, lowest, highest]``."""
    figure = Figure.parse(name)
    return _readings(sums_of(monitor, start, end).gauges(figure.__eq__).get(figure, {}))


def sums_of(monitor: Monitor, start: float, end: float) -> PeriodSums:
    """Return a period in at most ``MAX_POINTS`` steps: of minutes where they are kept, of hours for longer ago."""
    base = MINUTE if end - start <= MINUTES_KEPT and start >= monitor.at - MINUTES_KEPT else HOUR
    read = monitor.history.minutes if base == MINUTE else monitor.history.hours
    return PeriodSums(read(begin_of(start, base), end), base * max(1, math.ceil((end - start) / base / MAX_POINTS)))


def _points(curve: Curve[S], shown: Callable[[S], dict[str, float]]) -> list[dict[str, float]]:
    return [{"at": at, **shown(sums)} for at, sums in sorted(curve.items())]


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
