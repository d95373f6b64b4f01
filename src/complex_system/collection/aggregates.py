"""One value of several readings, or of several earlier records."""

from __future__ import annotations

from typing import Any

import numpy as np

from complex_system.collection.readings import Times
from complex_system.collection.results import SECOND
from complex_system.collection.series import Values
from complex_system.domain.collecting import CollectedColumn
from complex_system.domain.columns import Column


def aggregate(take: str, times: Times, values: Values) -> float | str | int | None:
    """Return one value of readings that are sorted by time; None where they do not give one.

    Args:
        take: ``last``, ``first``, ``mean``, ``median``, ``min``, ``max``, ``count``; ``std``: of a sample, so of two values or more;
            ``slope``: of the least-squares line, in units a second, so of two different times or more.
        times: Microseconds.
        values: Numbers, or texts for ``last``, ``first`` and ``count``.
    """
    if take == "count":
        return len(values)
    if not len(values):
        return None
    if take in ("last", "first"):
        return values[-1 if take == "last" else 0]  # type: ignore[no-any-return]
    with np.errstate(over="ignore", invalid="ignore"):
        made = _number(take, times, values)
    return float(made) if made is not None and np.isfinite(made) else None


def _number(take: str, times: Times, values: Any) -> Any:
    match take:
        case "mean":
            return values.mean()
        case "median":
            return np.median(values)
        case "min":
            return values.min()
        case "max":
            return values.max()
        case "std":
            return values.std(ddof=1) if len(values) > 1 else None
    seconds = (times - times[-1]) / SECOND
    seconds -= seconds.mean()
    spread = float(seconds @ seconds)
    return seconds @ values / spread if spread else None


def share(times: Times, values: Values, state: object, begin: int, end: int) -> float | None:
    """Return the part of a time in which a value is the state; each value holds until the next reading.

    Where nothing is known at the beginning, the time counts from the first reading.

    Args:
        times: Microseconds, sorted; those before ``begin`` say what the value was then.
        values: Numbers or texts.
        state: The value that counts.
        begin: Of the time, microseconds.
        end: Of the time, microseconds.
    """
    if not len(times):
        return None
    edges = np.append(np.clip(times, begin, end), end)
    spans = np.diff(edges)
    known = int(spans.sum())
    return float(spans[values == state].sum() / known) if known else None


def of_readings(column: CollectedColumn, times: Times, values: Values, begin: int, end: int) -> float | str | int | None:
    """Return the value of a declared column.

    Args:
        column: The declaration.
        times: Of the readings until ``end`` as far back as the column looks (:func:`look_back`), microseconds.
        values: Of these readings.
        begin: Of the column's window.
        end: Of the column's window: the time of the record.
    """
    if len(times) and end - times[-1] > column.oldest * SECOND:
        times, values = times[:0], values[:0]
    if column.take == "share":
        return share(times, values, as_state(column.state), begin, end)
    return aggregate(column.take, times, values)


def look_back(column: CollectedColumn) -> float:
    """Return how many seconds before its record a column looks at readings; infinite for all of a measurement.

    A state holds from the reading before the window, if that is not older than ``not_older``, by default as old as the window is long.
    """
    if column.take != "share":
        return column.window
    return max(column.window, column.oldest if column.not_older is not None else 2 * column.window)


def is_text(collected: CollectedColumn, column: Column) -> bool:
    """Return whether a column is made of readings as texts."""
    return (
        isinstance(collected.state, str)
        if collected.take == "share"
        else not column.is_numeric and collected.take != "count"
    )


def as_state(state: object) -> object:
    """Return a declared state as series have it."""
    return state if isinstance(state, str) else float(state)  # type: ignore[arg-type]


def fitting(value: float | str | int | None, column: Column) -> Any:
    """Return a value in the type of its column; None where it is not one of that type."""
    if value is None or isinstance(value, str):
        return value
    if column.type == "boolean":
        return bool(value) if value in (0, 1) else None
    if column.type == "integer":
        return int(value) if float(value).is_integer() else None
    return float(value)
