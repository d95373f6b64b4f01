"""The state of the system at one moment and its history over one period: taken in the event loop in milliseconds, read in threads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import msgspec

from complex_system.domain.dataset import Dataset
from complex_system.monitoring import series, views
from complex_system.monitoring.aggregates import HOUR, MINUTE, ErrorSums, Gauge, LatencySums, Rollup, Served, begin_of
from complex_system.monitoring.history import Champion, Pair
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.page.formatting import count
from complex_system.monitoring.performance import MIN_LIVE_PAIRS, WindowPair
from complex_system.monitoring.points import Figure
from complex_system.monitoring.series import Curve
from complex_system.monitoring.views import ChampionView, Data, Models, Overview
from complex_system.protocol.collection import CollectionState
from complex_system.protocol.operations import Alert
from complex_system.protocol.serving import ORIGIN_LABELS
from complex_system.protocol.training import ComparedModel, ComparisonFinished, Quality

DAY = 24 * HOUR
RECENT = 10 * MINUTE
"""Seconds that present rates are averaged over."""
MAX_PAIRS = 1200
"""Pairs in a scatter plot; more would slow the page down and show nothing more."""
_GROWING = 3
"""Newest roll-ups, which still change."""


@dataclass(frozen=True)
class Period:
    """A time span that can be chosen.

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
        Period("1h", "60 minutes", HOUR, MINUTE),
        Period("24h", "24 hours", DAY, 10 * MINUTE),
        Period("7d", "7 days", 7 * DAY, HOUR),
        Period("30d", "30 days", 30 * DAY, 3 * HOUR),
        Period("90d", "90 days", 90 * DAY, 12 * HOUR),
    )
}
DEFAULT_PERIOD = PERIODS["24h"]


@dataclass(frozen=True)
class Facts:
    """What does not change while the service runs.

    Attributes:
        dataset: The declared data set.
        mlflow_url: Address of MLflow's user interface; empty if unknown.
        version: Version of the package.
        may_decide: Whether readers, who have logged in, may decide about the champion.
    """

    dataset: Dataset
    mlflow_url: str = ""
    version: str = ""
    may_decide: bool = False

    @property
    def unit(self) -> str:
        """The target's unit for an axis; if none is declared, that the axis is in that unit."""
        return self.dataset.column(self.dataset.target).unit or "target's unit"


class Expected(NamedTuple):
    """The error that a champion was chosen with; ``rmse`` is None where it was in no comparison, ``records`` 0 if not known."""

    rmse: float | None = None
    records: int = 0
    by_folds: bool = False

    @property
    def basis(self) -> str:
        """What it is based on."""
        number = f"{count(self.records)} " if self.records else ""
        return f"by cross-validation of {number}records" if self.by_folds else f"on {number}hold-out records"


@dataclass(frozen=True)
class Reading:
    """The present state and the history of a period.

    Attributes:
        champion: The model that answers now, with what is known of its comparison; None before the first.
        alerts: Open and past alerts, the newest first.
        rollups: Of the period, oldest first: minutes up to a day, hours beyond.
        recent: The minutes of the last ``RECENT`` seconds.
        pairs: A sample of the joined pairs.
        waiting: Number of predictions that wait for their true value.
        outliers: Of the champion's newest pairs, those far from all others.
        collection: The sensors, and what waits; None where readings are not collected, or the service does not answer.
    """

    at: float
    period: Period
    facts: Facts
    overview: Overview
    models: Models
    data: Data
    champion: Champion | None
    alerts: Sequence[Alert]
    rollups: Sequence[Rollup]
    recent: Sequence[Rollup]
    pairs: Sequence[Pair]
    waiting: int = 0
    outliers: Sequence[WindowPair] = ()
    collection: CollectionState | None = None

    @property
    def end(self) -> float:
        """End of the step that the reading lies in: axes end here, so that a figure without new data stays as it is."""
        return begin_of(self.at, self.period.step) + self.period.step

    @property
    def begin(self) -> float:
        """Begin of the period that ends there."""
        return self.end - self.period.seconds

    @property
    def comparison(self) -> ComparisonFinished | None:
        """The newest comparison; None before the first."""
        return self.models.comparison

    @property
    def best_possible(self) -> float | None:
        """Lowest RMSE that any model can reach; None if it is not known."""
        return self.models.best_possible

    @property
    def champions(self) -> Sequence[Champion]:
        """All champions, the newest first."""
        return self.models.champions

    @property
    def open_alerts(self) -> list[Alert]:
        """Open alerts, the most severe and then the newest first."""
        weight = {"critical": 0, "warning": 1}
        found = [alert for alert in self.alerts if alert.ended is None]
        return sorted(found, key=lambda alert: (weight.get(alert.severity, 2), -alert.began))

    @property
    def past_alerts(self) -> list[Alert]:
        """Alerts that ended in the period, the newest first."""
        return [alert for alert in self.alerts if alert.ended is not None and alert.ended >= self.begin]

    @property
    def compared(self) -> dict[str, Quality]:
        """The compared models, best first, and then the baselines, by name."""
        if self.comparison is None:
            return {}
        models = {f"{each.model} v{each.version}": each for each in self.comparison.results}
        return {**models, **{f"baseline {name}": each for name, each in self.comparison.baselines.items()}}

    @cached_property
    def errors(self) -> dict[Served, Curve[ErrorSums]]:
        """Errors over time by model and by who asked."""
        return series.errors_by_model(self.rollups, self.period.step)

    @cached_property
    def champion_errors(self) -> dict[Served, ErrorSums]:
        """The champion's errors of the period by who asked; those that say most about it in use come first."""
        if self.champion is None:
            return {}
        serving = self.overview.champion
        mine = (serving and serving.service) or CHAMPIONS_SERVICE, self.champion.model, self.champion.version
        found = {
            by: series.total(each.values(), ErrorSums)
            for by, each in self.errors.items()
            if by[:3] == mine and not by.shadow
        }
        places = list(ORIGIN_LABELS)
        return {
            by: found[by]
            for by in sorted(found, key=lambda by: places.index(by.origin) if by.origin in places else len(places))
        }

    @property
    def judged(self) -> Served | None:
        """The champion for the requests whose errors are judged: the first with enough pairs, else with most; None without any."""
        errors = self.champion_errors
        enough = (by for by, sums in errors.items() if sums.n >= MIN_LIVE_PAIRS)
        return next(enough, max(errors, key=lambda by: errors[by].n, default=None))

    @property
    def expected(self) -> Expected:
        """The champion's error in the comparison, by what decided there."""
        champion, comparison = self.champion, self.comparison
        if champion is None:
            return Expected()
        models = [each for each in self.compared.values() if isinstance(each, ComparedModel)]
        mine = next((each for each in models if (each.model, each.version) == (champion.model, champion.version)), None)
        if mine and mine.cv and comparison and comparison.ranked_by == "cross-validation":
            folds = comparison.cross_validation
            return Expected(mine.cv.rmse, folds.records if folds else 0, by_folds=True)
        return Expected(champion.rmse, champion.holdout or (comparison.holdout if comparison and mine else 0))

    @cached_property
    def groups(self) -> dict[str, ErrorSums]:
        """Errors of the period by group of records: the champion's, for the requests that are judged."""
        if self.judged is None:
            return {}
        found = series.errors_by_group(self.rollups, self.period.step, self.judged)
        return {group: series.total(curve.values(), ErrorSums) for group, curve in found.items()}

    @cached_property
    def latency(self) -> dict[str, Curve[LatencySums]]:
        """Answered requests over time by service."""
        return series.latency_by_service(self.rollups, self.period.step)

    def gauges(self, figure: str) -> dict[str, Curve[Gauge]]:
        """Return the readings of a figure over time, by column or service."""
        found = series.gauges(self.rollups, self.period.step, lambda each: each.name == figure)
        return {each.subject: curve for each, curve in found.items()}

    def per_second(self, count: Callable[[Sequence[Rollup]], int]) -> float:
        """Return the rate of something that is counted, over the last minutes."""
        if not self.recent:
            return 0.0
        return count(self.recent) / max(30.0, self.at - self.recent[0].at)

    def newest(self, name: str) -> float | None:
        """Return the newest reading of a figure of the whole system."""
        figure = Figure(name)
        return next((each.gauges[figure].last for each in reversed(self.recent) if figure in each.gauges), None)

    def awaiting(self, about: str, otherwise: str) -> str:
        """Return the message about something that is missing, or else a text of the page's own."""
        return next((message for message in self.overview.awaited if about in message), otherwise)


def take(monitor: Monitor, facts: Facts, period: Period, now: float) -> Reading:
    """Take a reading. Call this in the monitor's thread; the result can be read in any thread.

    Lists and dicts are copied, and the newest roll-ups as a whole. The sums in older ones are shared: a true value that comes late is
    in them or not, as it would be a moment later.
    """
    start, history = now - period.seconds, monitor.history
    if period.seconds > DAY:
        rollups = history.hours(begin_of(start, HOUR), now + HOUR)
    else:
        rollups = history.minutes(begin_of(start, MINUTE), now + MINUTE)
    pairs = list(history.samples(start, now + MINUTE))
    overview, models = views.overview(monitor), views.models(monitor)
    return Reading(
        at=now,
        period=period,
        facts=facts,
        overview=overview,
        models=models,
        data=views.data(monitor),
        champion=_champion(overview.champion, models),
        alerts=history.alerts(),
        rollups=_frozen(rollups),
        recent=_frozen(history.minutes(now - RECENT, now + MINUTE)),
        pairs=pairs[:: -(-len(pairs) // MAX_PAIRS) or 1],
        waiting=monitor.join.waiting,
        outliers=tuple(monitor.outliers),
        collection=monitor.flow.collection,
    )


def _champion(serving: ChampionView | None, models: Models) -> Champion | None:
    """Return the model that answers, with what is known of its comparison."""
    if serving is None:
        return None
    identity = (serving.model, serving.version)
    known = next((each for each in models.champions if (each.model, each.version) == identity), None)
    results = models.comparison.results if models.comparison else ()
    compared = next((each for each in results if (each.model, each.version) == identity), None)
    champion = known or Champion(model=serving.model, version=serving.version, at=serving.since or 0.0)
    return msgspec.structs.replace(
        champion,
        rmse=champion.rmse or serving.holdout_rmse or (compared.rmse if compared else None),
        framework=champion.framework or (compared.framework if compared else ""),
    )


def _frozen(rollups: list[Rollup]) -> list[Rollup]:
    settled = [
        Rollup(each.at, each.seconds, dict(each.errors), dict(each.latency), dict(each.failures), dict(each.gauges))
        for each in rollups[:-_GROWING]
    ]
    return settled + [copy.deepcopy(each) for each in rollups[-_GROWING:]]
