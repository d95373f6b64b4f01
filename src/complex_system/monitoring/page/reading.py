"""The state of the system at one moment and its history over one period: taken in the event loop in milliseconds, read in threads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from complex_system.domain.dataset import Dataset
from complex_system.monitoring import views
from complex_system.monitoring.aggregates import HOUR, MINUTE, ErrorSums, Gauge, LatencySums, Rollup, Served, begin_of
from complex_system.monitoring.history import Pair
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.page import series
from complex_system.monitoring.page.series import Curve
from complex_system.protocol.operations import Alert
from complex_system.protocol.training import ComparisonFinished, Quality

M = TypeVar("M")

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
    """

    dataset: Dataset
    mlflow_url: str = ""
    version: str = ""

    @property
    def unit(self) -> str:
        """The target's unit for an axis; if none is declared, that the axis is in that unit."""
        return self.dataset.column(self.dataset.target).unit or "target's unit"


class ServiceReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a service, by its last heartbeat.

    Attributes:
        heartbeat_age: Seconds since that heartbeat.
    """

    state: str = ""
    detail: str = ""
    url: str = ""
    heartbeat_age: float = 0.0

    @property
    def runs(self) -> bool:
        """Whether the process is there, as far as is known."""
        return self.state not in ("stopped", "silent")


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A service: the worst state of its replicas, and sums over those that run."""

    service: str
    state: str = ""
    running: int = 0
    restarts: int = 0
    cpu_percent: float = 0.0
    memory_megabytes: float = 0.0
    replicas: tuple[ServiceReplica, ...] = ()


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """A model that became champion.

    Attributes:
        at: When, in seconds since 1970; None if unknown.
        rmse: At its comparison, in the target's unit; None if unknown.
        cause: Why it was trained; empty if unknown.
    """

    model: str
    version: str
    framework: str | None = None
    at: float | None = None
    rmse: float | None = None
    cause: str = ""

    @property
    def name(self) -> str:
        """Model and version."""
        return f"{self.model} v{self.version}"


class DriftTest(msgspec.Struct, frozen=True, kw_only=True):
    """A statistical test of live against reference values: ``ks`` with a p-value, or ``wasserstein`` with a distance."""

    name: str
    p_value: float = 1.0
    distance: float = 0.0


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True):
    """A column or feature of the live records against the reference (``drift.DataWindow.measure``).

    Attributes:
        type: ``number``, ``indicator`` or ``category``.
        missing: Share of missing values.
        edges: Of the bins of a number.
        categories: Bins of a category.
        reference: Shares of the reference by bin.
        live: Shares of the live records by bin.
        psi: Population stability index; None for too few values.
        out_of_range: Share of values outside of the declared range; None without a range.
        new_categories: Number of values that are not declared.
    """

    name: str
    unit: str = ""
    type: str = "number"
    missing: float = 0.0
    missing_reference: float = 0.0
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    reference: tuple[float, ...] = ()
    live: tuple[float, ...] = ()
    psi: float | None = None
    band: str = ""
    out_of_range: float | None = None
    new_categories: dict[str, int] = {}
    test: DriftTest | None = None


class ReferenceSize(msgspec.Struct, frozen=True, kw_only=True):
    """Where the reference comes from (``champion`` or ``database``), and its number of records."""

    source: str
    samples: int


class LiveData(msgspec.Struct, frozen=True, kw_only=True):
    """Live records against the reference, columns and features with the most drift first.

    Attributes:
        samples: Number of live records.
        rejected: Share and count of new raw records of the last five minutes, and rejections by reason.
        new_categories: Rejected values by column.
    """

    samples: int = 0
    reference: ReferenceSize | None = None
    raw: tuple[ColumnDrift, ...] = ()
    processed: tuple[ColumnDrift, ...] = ()
    rejected: dict[str, float] = {}
    new_categories: dict[str, float] = {}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A moment since when the error is different."""

    began: float


class _Serving(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    version: str
    since: float | None = None
    holdout_rmse: float | None = None


class _Overview(msgspec.Struct, frozen=True, kw_only=True):
    services: tuple[ServiceStatus, ...] = ()
    records: dict[str, float] = {}
    rates: dict[str, float] = {}
    champion: _Serving | None = None
    changes: tuple[Change, ...] = ()
    awaited: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """The present state and the history of a period.

    Attributes:
        services: The services by name.
        records: Number of ``raw``, ``processed``, ``labelled`` and ``rejected`` records; empty before the first count.
        rates: The same per second.
        champion: The model that answers now; None before the first.
        champions: All champions, the newest last.
        comparison: The newest comparison; None before the first.
        best_possible: Lowest RMSE that any model can reach; None if it is not known.
        alerts: Open and past alerts, the newest first.
        changes: When the error began to change.
        awaited: Messages about what is still missing.
        rollups: Of the period, oldest first: minutes up to a day, hours beyond.
        recent: The minutes of the last ``RECENT`` seconds.
        pairs: A sample of the joined pairs.
        waiting: Number of predictions that wait for their true value.
    """

    at: float
    period: Period
    facts: Facts
    services: Sequence[ServiceStatus]
    records: dict[str, float]
    rates: dict[str, float]
    champion: Champion | None
    champions: Sequence[Champion]
    comparison: ComparisonFinished | None
    best_possible: float | None
    data: LiveData
    alerts: Sequence[Alert]
    changes: Sequence[Change]
    awaited: Sequence[str]
    rollups: Sequence[Rollup]
    recent: Sequence[Rollup]
    pairs: Sequence[Pair]
    waiting: int = 0

    @property
    def end(self) -> float:
        """End of the step that the reading lies in: axes end here, so that a figure without new data stays as it is."""
        return begin_of(self.at, self.period.step) + self.period.step

    @property
    def begin(self) -> float:
        """Begin of the period that ends there."""
        return self.end - self.period.seconds

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
        """Errors over time by model."""
        return series.errors_by_model(self.rollups, self.period.step)

    @cached_property
    def latency(self) -> dict[str, Curve[LatencySums]]:
        """Answered requests over time by service."""
        return series.latency_by_service(self.rollups, self.period.step)

    def gauges(self, figure: str) -> dict[str, Curve[Gauge]]:
        """Return the readings of a figure over time by column or service, see :func:`series.gauges`."""
        return series.gauges(self.rollups, self.period.step, figure)

    def per_second(self, count: Callable[[Sequence[Rollup]], int]) -> float:
        """Return the rate of something that is counted, over the last minutes."""
        if not self.recent:
            return 0.0
        return count(self.recent) / max(30.0, self.at - self.recent[0].at)

    def newest(self, metric: str) -> float | None:
        """Return the newest reading of a gauge."""
        return next((each.gauges[metric].last for each in reversed(self.recent) if metric in each.gauges), None)

    def awaiting(self, about: str, otherwise: str) -> str:
        """Return the message about something that is missing, or else a text of the page's own."""
        return next((message for message in self.awaited if about in message), otherwise)


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
    every = -(-len(pairs) // MAX_PAIRS) or 1
    overview = msgspec.convert(views.overview(monitor), _Overview)
    models = views.models(monitor)
    comparison = next(_decoded([models["comparison"] or {}], ComparisonFinished), None)
    champions = list(_decoded(history.champions, Champion))
    return Reading(
        at=now,
        period=period,
        facts=facts,
        services=overview.services,
        records=overview.records,
        rates=overview.rates,
        champion=_champion(overview.champion, champions, comparison),
        champions=champions,
        comparison=comparison,
        best_possible=models["best_possible"],
        data=msgspec.convert(views.data(monitor), LiveData),
        alerts=list(_decoded(history.alerts(), Alert)),
        changes=overview.changes,
        awaited=overview.awaited,
        rollups=_frozen(rollups),
        recent=_frozen(history.minutes(now - RECENT, now + MINUTE)),
        pairs=pairs[::every],
        waiting=monitor.join.waiting,
    )


def _champion(
    serving: _Serving | None, champions: Sequence[Champion], comparison: ComparisonFinished | None
) -> Champion | None:
    """Return the model that answers, with what is known of its comparison."""
    if serving is None:
        return champions[-1] if champions else None
    same = [each for each in champions if (each.model, each.version) == (serving.model, serving.version)]
    results = comparison.results if comparison else ()
    compared = next((each for each in results if (each.model, each.version) == (serving.model, serving.version)), None)
    found = same[-1] if same else Champion(model=serving.model, version=serving.version, at=serving.since)
    return msgspec.structs.replace(
        found,
        rmse=found.rmse or serving.holdout_rmse or (compared.rmse if compared else None),
        framework=found.framework or (compared.framework if compared else None),
    )


def _decoded(bodies: Iterable[Any], kind: type[M]) -> Iterator[M]:
    """Yield what can be read; what another release wrote in another way is left out."""
    for body in bodies:
        try:
            yield msgspec.convert(body, kind)
        except msgspec.ValidationError:
            continue


def _frozen(rollups: list[Rollup]) -> list[Rollup]:
    settled = [
        Rollup(each.at, each.seconds, dict(each.errors), dict(each.latency), dict(each.failures), dict(each.gauges))
        for each in rollups[:-_GROWING]
    ]
    return settled + [copy.deepcopy(each) for each in rollups[-_GROWING:]]
