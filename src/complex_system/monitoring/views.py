"""What the page and the REST interface show, as plain JSON made from a :class:`Monitor`. Pure, quick functions.

Times are seconds since 1970 (UTC), errors in the target's unit, latencies in milliseconds. A view of a period has at most
``MOST_POINTS`` points a line, however many predictions lie behind it: it reads roll-ups only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from complex_system.domain.laboratory import BEST_POSSIBLE
from complex_system.monitoring.drift import MIN_LIVE, band
from complex_system.monitoring.history import MINUTES_KEPT, Pair
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.performance import ServedMetrics
from complex_system.monitoring.rollups import HOUR, MINUTE, ErrorSums, LatencySums, Rollup, Served, begin_of

MOST_POINTS = 300
MOST_PAIRS = 2000
"""Pairs of a sample for a scatter plot."""
LAB = "lab"
SYSTEM_LINES = ("system/", "latency/", "records/")
"""Beginnings of the metrics that the view of the system draws, beside those of every service's processes."""

S = TypeVar("S", ErrorSums, LatencySums)


def overview(monitor: Monitor) -> dict[str, Any]:
    """Does it run, is the model good, is the data as it was.

    Returns:
        ``at`` (of the newest point, 0 before the first), ``services`` (``ServiceBook.as_list``), ``records`` and ``rates`` (by
        ``raw``, ``processed``, ``labelled``, ``rejected``; rates a second, and ``predictions``), ``champion`` (``model``, ``version``,
        ``since``, ``rmse`` on the hold-out data, ``performance``, ``latency``; None before the first), ``drift`` (``worst`` column or
        feature, ``psi``, ``band``, ``samples``, ``needed``; None before it can be told), ``alerts`` (the open ones), ``changes``,
        ``history_loaded`` and ``awaited``: sentences that say what is missing yet.
    """
    champion = _champion(monitor)
    rates = {
        **monitor.flow.rates(),
        "predictions": sum(e.latency.get("predictions_per_second", 0) for e in monitor.served.values()),
    }
    drift = _drift(monitor)
    return {
        "at": monitor.at,
        "services": monitor.services.as_list(),
        "records": monitor.flow.counts,
        "rates": rates,
        "champion": champion,
        "drift": drift,
        "alerts": [alert for alert in monitor.history.alerts() if alert.get("ended") is None],
        "changes": monitor.history.states.get("changes", {}).get("changes", []),
        "history_loaded": monitor.history.loaded,
        "awaited": _awaited(monitor, champion, drift),
    }


def models(monitor: Monitor) -> dict[str, Any]:
    """The last comparison, who was champion, and how the served models and the challengers do.

    Returns:
        ``comparison`` (as ``comparison-finished``; None before the first), ``best_possible`` (RMSE that no model can beat, None
        where it is not known), ``champions`` (newest first), ``served`` and ``shadows``: ``service``, ``model``, ``version``,
        ``label``, ``performance``, ``latency`` of each over its moving window, ``holdout_rmse`` where it was compared.
    """
    return {
        "comparison": monitor.history.states.get("comparison"),
        "best_possible": BEST_POSSIBLE.rmse if monitor.dataset.name == LAB else None,
        "target": _target(monitor),
        "champions": list(reversed(monitor.history.champions)),
        "served": [_served(monitor, each) for each in monitor.served.values()],
        "shadows": [_served(monitor, each) for each in monitor.shadows],
    }


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
    windows = [{**_named(served), **line.as_dict(_error_point)} for served, line in sorted(by_model.items())]
    groups = [{"group": group, **line.as_dict(_error_point)} for group, line in sorted(by_group.items())]

    def latency_point(latency: LatencySums) -> dict[str, float]:
        return {**latency.metrics(), "predictions_per_second": latency.predictions / seconds}

    services = [{"service": name, **line.as_dict(latency_point)} for name, line in sorted(by_service.items())]
    return {
        "from": start,
        "to": end,
        "seconds": seconds,
        "target": _target(monitor),
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


def data(monitor: Monitor) -> dict[str, Any]:
    """Live data against the reference.

    Returns:
        ``at``, ``samples`` in the live window, ``needed`` for the stability index, ``reference`` (``source``: ``champion`` or
        ``database``, ``samples``; None before it is there), ``raw`` and ``processed``: the columns, the strongest drift first,
        each with ``name``, ``unit``, ``description`` and what ``drift.DataWindow.measure`` says; ``rejected``: ``share``,
        ``count`` of new raw records in the last five minutes and rejections by kind; ``new_categories``: by column, of rejected
        records.
    """
    measured = monitor.history.states.get("data", {})
    reference = monitor.reference
    rejected = {name: value for name, value in monitor.metrics.items() if name.startswith("rejected/")}
    return {
        "at": measured.get("at", 0.0),
        "samples": measured.get("samples", 0),
        "needed": MIN_LIVE,
        "reference": {"source": reference.source, "samples": reference.samples} if reference else None,
        "raw": _columns(monitor, measured.get("raw", {})),
        "processed": _columns(monitor, measured.get("processed", {})),
        "rejected": {name.removeprefix("rejected/"): value for name, value in rejected.items()},
        "new_categories": {
            name.removeprefix("data/new_categories/"): value
            for name, value in monitor.metrics.items()
            if name.startswith("data/new_categories/") and value
        },
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


def alerts(monitor: Monitor) -> dict[str, Any]:
    """``open`` and ``past`` alerts, the newest first, as alert events carry them."""
    every = monitor.history.alerts()
    is_open = [alert for alert in every if alert.get("ended") is None]
    return {"open": is_open, "past": [alert for alert in every if alert.get("ended") is not None]}


def snapshot(monitor: Monitor) -> dict[str, Any]:
    """What the subject ``get-monitoring`` answers: the newest values.

    ``at``, ``system`` (names without ``system/``), ``model``, ``performance`` and ``latency`` of the champion's service,
    ``services``: the same of every serving service, ``drift``: the stability index by feature, ``samples``,
    ``reference_samples``, ``metrics``: all flat metrics of the newest point.
    """
    services = {
        service: {
            "model": {"model": each.served.model, "version": each.served.version},
            "performance": each.performance,
            "latency": each.latency,
        }
        for service, each in monitor.served.items()
    }
    nothing = {"model": None, "performance": {"count": 0.0}, "latency": {}}
    drift = {name: value for name, value in monitor.metrics.items() if name.startswith("drift/psi/")}
    return {
        "at": monitor.at,
        "system": {name.removeprefix("system/"): value for name, value in monitor.system.items()},
        **services.get(CHAMPIONS_SERVICE, nothing),
        "services": services,
        "drift": {name.removeprefix("drift/psi/"): value for name, value in drift.items()},
        "samples": len(monitor.records),
        "reference_samples": monitor.reference.samples if monitor.reference else 0,
        "metrics": monitor.metrics,
    }


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


def _line(lines: dict[Any, Any], key: Any, kind: Callable[[], Any]) -> Any:
    line = lines.get(key)
    if line is None:
        line = lines[key] = _Line(kind)
    return line


def _rollups(monitor: Monitor, start: float, end: float) -> tuple[list[Rollup], int]:
    """The roll-ups of a period, and the seconds of a point: minutes where they are kept, hours for longer ago."""
    base = MINUTE if end - start <= MINUTES_KEPT and start >= monitor.at - MINUTES_KEPT else HOUR
    seconds = base * max(1, math.ceil((end - start) / base / MOST_POINTS))
    read = monitor.history.minutes if base == MINUTE else monitor.history.hours
    return read(begin_of(start, base), end), seconds


def _error_point(sums: ErrorSums) -> dict[str, float]:
    return {**sums.metrics(), **({"lowest": sums.lowest, "highest": sums.highest} if sums.n else {})}


def _named(served: Served) -> dict[str, Any]:
    return {**served._asdict(), "label": served.label}


def _served(monitor: Monitor, each: ServedMetrics) -> dict[str, Any]:
    holdout = monitor.baseline(each.served)
    return {**_named(each.served), "performance": each.performance, "latency": each.latency, "holdout_rmse": holdout}


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "at": pair.at,
        "prediction": pair.prediction,
        "truth": pair.truth,
        "residual": pair.residual,
        "group": pair.group,
        **_named(pair.served),
    }


def _thinned(pairs: list[Pair], most: int) -> list[Pair]:
    step = max(1, math.ceil(len(pairs) / most))
    return pairs[::step]


def _target(monitor: Monitor) -> dict[str, str]:
    column = monitor.dataset.column(monitor.dataset.target)
    return {"name": column.name, "unit": column.unit, "description": column.description}


def _champion(monitor: Monitor) -> dict[str, Any] | None:
    crowned = monitor.history.champions[-1] if monitor.history.champions else None
    served = monitor.served.get(CHAMPIONS_SERVICE)
    if served is None and crowned is None:
        return None
    if served is None:
        assert crowned is not None
        model, version = str(crowned.get("model")), str(crowned.get("version"))
        figures: dict[str, Any] = {"performance": {"count": 0.0}, "latency": {}, "holdout_rmse": crowned.get("rmse")}
    else:
        model, version = served.served.model, served.served.version
        figures = _served(monitor, served)
    since = None
    if crowned is not None and (crowned.get("model"), str(crowned.get("version"))) == (model, version):
        since = crowned["at"]
        figures["holdout_rmse"] = figures["holdout_rmse"] or crowned.get("rmse")
    return {**figures, "model": model, "version": version, "since": since}


def _drift(monitor: Monitor) -> dict[str, Any] | None:
    indices = {
        name.removeprefix(prefix): value
        for prefix in ("data/psi/", "drift/psi/")
        for name, value in monitor.metrics.items()
        if name.startswith(prefix)
    }
    if not indices:
        return None
    worst = max(indices, key=lambda name: indices[name])
    samples = int(monitor.metrics.get("drift/samples", 0))
    return {"worst": worst, "psi": indices[worst], "band": band(indices[worst]), "samples": samples, "needed": MIN_LIVE}


def _awaited(monitor: Monitor, champion: dict[str, Any] | None, drift: dict[str, Any] | None) -> list[str]:
    awaited = []
    if not monitor.history.loaded:
        awaited.append("The history waits for the database service.")
    if not monitor.flow.counts:
        awaited.append("The record counts wait for the database service.")
    if champion is None:
        awaited.append("No champion yet: it comes with the first training round.")
    elif not champion["performance"].get("count"):
        awaited.append("No error yet: the truth of the champion's predictions is not known.")
    if drift is None and monitor.reference is None:
        awaited.append(
            "No drift yet: there is no reference, which comes with the first champion or enough labelled records."
        )
    elif drift is None:
        there = len(monitor.records)
        awaited.append(
            f"No drift yet: {there} of {MIN_LIVE} predicted records are there."
            if there < MIN_LIVE
            else "No drift yet: it is being measured."
        )
    return awaited


def _columns(monitor: Monitor, measured: dict[str, Any]) -> list[dict[str, Any]]:
    declared = {column.name: column for column in monitor.dataset.columns}
    columns = []
    for name, each in measured.items():
        column = declared.get(name)
        words = {"unit": column.unit, "description": column.description} if column else {"unit": "", "description": ""}
        columns.append({"name": name, **words, **each})
    return sorted(columns, key=lambda each: -each.get("psi", -1.0))


def _is_system(name: str) -> bool:
    if name.startswith("services/"):
        return name.endswith(("/cpu_percent", "/memory_megabytes", "/heartbeat_age"))
    return name.startswith(SYSTEM_LINES) or name == "performance/predictions_per_second"


def every_view(monitor: Monitor, start: float, end: float) -> Iterable[tuple[str, Callable[[], Any]]]:
    """All views by name, for a report of a period."""
    yield "overview", lambda: overview(monitor)
    yield "models", lambda: models(monitor)
    yield "predictions", lambda: predictions(monitor, start, end)
    yield "data", lambda: data(monitor)
    yield "system", lambda: system(monitor, start, end)
    yield "alerts", lambda: alerts(monitor)
