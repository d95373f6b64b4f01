"""The texts of alerts: one sentence for the plant engineer, with column and unit, and what to do."""

from __future__ import annotations

from complex_system.domain.dataset import Dataset
from complex_system.monitoring.alerts.rules import AlertRule
from complex_system.monitoring.points import Figure, Figures

_DRIFT = (
    "The values of {subject} are not distributed as in the model's training data any more (PSI {value:.2f}, limit {limit}): "
    "check the sensor and the process."
)
_RAISED = {
    "drift/psi": _DRIFT,
    "drift/psi_max": _DRIFT,
    "performance/rmse_relative": (
        "The predictions of {target} are {value:.1f} times as wrong as when the model was chosen ({rmse}limit {limit} times)."
    ),
    "performance/rmse": "The predictions of {target} are off by an RMSE of {value:.4g}{unit}, limit {limit}{unit}.",
    "data/missing_excess": (
        "{subject} is missing in {missing} of the live records, {percent} more than in the training data "
        "(limit {limit_percent}): the sensor or its connection may have failed."
    ),
    "data/missing": (
        "{subject} is missing in {percent} of the live records (limit {limit_percent}): "
        "the sensor or its connection may have failed."
    ),
    "data/out_of_range": (
        "{percent} of the values of {subject} are outside of the declared range{allowed} (limit {limit_percent})."
    ),
    "data/new_categories": (
        "{value:.0f} new records have a value of {subject} that dataset.yaml does not declare; "
        "they are rejected until it does."
    ),
    "rejected/share": (
        "{percent} of the new records could not be processed and were rejected (limit {limit_percent}); "
        "the database keeps each with its reason."
    ),
    "ingest/stopped_sources": (
        "{value:.0f} source(s) have no room for another dead letter, so their refused messages wait: "
        "`fiot extras dead-letters` shows why, and publishes them again or removes them."
    ),
    "services/silent": "{service} not send heartbeats any more: see the log, and start what has ended.",
    "latency/p99": "One in a hundred predictions takes {value:.0f} ms or longer (limit {limit} ms).",
}
_ENDED = {
    "ingest/stopped_sources": "The room for dead letters is",
    "performance/rmse_relative": "The model's error is",
    "rejected/share": "The share of rejected records is",
    "latency/p99": "The time that predictions take is",
}
_NO_SUBJECT = {"drift": "at least one column", "data": "a column"}
_SHARES = ("data/missing", "data/missing_excess", "data/out_of_range", "rejected/share")


def raised_message(rule: AlertRule, subject: str, figure: Figure, value: float, figures: Figures, dataset: Dataset) -> str:
    """Return what is wrong.

    Args:
        rule: The rule that is broken.
        subject: What the rule's ``*`` stands for; empty where it has none.
        figure: The figure that was judged.
        value: Its value.
        figures: All figures of the moment.
        dataset: Names, descriptions and units of the columns.
    """
    if rule.text:
        return rule.text.format(subject=_named(subject, dataset), value=value, threshold=rule.threshold)
    text = _RAISED.get(figure.name)
    if text is None or (figure.group == "performance" and figure.subject):
        return f"{figure.flat} is {value:.4g}, {'above' if rule.above else 'below'} {rule.threshold:g}."
    unit, rmse, missing = (
        _unit(dataset.target, dataset),
        figures.number("performance/rmse"),
        figures.number("data/missing", subject),
    )
    return text.format(
        subject=_named(subject, dataset) or _NO_SUBJECT.get(figure.group, ""),
        target=_named(dataset.target, dataset),
        value=value,
        limit=f"{rule.threshold:g}",
        percent=_percent(value),
        limit_percent=_percent(rule.threshold),
        unit=unit,
        rmse="" if rmse is None else f"RMSE {rmse:.4g}{unit}, ",
        missing=_percent(value if missing is None else missing),
        allowed=_range(subject, dataset),
        service=f"The service {subject} does" if subject else f"{value:.0f} service(s) do",
    )


def ended_message(rule: AlertRule, subject: str, figure: Figure, value: float, seconds: float, dataset: Dataset) -> str:
    """Return that it is over, after so many seconds."""
    what = f"{_named(subject, dataset)} is" if subject else _ENDED.get(rule.metric, f"{rule.metric} is")
    shown = _percent(value) if figure.name in _SHARES else f"{value:.4g}"
    return f"{what} back to normal after {_duration(seconds)}: {rule.name} {shown}, limit {rule.threshold:g}."


def _named(subject: str, dataset: Dataset) -> str:
    description = dataset.column(subject).description if subject in dataset.raw_names else ""
    return f"{subject} ({description[0].lower() + description[1:]})" if description else subject


def _unit(column: str, dataset: Dataset) -> str:
    unit = dataset.column(column).unit
    return f" {unit}" if unit else ""


def _range(column: str, dataset: Dataset) -> str:
    limits = dataset.column(column).range if column in dataset.raw_names else None
    return f" {limits[0]:g} to {limits[1]:g}{_unit(column, dataset)}" if limits else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
