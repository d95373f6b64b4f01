"""Tables that both the page and the report show, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from complex_system.monitoring.aggregates import ErrorSums
from complex_system.monitoring.page import series
from complex_system.monitoring.page.formatting import NONE, Clock, count, error, number
from complex_system.monitoring.page.reading import Champion, Reading


class Table(NamedTuple):
    """Column names, rows of cells, and the columns that hold numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: Sequence[int] = ()


def errors_of_models(reading: Reading) -> Table:
    """Return the live errors of every model version."""
    sums = ((served, series.total(each.values(), ErrorSums)) for served, each in reading.errors.items())
    return _errors(("Model", "Service"), (((served.label, served.service), whole) for served, whole in sums))


def errors_of_groups(groups: Mapping[str, ErrorSums]) -> Table:
    """Return the live errors by group of records."""
    return _errors(("Group",), (((name,), sums) for name, sums in groups.items()))


def champions(found: Sequence[Champion], clock: Clock) -> Table:
    """Return champions, the newest first."""
    rows = [
        (clock.moment(each.at) if each.at is not None else NONE, each.name, error(each.rmse), each.cause or NONE)
        for each in reversed(found)
    ]
    return Table(("Since", "Model", "RMSE", "Cause"), rows, (2,))


def failed_requests(reading: Reading, limit: int = 30) -> Table:
    """Return the failed requests by service and error code."""
    failed = list(series.failed_requests(reading.rollups).items())[:limit]
    return Table(("Service", "Error", "Requests"), [(service, code, count(n)) for (service, code), n in failed], (2,))


def _errors(names: Sequence[str], sums: Iterable[tuple[Sequence[str], ErrorSums]]) -> Table:
    rows = []
    for key, each in sums:
        found = each.metrics()
        errors = (error(found.get(name)) for name in ("rmse", "mae", "bias"))
        rows.append((*key, count(each.n), *errors, number(found.get("r2"), 4)))
    heads = (*names, "Pairs", "RMSE", "MAE", "Bias", "R²")
    return Table(heads, rows, range(len(names), len(heads)))
