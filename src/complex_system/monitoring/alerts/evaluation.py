"""When an alert begins and ends, and what it says. Pure: time comes with the metrics, so simulated time works as well."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import uuid7
from complex_system.domain.steps import Arithmetic
from complex_system.monitoring.alerts.messages import ended_sentence, raised_sentence
from complex_system.monitoring.alerts.rules import AlertRule, Severity


@dataclass(frozen=True)
class Action:
    """What the system did because of an alert.

    Attributes:
        round: Id of the training round.
        at: When it began, epoch seconds.
        outcome: ``training`` while it runs, then ``new champion``, ``kept`` or ``failed``.
        what: One sentence: the new champion, or why the old one stays.
    """

    round: str
    at: float
    outcome: str = "training"
    what: str = ""


@dataclass(frozen=True)
class Alert:
    """One alert. Times are epoch seconds.

    Attributes:
        key: A UUID of version 7 that follows from rule, subject and time.
        subject: Column, feature or service that it is about; empty where the rule has no pattern.
        since: When the metric went beyond the threshold.
        began: When that had lasted long enough, and the alert was raised.
        ended: When it was good again for long enough; None while it is open.
        value: The value that was farthest off.
        newest: The newest judged value.
        sentence: What is the matter, for the people at the plant.
        over: How it ended; empty while it is open.
        actions: What the system did, oldest first.
    """

    key: str
    rule: str
    metric: str
    subject: str
    severity: Severity
    retrain: bool
    since: float
    began: float
    ended: float | None
    value: float
    newest: float
    threshold: float
    sentence: str
    over: str = ""
    actions: tuple[Action, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The alert as events, documents and the page have it: JSON values only."""
        return {**asdict(self), "actions": [asdict(action) for action in self.actions]}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Alert:
        """An alert from :meth:`as_dict`.

        Raises:
            KeyError: A field is missing.
        """
        actions = tuple(Action(**action) for action in content["actions"])
        return cls(**{**{each.name: content[each.name] for each in fields(cls)}, "actions": actions})

    @property
    def message(self) -> str:
        """What is to be said of it now."""
        return self.sentence if self.ended is None else self.over


@dataclass(frozen=True)
class AlertChange:
    """An alert that was raised or has ended."""

    kind: Literal["raised", "ended"]
    alert: Alert


@dataclass
class _Watch:
    """What is known of one subject of one rule."""

    values: deque[tuple[float, float]] = field(default_factory=deque)
    beyond_since: float | None = None
    clear_since: float | None = None
    alert: Alert | None = None


class AlertRules:
    """Judges the metrics of a moment by rules.

    A metric that is not there, is no number, or has too few samples behind it is not judged: no alert begins, and an open one
    stays open.
    """

    def __init__(self, rules: Iterable[AlertRule], dataset: Dataset) -> None:
        """Makes the rules ready.

        Args:
            rules: The rules, of different names.
            dataset: Says which column a feature is made of, and what its unit is.
        """
        self._rules = {rule.name: rule for rule in rules}
        self._dataset = dataset
        self._columns = _columns_of_features(dataset)
        self._watched: dict[tuple[str, str], _Watch] = {}

    def restore(self, at: float, alerts: Iterable[Alert]) -> list[AlertChange]:
        """Takes the alerts that were open before a restart. One whose rule is gone ends at the next look.

        Returns:
            The end of those that this process has raised anew meanwhile.
        """
        changes = []
        for alert in alerts:
            watch = self._watched.setdefault((alert.rule, alert.subject), _Watch())
            if watch.alert is None:
                watch.alert, watch.beyond_since = alert, None
            elif watch.alert.key != alert.key:
                over = "The monitoring was started again, and the alert goes on as a new one."
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

    def act(self, key: str, action: Action) -> Alert | None:
        """Notes on an open alert what the system did; a later action of the same round replaces the earlier one."""
        for watch in self._watched.values():
            if watch.alert is not None and watch.alert.key == key:
                watch.alert = with_action(watch.alert, action)
                return watch.alert
        return None

    def evaluate(self, at: float, metrics: Mapping[str, float]) -> list[AlertChange]:
        """Looks at the metrics of a moment.

        Args:
            at: Epoch seconds, real or simulated; rises from call to call.
            metrics: Values by flat name.

        Returns:
            What has changed, in the order of the rules.
        """
        changes: list[AlertChange] = []
        for rule in self._rules.values():
            for subject, (metric, value) in self._judged(rule, metrics).items():
                changes += self._look(rule, subject, metric, value, at, metrics)
        for (name, _), watch in self._watched.items():
            if name not in self._rules and watch.alert is not None:
                alert, watch.alert = watch.alert, None
                text = f"The rule '{name}' is not declared any more, so its alert has ended."
                changes.append(AlertChange("ended", replace(alert, ended=at, over=text)))
        return changes

    def _judged(self, rule: AlertRule, metrics: Mapping[str, float]) -> dict[str, tuple[str, float]]:
        """Metric and value by subject. Of several features of one column the worst speaks for the column."""
        found: dict[str, tuple[str, float]] = {}
        counted = metrics.get(rule.count_metric) if rule.min_count else None
        enough = not rule.min_count or (counted is not None and counted >= rule.min_count)
        for metric, value in metrics.items() if "*" in rule.metric else _one(rule.metric, metrics):
            subject = rule.subject_of(metric)
            if subject is None or not math.isfinite(value):
                continue
            subject = self._columns.get(subject, subject)
            if not enough:
                self._forget(rule, subject)
                continue
            known = found.get(subject)
            if known is None or (value > known[1] if rule.above else value < known[1]):
                found[subject] = (metric, float(value))
        return found

    def _forget(self, rule: AlertRule, subject: str) -> None:
        watch = self._watched.get((rule.name, subject))
        if watch is not None:
            watch.beyond_since = watch.clear_since = None
            watch.values.clear()

    def _look(
        self, rule: AlertRule, subject: str, metric: str, newest: float, at: float, metrics: Mapping[str, float]
    ) -> list[AlertChange]:
        watch = self._watched.setdefault((rule.name, subject), _Watch())
        value = _averaged(watch.values, at, newest, rule.window)
        if watch.alert is None:
            watch.beyond_since = _since(watch.beyond_since, at) if rule.is_beyond(value) else None
            if watch.beyond_since is None or at - watch.beyond_since < rule.lasting:
                return []
            text = raised_sentence(rule, subject, metric, value, metrics, self._dataset)
            watch.alert = Alert(
                key=_key_of(rule.name, subject, at), rule=rule.name, metric=metric, subject=subject, severity=rule.severity,
                retrain=rule.retrain, since=watch.beyond_since, began=at, ended=None, value=value, newest=value,
                threshold=rule.threshold, sentence=text,
            )  # fmt: skip
            watch.beyond_since = watch.clear_since = None
            return [AlertChange("raised", watch.alert)]
        worst = max(watch.alert.value, value) if rule.above else min(watch.alert.value, value)
        watch.alert = replace(watch.alert, value=worst, newest=value)
        watch.clear_since = _since(watch.clear_since, at) if rule.is_clear(value) else None
        if watch.clear_since is None or at - watch.clear_since < rule.clear_for:
            return []
        text = ended_sentence(rule, subject, value, at - watch.alert.since, self._dataset)
        ended = replace(watch.alert, ended=at, over=text)
        watch.alert = watch.clear_since = None
        return [AlertChange("ended", ended)]


def with_action(alert: Alert, action: Action) -> Alert:
    """The alert with an action; one of the same round is replaced and keeps its beginning."""
    before = next((each for each in alert.actions if each.round == action.round), None)
    if before is None:
        return replace(alert, actions=(*alert.actions, action))
    newer = replace(action, at=before.at)
    return replace(alert, actions=tuple(newer if each is before else each for each in alert.actions))


def _columns_of_features(dataset: Dataset) -> dict[str, str]:
    """The raw column that each feature is made of; those of several columns are left out."""
    made_of: dict[str, set[str]] = {name: {name} for name in dataset.raw_names}
    columns: dict[str, str] = {}
    for step in dataset.pipeline:
        names = set().union(*(made_of[name] for name in step.inputs))
        if isinstance(step, Arithmetic):
            made_of.setdefault(step.result, names)
        if len(names) == 1:
            columns |= dict.fromkeys(dataset.features_of(step), *names)
    return columns


def _one(metric: str, metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(metric, metrics[metric])] if metric in metrics else []


def _since(before: float | None, at: float) -> float:
    return at if before is None or before > at else before  # a clock that was set back begins anew


def _averaged(values: deque[tuple[float, float]], at: float, newest: float, window: float) -> float:
    if not window:
        return newest
    values.append((at, newest))
    while values[0][0] < at - window:
        values.popleft()
    return sum(value for _, value in values) / len(values)


def _key_of(rule: str, subject: str, at: float) -> str:
    # Its random bits are a digest, so that an alert that is raised again is the same document.
    digest = int.from_bytes(hashlib.sha256(f"{rule}\0{subject}".encode()).digest()[:10], "big")
    return uuid7(int(at * 1000), digest)
