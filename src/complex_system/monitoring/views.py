"""What the page and the REST interface show of the present, as plain JSON made from a :class:`Monitor`. Pure, quick functions.

Times are seconds since 1970 (UTC), errors in the target's unit, latencies in milliseconds. :mod:`period_views` has the past.
"""

from __future__ import annotations

from typing import Any

from complex_system.domain.laboratory import BEST_POSSIBLE, LAB
from complex_system.monitoring.drift import MIN_LIVE, band
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.performance import ServedMetrics


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
        "target": target_of(monitor),
        "champions": list(reversed(monitor.history.champions)),
        "served": [_served(monitor, each) for each in monitor.served.values()],
        "shadows": [_served(monitor, each) for each in monitor.shadows],
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


def target_of(monitor: Monitor) -> dict[str, str]:
    """What the target is called and measured in."""
    column = monitor.dataset.column(monitor.dataset.target)
    return {"name": column.name, "unit": column.unit, "description": column.description}


# Inside


def _served(monitor: Monitor, each: ServedMetrics) -> dict[str, Any]:
    holdout = monitor.baseline(each.served)
    return {**each.served.as_dict(), "performance": each.performance, "latency": each.latency, "holdout_rmse": holdout}


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
