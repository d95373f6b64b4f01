"""Summaries that both the page and the report show as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from complex_system.monitoring import series
from complex_system.monitoring.aggregates import ErrorSums
from complex_system.monitoring.history import Champion
from complex_system.monitoring.page.formatting import NONE, Clock, count, error, number
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.terms import requests_of
from complex_system.protocol.promotion import ChampionDecision

CAUSES = {
    "first": "enough records", "growth": "more records", "alert": "an alert",
    "schedule": "its trainer's schedule",
}  # fmt: skip


class Table(NamedTuple):
    """Column names, rows of cells, and the columns that hold numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: Sequence[int] = ()


def errors_of_models(reading: Reading) -> Table:
    """Return the errors of every model version, by whose requests the predictions are of."""
    sums = ((by, series.total(each.values(), ErrorSums)) for by, each in reading.errors.items())
    return _errors(
        ("Model", "Service", "On"), (((by.label, by.service, requests_of(by.origin)), whole) for by, whole in sums)
    )


def errors_of_champion(reading: Reading) -> Table:
    """Return the champion's errors of the period, and those of the comparison, by the records that they are of."""
    rows = _errors(("On",), (((requests_of(by.origin),), sums) for by, sums in reading.champion_errors.items()))
    compared = reading.expected
    basis = "comparison, by cross-validation" if compared.by_folds else "comparison, on the hold-out part"
    before = (
        [] if compared.rmse is None else [(basis, count(compared.records or None), error(compared.rmse), NONE, NONE, NONE)]
    )
    return Table(rows.heads, [*before, *rows.rows], rows.numbers)


def outliers(reading: Reading) -> str:
    """Return the outliers among the champion's newest pairs as a sentence; empty without one."""
    if not reading.outliers:
        return ""
    named = "; ".join(
        f"{each.key or 'a record'}: measured {each.truth:.6g}, predicted {each.prediction:.6g}"
        for each in reading.outliers[-3:]
    )
    n = len(reading.outliers)
    them = f"{count(n)} outlier{'s' if n > 1 else ''} among its newest pairs"
    return f"{them}, perhaps slips in the true value, which raise no alert: {named}."


def errors_of_groups(groups: Mapping[str, ErrorSums]) -> Table:
    """Return errors by group of records."""
    return _errors(("Group",), (((name,), sums) for name, sums in groups.items()))


def champions(found: Sequence[Champion], clock: Clock) -> Table:
    """Return champions and why they were trained."""
    rows = [
        (
            clock.short(e.at),
            e.name,
            error(e.rmse),
            count(e.holdout or None),
            e.decided or CAUSES.get(e.cause, e.cause) or NONE,
        )
        for e in found
    ]
    return Table(("Since", "Model", "RMSE", "Hold-out", "Cause"), rows, (2, 3))


def decisions(found: Sequence[ChampionDecision], clock: Clock) -> Table:
    """Return what people decided about champions: when, what, who and why."""
    rows = [(clock.short(e.at), e.action, e.label, e.before or NONE, e.who, e.why) for e in found]
    return Table(("When", "What", "Model", "Champion before", "Who", "Why"), rows)


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
    heads = (*names, "True values", "RMSE", "MAE", "Bias", "R²")
    return Table(heads, rows, range(len(names), len(heads)))
