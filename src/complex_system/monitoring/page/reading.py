"""What the page shows, at one moment and for one period: taken in the event loop in a few milliseconds, looked at in threads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.monitoring.history import AlertRecord, History, Pair
from complex_system.monitoring.rollups import HOUR, MINUTE, Rollup

DAY = 24 * HOUR
RECENT = 10 * MINUTE
"""Seconds over which present rates are taken."""
MOST_PAIRS = 2000
"""Pairs in a scatter plot; beyond that one sees no more and waits longer."""
_AT_WORK = 3
"""Newest roll-ups that still change; they are copied."""


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
        best_possible: Lowest RMSE that any model can reach, where it is known.
        mlflow_url: Where MLflow's own page is; empty if unknown.
        version: Of the package.
    """

    dataset: Dataset
    best_possible: float | None = None
    mlflow_url: str = ""
    version: str = ""


@dataclass(frozen=True)
class Live:
    """What is so at this moment.

    Attributes:
        services: As ``ServiceBook.as_list``.
        data: As ``DataWindow.measure``; None before the first.
        comparison: The newest ``comparison-finished``; None before the first.
        records: ``raw``, ``processed``, ``labelled``, ``rejected``; empty before the first count.
        trainings: The newest ``training-progress`` by trainer, of trainings under way.
        waiting: Predictions that wait for their truth.
        data_awaited: Why there is no data view, a sentence.
    """

    services: Sequence[Mapping[str, Any]] = ()
    data: Mapping[str, Any] | None = None
    comparison: Mapping[str, Any] | None = None
    records: Mapping[str, float] = field(default_factory=dict)
    trainings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    waiting: int = 0
    data_awaited: str = ""


@dataclass(frozen=True)
class Reading:
    """The history of a period and the present state.

    Attributes:
        rollups: Of the period, oldest first: minutes for a day and less, hours beyond.
        recent: The minutes of the last ``RECENT`` seconds.
        pairs: A sample of the joined pairs.
    """

    at: float
    period: Period
    facts: Facts
    live: Live
    rollups: Sequence[Rollup]
    recent: Sequence[Rollup]
    pairs: Sequence[Pair]
    champions: Sequence[Mapping[str, Any]]
    alerts: Sequence[AlertRecord]

    @property
    def begin(self) -> float:
        """Begin of the period."""
        return self.at - self.period.seconds

    @property
    def open_alerts(self) -> list[AlertRecord]:
        """Open alerts, the worst and then the newest first."""
        weight = {"critical": 0, "warning": 1}
        found = [alert for alert in self.alerts if alert.ended is None]
        return sorted(found, key=lambda alert: (weight.get(alert.severity, 2), -alert.began))

    @property
    def champion(self) -> Mapping[str, Any] | None:
        """The newest champion."""
        return self.champions[-1] if self.champions else None


def take(history: History, live: Live, facts: Facts, period: Period, now: float) -> Reading:
    """Takes a reading. To be called where the history is written; what comes back may be read anywhere.

    Lists and dicts are copied, roll-ups that still grow as a whole, older ones to the depth that a late truth could disturb.
    """
    start = now - period.seconds
    long = period.seconds > DAY
    rollups = history.hours(start - HOUR, now + HOUR) if long else history.minutes(start, now + MINUTE)
    pairs = list(history.samples(start, now + MINUTE))
    every = -(-len(pairs) // MOST_PAIRS) or 1
    return Reading(
        at=now,
        period=period,
        facts=facts,
        live=live,
        rollups=_frozen(rollups),
        recent=_frozen(history.minutes(now - RECENT, now + MINUTE)),
        pairs=pairs[::every],
        champions=[dict(each) for each in history.champions],
        alerts=history.alerts(),
    )


def _frozen(rollups: list[Rollup]) -> list[Rollup]:
    settled = [
        Rollup(each.at, each.seconds, dict(each.errors), dict(each.latency), dict(each.failures), dict(each.gauges))
        for each in rollups[:-_AT_WORK]
    ]
    return settled + [copy.deepcopy(each) for each in rollups[-_AT_WORK:]]
