"""Curves and sums of the roll-ups of a period, for the REST interface and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from complex_system.monitoring.aggregates import ErrorSums, Gauge, LatencySums, Rollup, Served
from complex_system.monitoring.points import Figure

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


def errors_by_group(rollups: Sequence[Rollup], step: int, served: Served) -> dict[str, Curve[ErrorSums]]:
    """Return the errors of one model for requests of one origin, by group of records."""
    picked = (
        (rollup, key.group, sums)
        for rollup in rollups
        for key, sums in rollup.errors.items()
        if key.group and key.served == served
    )
    return dict(sorted(_curves(step, picked, ErrorSums).items()))


def latency_by_service(rollups: Sequence[Rollup], step: int) -> dict[str, Curve[LatencySums]]:
    """Return the answered requests by service, by name; shadows answer none."""
    picked = ((r, by.service, sums) for r in rollups for by, sums in r.latency.items() if not by.shadow)
    return dict(sorted(_curves(step, picked, LatencySums).items()))


def gauges(rollups: Sequence[Rollup], step: int, wanted: Callable[[Figure], bool]) -> dict[Figure, Curve[Gauge]]:
    """Return the readings of the wanted figures over time."""
    known: dict[Figure, bool] = {}

    def picked() -> Iterator[tuple[Rollup, Figure, Gauge]]:
        for rollup in rollups:
            for figure, gauge in rollup.gauges.items():
                is_wanted = known.get(figure)
                if is_wanted is None:
                    is_wanted = known[figure] = wanted(figure)
                if is_wanted:
                    yield rollup, figure, gauge

    return dict(sorted(_curves(step, picked(), Gauge).items()))


def readings(rollups: Sequence[Rollup], step: int, figure: Figure) -> Curve[Gauge]:
    """Return the readings of one figure over time."""
    picked = ((rollup, figure, rollup.gauges[figure]) for rollup in rollups if figure in rollup.gauges)
    return _curves(step, picked, Gauge).get(figure, {})


def failed_requests(rollups: Sequence[Rollup]) -> dict[tuple[str, str], int]:
    """Return the number of failed requests by service and error code, the most frequent first."""
    found: dict[tuple[str, str], int] = {}
    for rollup in rollups:
        for key, n in rollup.failures.items():
            found[key] = found.get(key, 0) + n
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def predictions(rollups: Sequence[Rollup], origin: str | None = None) -> int:
    """Return the number of predictions that were answered: for requests of one origin, or of all."""
    return sum(
        sums.predictions
        for rollup in rollups
        for by, sums in rollup.latency.items()
        if not by.shadow and origin in (None, by.origin)
    )


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
        curve = curves.get(name)
        if curve is None:
            curve = curves[name] = {}
        begin = rollup.at - rollup.at % step
        whole = curve.get(begin)
        if whole is None:
            whole = curve[begin] = make()
        whole.merge(sums)
    return curves


def _place(served: Served) -> tuple[bool, str, int, str, str, str]:
    number = int(served.version) if served.version.isdigit() else 0
    return served.shadow, served.model, number, served.version, served.service, served.origin
