"""Curves and sums of the roll-ups of a period. They know nothing of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from complex_system.monitoring.aggregates import ErrorSums, Gauge, LatencySums, Rollup, Served, begin_of

K = TypeVar("K")
T = TypeVar("T", ErrorSums, LatencySums, Gauge)
Curve = dict[float, T]
"""Sums by the begin of their step, in seconds since 1970, in rising order."""
_GAP = 3
"""Steps without a value that make a gap in a curve."""


def errors_by_model(rollups: Sequence[Rollup], step: int) -> dict[Served, Curve[ErrorSums]]:
    """Return the errors over all records by model: those that answered before shadows, then by name and version."""
    picked = ((r, key.served, sums) for r in rollups for key, sums in r.errors.items() if not key.group)
    found = _curves(step, picked, ErrorSums)
    return {served: found[served] for served in sorted(found, key=_place)}


def errors_by_group(rollups: Sequence[Rollup]) -> dict[str, ErrorSums]:
    """Return the errors of the models that answered, by group of records."""
    sums: dict[str, ErrorSums] = {}
    for rollup in rollups:
        for key, each in rollup.errors.items():
            if key.group and not key.served.shadow:
                sums.setdefault(key.group, ErrorSums()).merge(each)
    return dict(sorted(sums.items()))


def latency_by_service(rollups: Sequence[Rollup], step: int) -> dict[str, Curve[LatencySums]]:
    """Return the answered requests by service, by name; shadows answer none."""
    picked = ((r, by.service, sums) for r in rollups for by, sums in r.latency.items() if not by.shadow)
    return dict(sorted(_curves(step, picked, LatencySums).items()))


def gauges(rollups: Sequence[Rollup], step: int, figure: str) -> dict[str, Curve[Gauge]]:
    """Return the readings of a figure over time, such as ``data/psi`` or ``services/cpu_percent``, by column or service."""
    found: set[str] = set().union(*(rollup.gauges for rollup in rollups))
    subjects = {metric: subject for metric in sorted(found) if (subject := _subject(metric, figure)) is not None}
    picked = ((r, subject, r.gauges[metric]) for metric, subject in subjects.items() for r in rollups if metric in r.gauges)
    return _curves(step, picked, Gauge)


def failed_requests(rollups: Sequence[Rollup]) -> dict[tuple[str, str], int]:
    """Return the number of failed requests by service and error code, the most frequent first."""
    found: dict[tuple[str, str], int] = {}
    for rollup in rollups:
        for key, n in rollup.failures.items():
            found[key] = found.get(key, 0) + n
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def predictions(rollups: Sequence[Rollup]) -> int:
    """Return the number of predictions that were answered."""
    return sum(sums.predictions for rollup in rollups for by, sums in rollup.latency.items() if not by.shadow)


def truths(rollups: Sequence[Rollup]) -> int:
    """Return the number of joined pairs."""
    return sum(sums.n for rollup in rollups for key, sums in rollup.errors.items() if not key.group)


def total(sums: Iterable[T], make: Callable[[], T]) -> T:
    """Return the sum of several sums."""
    whole = make()
    for each in sums:
        whole.merge(each)
    return whole


def points(curve: Curve[T], step: int, value: Callable[[T], float | None]) -> list[tuple[float, float | None]]:
    """Return times and values; where steps are missing, None makes a gap. Values have five significant digits."""
    found: list[tuple[float, float | None]] = []
    for at, sums in sorted(curve.items()):
        if found and at - found[-1][0] > _GAP * step:
            found.append((at - step, None))
        exact = value(sums)
        found.append((at, None if exact is None else float(f"{exact:.5g}")))
    return found


def _curves(step: int, picked: Iterable[tuple[Rollup, K, T]], make: Callable[[], T]) -> dict[K, Curve[T]]:
    curves: dict[K, Curve[T]] = {}
    for rollup, name, sums in picked:
        curve = curves.setdefault(name, {})
        begin = begin_of(rollup.at, step)
        if begin not in curve:
            curve[begin] = make()
        curve[begin].merge(sums)
    return curves


def _place(served: Served) -> tuple[bool, str, int, str, str]:
    number = int(served.version) if served.version.isdigit() else 0
    return served.shadow, served.model, number, served.version, served.service


def _subject(metric: str, figure: str) -> str | None:
    """Return what a flat metric is about if it is of a figure; empty for the whole system."""
    group, _, last = figure.partition("/")
    if metric == figure:
        return ""
    if metric.startswith(f"{figure}/"):
        return metric.removeprefix(f"{figure}/")
    if group == "services" and metric.startswith("services/") and metric.endswith(f"/{last}"):
        return metric.removeprefix("services/").removesuffix(f"/{last}")
    return None
