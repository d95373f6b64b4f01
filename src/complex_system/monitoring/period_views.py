"""What the REST interface shows of a period, as plain JSON made from a :class:`Monitor`. Pure, quick functions.

Times, errors and latencies as in :mod:`views`. A line has at most ``MOST_POINTS`` points, however many predictions lie behind it: only
roll-ups are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from complex_system.monitoring.aggregates import HOUR, MINUTE, ErrorSums, LatencySums, Rollup, Served, begin_of
from complex_system.monitoring.history import MINUTES_KEPT, Pair
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.views import target_of

MOST_POINTS = 300
MOST_PAIRS = 2000
"""Pairs of a sample for a scatter plot."""
SYSTEM_LINES = ("system/", "latency/", "records/")
"""Beginnings of the metrics that the view of the system draws, beside those of every service's processes."""

S = TypeVar("S", ErrorSums, LatencySums)


def predictions(monitor: Monitor, start: float, end: float) -> dict[str, Any]:
    """Errors, latencies and failures of a period.

    Returns:
        ``from``, ``to``, ``seconds`` (width of a point), ``target`` (``name``, ``unit``), ``windows``: a line a served model with
        ``service``, ``model``, ``version``, ``shadow``, ``label``, ``points`` (``at``, ``rmse``, ``mae``, ``bias``, ``r2``, ``count``,
        ``lowest``, ``highest``) and ``total``; ``groups``: the champion service's errors by ``group``, likewise; ``latency``: by
        service, likewise with ``latency_ms_*``, ``requests``, ``predictions`` and ``predictions_per_second``; ``failures``:
        ``service``, ``code``, ``count``; ``sample``: pairs ``at``, ``prediction``, ``truth``, ``residual``, ``group``,
        ``service``, ``label``; ``changes`` in the period, ``predictions`` and ``joined`` (how many there were), ``waiting`` for a
        truth now.
    """
    rollups, seconds = _rollups(monitor, start, end)
    by_model: dict[Served, _Line[ErrorSums]] = {}
    by_group: dict[str, _Line[ErrorSums]] = {}
    by_service: dict[str, _Line[LatencySums]] = {}
    failures: dict[tuple[str, str], int] = {}
    for rollup in rollups:
        at = begin_of(rollup.at, seconds)
        for (served, group), sums in rollup.errors.items():
            if not group:
                _line(by_model, served, ErrorSums).add(at, sums)
            elif served.service == CHAMPIONS_SERVICE and not served.shadow:
                _line(by_group, group, ErrorSums).add(at, sums)
        for served, latency in rollup.latency.items():
            if not served.shadow:
                _line(by_service, served.service, LatencySums).add(at, latency)
        for key, count in rollup.failures.items():
            failures[key] = failures.get(key, 0) + count
    windows = [{**served.as_dict(), **line.as_dict(_error_point)} for served, line in sorted(by_model.items())]
    groups = [{"group": group, **line.as_dict(_error_point)} for group, line in sorted(by_group.items())]

    def latency_point(latency: LatencySums) -> dict[str, float]:
        return {**latency.metrics(), "predictions_per_second": latency.predictions / seconds}

    services = [{"service": name, **line.as_dict(latency_point)} for name, line in sorted(by_service.items())]
    return {
        "from": start,
        "to": end,
        "seconds": seconds,
        "target": target_of(monitor),
        "windows": windows,
        "groups": groups,
        "latency": services,
        "failures": [{"service": s, "code": code, "count": n} for (s, code), n in sorted(failures.items())],
        "sample": [_pair(pair) for pair in _thinned(list(monitor.history.samples(start, end)), MOST_PAIRS)],
        "changes": [c for c in monitor.history.states.get("changes", {}).get("changes", []) if start <= c["began"] < end],
        "predictions": sum(line.total.predictions for line in by_service.values()),
        "joined": sum(line.total.n for served, line in by_model.items() if not served.shadow),
        "waiting": monitor.join.waiting,
    }


def system(monitor: Monitor, start: float, end: float) -> dict[str, Any]:
    """CPU, memory, latency and throughput over a period.

    Returns:
        ``from``, ``to``, ``seconds``, ``services`` (as in the overview) and ``series``: by metric name a list of ``[at, mean, lowest,
        highest]``: ``system/...`` of the host under MLflow's names, ``services/<name>/cpu_percent``, ``memory_megabytes`` and
        ``heartbeat_age``, ``latency/...`` of the champion (ms), ``records/...`` and ``performance/predictions_per_second``.
    """
    rollups, seconds = _rollups(monitor, start, end)
    names = sorted({name for rollup in rollups[:: len(rollups) // 50 + 1] + rollups[-1:] for name in rollup.gauges})
    series = {name: points for name in names if _is_system(name) and (points := _gauge_points(rollups, name, seconds))}
    return {"from": start, "to": end, "seconds": seconds, "services": monitor.services.as_list(), "series": series}


def metric(monitor: Monitor, name: str, start: float, end: float) -> list[list[float]]:
    """Any flat metric over a period: ``[at, mean, lowest, highest]``, e.g. ``drift/psi/<feature>``."""
    rollups, seconds = _rollups(monitor, start, end)
    return _gauge_points(rollups, name, seconds)


# Inside


class _Line(Generic[S]):
    """Sums by point, and of all."""

    def __init__(self, kind: Callable[[], S]) -> None:
        self._kind: Callable[[], S] = kind
        self.points: dict[float, S] = {}
        self.total: S = kind()

    def add(self, at: float, sums: S) -> None:
        if at not in self.points:
            self.points[at] = self._kind()
        self.points[at].merge(sums)
        self.total.merge(sums)

    def as_dict(self, shown: Callable[[S], dict[str, float]]) -> dict[str, Any]:
        points = [{"at": at, **shown(sums)} for at, sums in sorted(self.points.items())]
        return {"points": points, "total": shown(self.total)}


def _line(lines: dict[Any, Any], key: Any, kind: Callable[[], Any]) -> Any:
    line = lines.get(key)
    if line is None:
        line = lines[key] = _Line(kind)
    return line


def _gauge_points(rollups: list[Rollup], name: str, seconds: int) -> list[list[float]]:
    """Mean, least and largest reading by point. Hand-made: a view of a day merges 70,000 gauges."""
    points: dict[float, list[float]] = {}
    for rollup in rollups:
        gauge = rollup.gauges.get(name)
        if gauge is None:
            continue
        at = rollup.at - rollup.at % seconds
        point = points.get(at)
        if point is None:
            points[at] = [gauge.n, gauge.total, gauge.lowest, gauge.highest]
        else:
            point[0] += gauge.n
            point[1] += gauge.total
            if gauge.lowest < point[2]:  # noqa: PLR1730 - a call costs more than the rest of the line
                point[2] = gauge.lowest
            if gauge.highest > point[3]:  # noqa: PLR1730
                point[3] = gauge.highest
    return [[at, total / n, low, high] for at, (n, total, low, high) in points.items()]


def _rollups(monitor: Monitor, start: float, end: float) -> tuple[list[Rollup], int]:
    """The roll-ups of a period, and the seconds of a point: minutes where they are kept, hours for longer ago."""
    base = MINUTE if end - start <= MINUTES_KEPT and start >= monitor.at - MINUTES_KEPT else HOUR
    seconds = base * max(1, math.ceil((end - start) / base / MOST_POINTS))
    read = monitor.history.minutes if base == MINUTE else monitor.history.hours
    return read(begin_of(start, base), end), seconds


def _error_point(sums: ErrorSums) -> dict[str, float]:
    return {**sums.metrics(), **({"lowest": sums.lowest, "highest": sums.highest} if sums.n else {})}


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "at": pair.at,
        "prediction": pair.prediction,
        "truth": pair.truth,
        "residual": pair.residual,
        "group": pair.group,
        **pair.served.as_dict(),
    }


def _thinned(pairs: list[Pair], most: int) -> list[Pair]:
    step = max(1, math.ceil(len(pairs) / most))
    return pairs[::step]


def _is_system(name: str) -> bool:
    if name.startswith("services/"):
        return name.endswith(("/cpu_percent", "/memory_megabytes", "/heartbeat_age"))
    return name.startswith(SYSTEM_LINES) or name == "performance/predictions_per_second"
