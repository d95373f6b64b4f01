"""What an alert says: one sentence that a plant engineer understands, with column and unit, and what to do."""

from __future__ import annotations

from collections.abc import Callable

from complex_system.domain.dataset import Dataset
from complex_system.monitoring.alerts.rules import AlertRule
from complex_system.monitoring.points import Figure, Figures

Text = Callable[[AlertRule, str, float, Figures, Dataset], str]


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
    text = _TEXTS.get(figure.name)
    if text is None or (figure.group == "performance" and figure.subject):
        side = "above" if rule.above else "below"
        return f"{figure.flat} is {value:.4g}, {side} {rule.threshold:g}."
    return text(rule, subject, value, figures, dataset)


def ended_message(rule: AlertRule, subject: str, figure: Figure, value: float, seconds: float, dataset: Dataset) -> str:
    """Return that it is over, after so many seconds."""
    what = f"{_named(subject, dataset)} is" if subject else _ENDED.get(rule.metric, f"{rule.metric} is")
    shown = _percent(value) if figure.name in _SHARES else f"{value:.4g}"
    return f"{what} back to normal after {_duration(seconds)}: {rule.name} {shown}, limit {rule.threshold:g}."


_SHARES = ("data/missing", "data/missing_excess", "data/out_of_range", "rejected/share")
_ENDED = {
    "performance/rmse_relative": "The model's error is",
    "rejected/share": "The share of rejected records is",
    "latency/p99": "The time that predictions take is",
}


def _drift(rule: AlertRule, subject: str, value: float, _: Figures, dataset: Dataset) -> str:
    what = _named(subject, dataset) if subject else "At least one column"
    return (
        f"The values of {what} are not distributed as in the model's training data any more "
        f"(PSI {value:.2f}, limit {rule.threshold:g}): check the sensor and the process."
    )


def _error(rule: AlertRule, _: str, value: float, figures: Figures, dataset: Dataset) -> str:
    target = _named(dataset.target, dataset)
    rmse = figures.number("performance/rmse")
    size = "" if rmse is None else f"RMSE {rmse:.4g}{_unit(dataset.target, dataset)}, "
    return (
        f"The predictions of {target} are {value:.1f} times as wrong as when the model was chosen "
        f"({size}limit {rule.threshold:g} times)."
    )


def _rmse(rule: AlertRule, _: str, value: float, __: Figures, dataset: Dataset) -> str:
    unit = _unit(dataset.target, dataset)
    return (
        f"The predictions of {_named(dataset.target, dataset)} are off by an RMSE of {value:.4g}{unit}, "
        f"limit {rule.threshold:g}{unit}."
    )


def _missing(rule: AlertRule, subject: str, value: float, figures: Figures, dataset: Dataset) -> str:
    share = figures.number("data/missing", subject) or value
    return (
        f"{_named(subject, dataset)} is missing in {_percent(share)} of the live records, {_percent(value)} more than in the "
        f"training data (limit {_percent(rule.threshold)}): the sensor or its connection may have failed."
    )


def _missing_share(rule: AlertRule, subject: str, value: float, _: Figures, dataset: Dataset) -> str:
    return (
        f"{_named(subject, dataset)} is missing in {_percent(value)} of the live records (limit {_percent(rule.threshold)}): "
        "the sensor or its connection may have failed."
    )


def _out_of_range(rule: AlertRule, subject: str, value: float, _: Figures, dataset: Dataset) -> str:
    allowed = ""
    if subject in dataset.raw_names and (limits := dataset.column(subject).range):
        allowed = f" {limits[0]:g} to {limits[1]:g}{_unit(subject, dataset)}"
    return (
        f"{_percent(value)} of the values of {_named(subject, dataset)} are outside of the declared range{allowed} "
        f"(limit {_percent(rule.threshold)})."
    )


def _new_category(_: AlertRule, subject: str, value: float, __: Figures, dataset: Dataset) -> str:
    what = _named(subject, dataset) if subject else "a column"
    return f"{value:.0f} new records have a value of {what} that dataset.yaml does not declare; they are rejected until it does."


def _rejected(rule: AlertRule, _: str, value: float, __: Figures, ___: Dataset) -> str:
    return (
        f"{_percent(value)} of the new records could not be processed and were rejected (limit {_percent(rule.threshold)}); "
        "the database keeps each with its reason."
    )


def _silent(_: AlertRule, subject: str, value: float, __: Figures, ___: Dataset) -> str:
    if subject:
        return f"The service {subject} does not send heartbeats any more: see its log and start it again."
    return f"{value:.0f} service(s) do not send heartbeats any more: see their logs and start them again."


def _latency(rule: AlertRule, _: str, value: float, __: Figures, ___: Dataset) -> str:
    return f"One in a hundred predictions takes {value:.0f} ms or longer (limit {rule.threshold:g} ms)."


_TEXTS: dict[str, Text] = {
    "drift/psi": _drift,
    "drift/psi_max": _drift,
    "performance/rmse_relative": _error,
    "performance/rmse": _rmse,
    "data/missing_excess": _missing,
    "data/missing": _missing_share,
    "data/out_of_range": _out_of_range,
    "data/new_categories": _new_category,
    "rejected/share": _rejected,
    "services/silent": _silent,
    "latency/p99": _latency,
}


def _named(subject: str, dataset: Dataset) -> str:
    if subject not in dataset.raw_names:
        return subject
    description = dataset.column(subject).description
    return f"{subject} ({description[0].lower() + description[1:]})" if description else subject


def _unit(column: str, dataset: Dataset) -> str:
    unit = dataset.column(column).unit
    return f" {unit}" if unit else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
