"""Curves and sums from the roll-ups of a reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from complex_system.monitoring.aggregates import ErrorSums, Gauge, LatencySums, Rollup, Served, begin_of
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.points import Figure

K = TypeVar("K")
T = TypeVar("T", ErrorSums, LatencySums, Gauge)
Curve = dict[float, T]
"""Sums by the begin of their step."""


def errors_by_model(reading: Reading) -> dict[Served, Curve[ErrorSums]]:
    """Errors over all records, by model."""
    picked = (
        (rollup, series.served, sums)
        for rollup in reading.rollups
        for series, sums in rollup.errors.items()
        if not series.group
    )
    return _curves(reading.period.step, picked, ErrorSums)


def errors_by_group(reading: Reading) -> dict[str, ErrorSums]:
    """Errors of the models that answered, by group of records, over the whole period."""
    sums: dict[str, ErrorSums] = {}
    for rollup in reading.rollups:
        for series, each in rollup.errors.items():
            if series.group and not series.served.shadow:
                sums.setdefault(series.group, ErrorSums()).merge(each)
    return dict(sorted(sums.items()))


def latency_by_service(reading: Reading) -> dict[str, Curve[LatencySums]]:
    """Answered requests by service; those that challengers only scored along are left out."""
    picked = (
        (rollup, served.service, sums)
        for rollup in reading.rollups
        for served, sums in rollup.latency.items()
        if not served.shadow
    )
    return _curves(reading.period.step, picked, LatencySums)


def gauges(reading: Reading, wanted: Callable[[str], str | None]) -> dict[str, Curve[Gauge]]:
    """Readings over time.

    Args:
        reading: Where they are from.
        wanted: What a metric is called in the result, None for one that is not wanted.
    """
    found = sorted(set[Figure]().union(*(rollup.gauges for rollup in reading.rollups)))
    names = {figure: name for figure in found if (name := wanted(figure.flat)) is not None}
    picked = (
        (rollup, name, rollup.gauges[metric])
        for metric, name in names.items()
        for rollup in reading.rollups
        if metric in rollup.gauges
    )
    return _curves(reading.period.step, picked, Gauge)


def total(curve: Curve[T], make: Callable[[], T]) -> T:
    """The sum of a curve."""
    whole = make()
    for each in curve.values():
        whole.merge(each)
    return whole


def failures(reading: Reading) -> dict[tuple[str, str], int]:
    """Failed requests of the period by service and error code, the most frequent first."""
    found: dict[tuple[str, str], int] = {}
    for rollup in reading.rollups:
        for key, n in rollup.failures.items():
            found[key] = found.get(key, 0) + n
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def predictions_per_second(reading: Reading) -> float:
    """Predictions that were answered a second, over the last minutes."""
    counted = sum(sums.predictions for rollup in reading.recent for by, sums in rollup.latency.items() if not by.shadow)
    return counted / _seconds(reading)


def truths_per_second(reading: Reading) -> float:
    """Joined pairs a second, over the last minutes."""
    pairs = sum(sums.n for rollup in reading.recent for key, sums in rollup.errors.items() if not key.group)
    return pairs / _seconds(reading)


def newest(reading: Reading, metric: str) -> float | None:
    """The newest reading of a gauge."""
    figure = Figure.parse(metric)
    return next((each.gauges[figure].last for each in reversed(reading.recent) if figure in each.gauges), None)


def _seconds(reading: Reading) -> float:
    if not reading.recent:
        return 1.0
    return max(30.0, reading.at - reading.recent[0].at)


def _curves(step: int, picked: Iterable[tuple[Rollup, K, T]], make: Callable[[], T]) -> dict[K, Curve[T]]:
    curves: dict[K, Curve[T]] = {}
    for rollup, name, sums in picked:
        curve = curves.setdefault(name, {})
        begin = begin_of(rollup.at, step)
        if begin not in curve:
            curve[begin] = make()
        curve[begin].merge(sums)
    return curves


def ordered(models: Iterable[Served]) -> Sequence[Served]:
    """Models that answered before those that only scored along; then by name and by version as a number."""
    return sorted(models, key=lambda by: (by.shadow, by.model, _version(by.version), by.service))


def _version(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (0, text)
