"""Decides when an alert begins and ends, and says so in one sentence with column and unit, for the plant engineer.

Pure: time comes with the figures, so simulated time works as well.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from msgspec.structs import replace

from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import uuid7
from complex_system.monitoring.alerts.descriptions import (
    duration,
    evidence_of,
    moved_message,
    named,
    percent,
    range_of,
    unit_of,
)
from complex_system.monitoring.alerts.rules import AlertRule
from complex_system.monitoring.drift import DataDrift
from complex_system.monitoring.moves import columns_of_features
from complex_system.monitoring.points import Figure, Figures
from complex_system.protocol.operations import Action, Alert

_DRIFT = (
    "The values of {subject} are no longer distributed as in the model's training data (PSI {value:.2f}, limit {limit}): "
    "check the sensor and the process."
)
_EVIDENCE = (
    "The values of {subject} are no longer distributed as in the model's training data (evidence {value:.1f}, limit {limit}): "
    "check the sensor and the process."
)
_RAISED = {
    "drift/evidence": _EVIDENCE,
    "drift/evidence_max": _EVIDENCE,
    "drift/psi": _DRIFT,
    "drift/psi_max": _DRIFT,
    "performance/error_ratio_low": (
        "The predictions of {target} are {ratio}times as wrong as when the model was chosen, and surely {value:.2g} times "
        "({rmse}limit {limit} times){since}."
    ),
    "performance/coverage_p": (
        "Only {coverage} of the newest true values of {target} lie within the 90 % intervals: it errs more than these say."
    ),
    "performance/changed_for": "The error of the predictions of {target} has been larger for {duration}.",
    "performance/outliers": (
        "{value:.0f} measured value(s) of {target} are far from the prediction, much further than usual: check the entries, "
        "such as a slipped decimal point. The log and /api/predictions of ml_monitoring name the records."
    ),
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
        "{value:.0f} new record(s) have a value of {subject} that dataset.yaml does not declare; "
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
    "sensors/silent": (
        "The sensor {subject} is silent: no reading for much longer than usual. Its columns are missing in new records; check the "
        "sensor and its connection."
    ),
    "services/silent": "No heartbeats from {service}: look at the log, and start again what has ended.",
    "latency/p99": "One in a hundred predictions takes {value:.0f} ms or longer (limit {limit} ms).",
}
_ENDED = {
    "ingest/stopped_sources": "The room for dead letters is",
    "performance/error_ratio_low": "The model's error is",
    "performance/rmse_relative": "The model's error is",
    "performance/coverage_p": "The share of true values within the 90 % intervals is",
    "rejected/share": "The share of rejected records is",
    "latency/p99": "The time that predictions take is",
}
_EVIDENCE_OF = "drift/evidence"
"""The figure that is missing where the champion's training data tell too little of a feature, and not for a moment only."""
_NO_SUBJECT = {"drift": "at least one column", "data": "a column"}
_SHARES = ("data/missing", "data/missing_excess", "data/out_of_range", "rejected/share")


@dataclass(frozen=True)
class AlertChange:
    """An alert that was raised or has ended."""

    kind: Literal["raised", "ended"]
    alert: Alert


@dataclass
class _Watch:
    """The state of one subject of one rule."""

    values: deque[tuple[float, float]] = field(default_factory=deque)
    beyond_since: float | None = None
    clear_since: float | None = None
    alert: Alert | None = None


class AlertRules:
    """Judges the figures of a moment by rules.

    A figure that was not measured, is not a number, or has too few samples behind it is not judged: no alert begins, and an open one
    stays open.
    """

    def __init__(self, rules: Iterable[AlertRule], dataset: Dataset) -> None:
        """Make the rules ready.

        Args:
            rules: The rules, of different names.
            dataset: Says which column a feature is made of, and what its unit is.
        """
        self._rules = {rule.name: rule for rule in rules}
        self._dataset = dataset
        self._columns = columns_of_features(dataset)
        self._watched: dict[tuple[str, str], _Watch] = {}

    def restore(self, at: float, alerts: Iterable[Alert]) -> list[AlertChange]:
        """Take the alerts that were open before a restart. One whose rule no longer exists ends at the next evaluation.

        Returns:
            The end of those that this process has raised again meanwhile.
        """
        changes = []
        for alert in alerts:
            watch = self._watched.setdefault((alert.rule, alert.subject), _Watch())
            if watch.alert is None:
                watch.alert, watch.beyond_since = alert, None
            elif watch.alert.key != alert.key:
                over = "Monitoring was restarted, and the alert continues as a new one."
                changes.append(AlertChange("ended", replace(alert, ended=at, over=over)))
        return changes

    @property
    def open(self) -> list[Alert]:
        """The open alerts, oldest first."""
        found = [watch.alert for watch in self._watched.values() if watch.alert is not None]
        return sorted(found, key=lambda alert: alert.began)

    @property
    def pending(self) -> list[tuple[str, str]]:
        """Rule and subject of what is beyond its threshold and has not lasted long enough to be an alert."""
        return [key for key, watch in self._watched.items() if watch.alert is None and watch.beyond_since is not None]

    def change(self, key: str, change: Callable[[Alert], Alert]) -> Alert | None:
        """Change an open alert by what was done because of it, and return it; None where there is no such one."""
        for watch in self._watched.values():
            if watch.alert is not None and watch.alert.key == key:
                watch.alert = change(watch.alert)
                return watch.alert
        return None

    def evaluate(self, at: float, figures: Figures, drift: DataDrift | None = None) -> list[AlertChange]:
        """Judge the figures of a moment.

        Args:
            at: Seconds since 1970, real or simulated; rises from call to call.
            figures: All that was measured.
            drift: What the figures of drift are of: says what has moved, and since when.

        Returns:
            What has changed, in the order of the rules.
        """
        changes: list[AlertChange] = []
        for rule in self._rules.values():
            for subject, figure in self._judged(rule, figures).items():
                changes += self._judge(rule, subject, figure, at, figures, drift)
        tested = {self._columns.get(each.subject, each.subject) for each in figures if each.name == _EVIDENCE_OF}
        for (name, subject), watch in self._watched.items():
            over = ""
            if name not in self._rules:
                over = f"The rule '{name}' is no longer declared, so its alert has ended."
            elif watch.alert and drift and Figure.parse(watch.alert.metric).name == _EVIDENCE_OF and subject not in tested:
                over = (
                    f"The training data of the present champion tell too little of {named(subject, self._dataset)} to judge it, "
                    "so its alert has ended."
                )
            if over and watch.alert is not None:
                alert, watch.alert = watch.alert, None
                changes.append(AlertChange("ended", replace(alert, ended=at, over=over)))
        return changes

    def _judged(self, rule: AlertRule, figures: Figures) -> dict[str, Figure]:
        """Return the judged figure by subject. Of several features of one column the worst counts for the column."""
        found: dict[str, Figure] = {}
        counted = figures.get(Figure.parse(rule.count_metric)) if rule.min_count else None
        enough = not rule.min_count or (counted is not None and counted >= rule.min_count)
        for figure in figures if "*" in rule.metric else filter(figures.__contains__, [Figure.parse(rule.metric)]):
            subject, number = rule.subject_of(figure.flat), figures[figure]
            if subject is None or not math.isfinite(number):
                continue
            subject = self._columns.get(subject, subject)
            if not enough:
                self._start_again(rule, subject)
                continue
            known = figures[found[subject]] if subject in found else None
            if known is None or (number > known if rule.above else number < known):
                found[subject] = figure
        return found

    def _start_again(self, rule: AlertRule, subject: str) -> None:
        watch = self._watched.get((rule.name, subject))
        if watch is not None:
            watch.beyond_since = watch.clear_since = None
            watch.values.clear()

    def _judge(
        self, rule: AlertRule, subject: str, figure: Figure, at: float, figures: Figures, drift: DataDrift | None
    ) -> list[AlertChange]:
        watch, newest = self._watched.setdefault((rule.name, subject), _Watch()), figures[figure]
        value = _averaged(watch.values, at, newest, rule.window)
        if watch.alert is None:
            watch.beyond_since = _since(watch.beyond_since, at) if rule.is_beyond(value) else None
            if watch.beyond_since is None or at - watch.beyond_since < rule.lasting:
                return []
            moved = evidence_of(figure, drift)
            sentence = _raised_message(rule, subject, figure, value, figures, self._dataset)
            if moved is not None and not rule.text:
                sentence = moved_message(subject, figure, moved, at, figures, self._dataset)
            watch.alert = Alert(
                key=_key_of(rule.name, subject, at), rule=rule.name, metric=figure.flat, subject=subject, severity=rule.severity,
                retrain=rule.retrain, moved=rule.moved, error_changed=_changed_at(rule, at, figures),
                since=moved.since if moved else watch.beyond_since, began=at,
                value=value, newest=value, threshold=rule.threshold,
                sentence=sentence,
            )  # fmt: skip
            watch.beyond_since = watch.clear_since = None
            return [AlertChange("raised", watch.alert)]
        worst = max(watch.alert.value, value) if rule.above else min(watch.alert.value, value)
        watch.alert = replace(watch.alert, value=worst, newest=value)
        watch.clear_since = _since(watch.clear_since, at) if rule.is_clear(value) else None
        if watch.clear_since is None or at - watch.clear_since < rule.clear_for:
            return []
        over = _ended_message(rule, subject, figure, value, at - watch.alert.since, self._dataset)
        ended = replace(watch.alert, ended=at, over=over)
        watch.alert = watch.clear_since = None
        return [AlertChange("ended", ended)]


def with_action(alert: Alert, action: Action) -> Alert:
    """Return an alert with what the system did; a later action of the same round replaces the earlier one and keeps its time."""
    before = next((each for each in alert.actions if each.round == action.round), None)
    if before is None:
        return replace(alert, actions=(*alert.actions, action))
    newer = replace(action, at=before.at)
    return replace(alert, actions=tuple(newer if each is before else each for each in alert.actions))


def _since(before: float | None, at: float) -> float:
    return at if before is None or before > at else before  # a clock that was set back starts again


def _changed_at(rule: AlertRule, at: float, figures: Figures) -> float | None:
    seconds = figures.number("performance/changed_for") if rule.moved == "error" else None
    return at - seconds if seconds else None


def _averaged(values: deque[tuple[float, float]], at: float, newest: float, window: float) -> float:
    if not window:
        return newest
    values.append((at, newest))
    while values[0][0] < at - window:
        values.popleft()
    return sum(value for _, value in values) / len(values)


def _key_of(rule: str, subject: str, at: float) -> str:
    # The random bits are a digest, so that an alert that is raised again is the same document.
    digest = int.from_bytes(hashlib.sha256(f"{rule}\0{subject}".encode()).digest()[:10], "big")
    return uuid7(int(at * 1000), digest)


def _raised_message(rule: AlertRule, subject: str, figure: Figure, value: float, figures: Figures, dataset: Dataset) -> str:
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
        return rule.text.format(subject=named(subject, dataset), value=value, threshold=rule.threshold)
    text = _RAISED.get(figure.name)
    if text is None or (figure.group == "performance" and figure.subject):
        return f"{figure.flat} is {value:.4g}, {'above' if rule.above else 'below'} {rule.threshold:g}."
    unit, missing = unit_of(dataset.target, dataset), figures.number("data/missing", subject)
    rmse, ratio = figures.number("performance/rmse"), figures.number("performance/error_ratio")
    changed_for = figures.number("performance/changed_for")
    return text.format(
        subject=named(subject, dataset) or _NO_SUBJECT.get(figure.group, ""),
        target=named(dataset.target, dataset),
        value=value,
        limit=f"{rule.threshold:g}",
        percent=percent(value),
        limit_percent=percent(rule.threshold),
        unit=unit,
        rmse="" if rmse is None else f"RMSE {rmse:.4g}{unit}, ",
        ratio="" if ratio is None else f"{ratio:.2g} ",
        since=f", for {duration(changed_for)}" if changed_for else "",
        duration=duration(value),
        coverage=percent(figures.number("performance/coverage") or 0.0),
        missing=percent(value if missing is None else missing),
        allowed=range_of(subject, dataset),
        service=f"the service {subject}" if subject else f"{value:.0f} service(s)",
    )


def _ended_message(rule: AlertRule, subject: str, figure: Figure, value: float, seconds: float, dataset: Dataset) -> str:
    """Return that it is over, after so many seconds."""
    what = f"{named(subject, dataset)} is" if subject else _ENDED.get(rule.metric, f"{rule.metric} is")
    if value == rule.threshold == 0:  # a matter of yes or no
        return f"{what} back to normal after {duration(seconds)}."
    shown = percent(value) if figure.name in _SHARES else f"{value:.4g}"
    return f"{what} back to normal after {duration(seconds)}: {rule.name} {shown}, limit {rule.threshold:g}."
