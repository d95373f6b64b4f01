"""What the page shows, at one moment and for one period: taken in the event loop in a few milliseconds, looked at in threads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.monitoring import views
from complex_system.monitoring.aggregates import HOUR, MINUTE, Rollup, begin_of
from complex_system.monitoring.history import Pair
from complex_system.monitoring.monitor import Monitor
from complex_system.protocol.base import to_wire

DAY = 24 * HOUR
RECENT = 10 * MINUTE
"""Seconds over which present rates are taken."""
MOST_PAIRS = 1200
"""Pairs in a scatter plot; beyond that one sees no more and waits longer."""
_AT_WORK = 3
"""Newest roll-ups, which grow all the time."""


@dataclass(frozen=True)
class Period:
    """A time span that can be looked at.

    Attributes:
        seconds: Its length.
        step: Seconds between two points of a curve.
    """

    key: str
    label: str
    seconds: float
    step: int


PERIODS = {
    each.key: each
    for each in (
        Period("1h", "1 hour", HOUR, MINUTE),
        Period("24h", "24 hours", DAY, 10 * MINUTE),
        Period("7d", "7 days", 7 * DAY, HOUR),
        Period("30d", "30 days", 30 * DAY, 3 * HOUR),
        Period("90d", "90 days", 90 * DAY, 12 * HOUR),
    )
}
USUAL = PERIODS["24h"]


@dataclass(frozen=True)
class Facts:
    """What does not change while the service runs.

    Attributes:
        dataset: The declared data set.
        mlflow_url: Where MLflow's own page is; empty if unknown.
        version: Of the package.
    """

    dataset: Dataset
    mlflow_url: str = ""
    version: str = ""


@dataclass(frozen=True)
class Alert:
    """An alert as its events carry it; times are seconds since 1970.

    Attributes:
        value: Its worst value.
        over: How it ended, a sentence; empty while it is open.
        actions: What the system did: ``at``, ``outcome`` and ``what`` each, oldest first.
    """

    rule: str
    severity: str
    metric: str
    value: float | None
    sentence: str
    began: float
    ended: float | None
    over: str = ""
    actions: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Alert:
        """Reads an event's value; only ``began`` has to be there."""
        value, ended = body.get("value"), body.get("ended")
        return cls(
            rule=str(body.get("rule", "")),
            severity=str(body.get("severity", "warning")),
            metric=str(body.get("metric", "")),
            value=float(value) if isinstance(value, int | float) else None,
            sentence=str(body.get("sentence", "")),
            began=float(body["began"]),
            ended=float(ended) if ended is not None else None,
            over=str(body.get("over") or ""),
            actions=tuple(dict(action) for action in body.get("actions") or ()),
        )


@dataclass(frozen=True)
class Reading:
    """The present state and the history of a period.

    Attributes:
        overview: As ``views.overview``.
        models: As ``views.models``.
        data: As ``views.data``.
        rollups: Of the period, oldest first: minutes for a day and less, hours beyond.
        recent: The minutes of the last ``RECENT`` seconds.
        pairs: A sample of the joined pairs.
        champions: The newest last.
        waiting: Predictions that wait for their truth.
    """

    at: float
    period: Period
    facts: Facts
    overview: Mapping[str, Any]
    models: Mapping[str, Any]
    data: Mapping[str, Any]
    rollups: Sequence[Rollup]
    recent: Sequence[Rollup]
    pairs: Sequence[Pair]
    champions: Sequence[Mapping[str, Any]]
    alerts: Sequence[Alert]
    waiting: int = 0

    @property
    def end(self) -> float:
        """End of the step that the reading lies in: where axes end, so that a figure without new data stays as it is."""
        return begin_of(self.at, self.period.step) + self.period.step

    @property
    def begin(self) -> float:
        """Begin of the period that ends there."""
        return self.end - self.period.seconds

    @property
    def services(self) -> Sequence[Mapping[str, Any]]:
        """As ``ServiceBook.as_list``."""
        return self.overview.get("services") or ()

    @property
    def records(self) -> Mapping[str, float]:
        """``raw``, ``processed``, ``labelled`` and ``rejected``; empty before the first count."""
        return self.overview.get("records") or {}

    @property
    def rates(self) -> Mapping[str, float]:
        """The same a second."""
        return self.overview.get("rates") or {}

    @property
    def comparison(self) -> Mapping[str, Any] | None:
        """The newest ``comparison-finished``."""
        return self.models.get("comparison")

    @property
    def best_possible(self) -> float | None:
        """Lowest RMSE that any model can reach, where it is known."""
        return self.models.get("best_possible")

    @property
    def open_alerts(self) -> list[Alert]:
        """Open alerts, the worst and then the newest first."""
        weight = {"critical": 0, "warning": 1}
        found = [alert for alert in self.alerts if alert.ended is None]
        return sorted(found, key=lambda alert: (weight.get(alert.severity, 2), -alert.began))

    @property
    def champion(self) -> Mapping[str, Any] | None:
        """``model``, ``version``, ``framework``, ``at`` (its coronation) and ``rmse`` at its comparison, as far as they are known."""
        serving = self.overview.get("champion") or {}
        if not serving and not self.champions:
            return None
        model, version = serving.get("model"), str(serving.get("version"))
        crowned = next((each for each in reversed(self.champions) if _is(each, model, version)), None)
        if crowned is None and not serving:
            crowned = self.champions[-1]
        rows = (self.comparison or {}).get("results") or ()
        compared: Mapping[str, Any] = next((row for row in rows if _is(row, model, version)), {})
        known = {name: value for name, value in (crowned or {}).items() if value is not None}
        return {**serving, "at": serving.get("since"), "rmse": serving.get("holdout_rmse") or compared.get("rmse"),
                "framework": compared.get("framework"), **known}  # fmt: skip

    def awaited(self, about: str, otherwise: str) -> str:
        """What the views say is missing of something, or else a sentence of our own."""
        return next((str(each) for each in self.overview.get("awaited") or () if about in str(each)), otherwise)


def _is(each: Mapping[str, Any], model: Any, version: str) -> bool:
    return (each.get("model"), str(each.get("version"))) == (model, version)


def take(monitor: Monitor, facts: Facts, period: Period, now: float) -> Reading:
    """Takes a reading. To be called in the monitor's thread; what comes back may be read in any.

    Lists and dicts are copied, and the newest roll-ups as a whole. The sums in older ones are shared: a truth that comes late may be
    in them or not, as it would be a moment later.
    """
    start, history = now - period.seconds, monitor.history
    long = period.seconds > DAY
    rollups = (
        history.hours(begin_of(start, HOUR), now + HOUR) if long else history.minutes(begin_of(start, MINUTE), now + MINUTE)
    )
    pairs = list(history.samples(start, now + MINUTE))
    every = -(-len(pairs) // MOST_PAIRS) or 1
    return Reading(
        at=now,
        period=period,
        facts=facts,
        overview=to_wire(views.overview(monitor)),
        models=to_wire(views.models(monitor)),
        data=to_wire(views.data(monitor)),
        rollups=_frozen(rollups),
        recent=_frozen(history.minutes(now - RECENT, now + MINUTE)),
        pairs=pairs[::every],
        champions=to_wire(history.champions),
        alerts=[Alert.parse(to_wire(alert)) for alert in history.alerts()],
        waiting=monitor.join.waiting,
    )


def _frozen(rollups: list[Rollup]) -> list[Rollup]:
    settled = [
        Rollup(each.at, each.seconds, dict(each.errors), dict(each.latency), dict(each.failures), dict(each.gauges))
        for each in rollups[:-_AT_WORK]
    ]
    return settled + [copy.deepcopy(each) for each in rollups[-_AT_WORK:]]
