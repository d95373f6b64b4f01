"""Roll-ups: a minute or an hour of predictions in a few numbers, which merge into longer periods without loss.

Everything here is small, mergeable and JSON: two roll-ups of neighbouring times, or of one time from before and after a restart, merge
into what one roll-up of all would be (quantiles up to the width of a bucket). So a page that shows a month reads hours, and never a
prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MINUTE = 60
HOUR = 3600

BUCKET_RATIO = 1.1
"""Width of a latency bucket: a quantile is right to 5 %."""


@dataclass(slots=True)
class ErrorSums:
    """Errors of joined predictions, error = prediction - truth, as sums; from them RMSE, MAE, bias and R2.

    Attributes:
        n: Joined pairs.
        error: Sum of the errors, in the target's unit.
        absolute: Sum of their absolute values.
        squared: Sum of their squares.
        truth_mean: Mean truth.
        truth_spread: Sum of squared differences from the mean truth.
        lowest: Smallest error.
        highest: Largest error.
    """

    n: int = 0
    error: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    truth_mean: float = 0.0
    truth_spread: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    def add(self, truth: float, prediction: float) -> None:
        """Takes a pair of finite numbers."""
        error = prediction - truth
        self.merge(ErrorSums(1, error, abs(error), error * error, truth, 0.0, error, error))

    def merge(self, other: ErrorSums) -> None:
        """Takes the pairs of another.

        Mean and spread of the truth merge by Chan, Golub and LeVeque (1979), which loses no digits where the mean is large.
        """
        if not other.n:
            return
        n = self.n + other.n
        apart = other.truth_mean - self.truth_mean
        self.truth_spread += other.truth_spread + apart * apart * self.n * other.n / n
        self.truth_mean += apart * other.n / n
        self.n = n
        self.error += other.error
        self.absolute += other.absolute
        self.squared += other.squared
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)

    def metrics(self) -> dict[str, float]:
        """``rmse``, ``mae``, ``bias``, ``r2`` and ``count``; only ``count`` while it is 0. R2 needs two different truths."""
        if not self.n:
            return {"count": 0.0}
        r2 = {"r2": 1.0 - self.squared / self.truth_spread} if self.truth_spread > 0 else {}
        return {
            "rmse": math.sqrt(self.squared / self.n),
            "mae": self.absolute / self.n,
            "bias": self.error / self.n,
            **r2,
            "count": float(self.n),
        }

    def as_list(self) -> list[float]:
        """The fields in their order; only where ``n`` is positive, for JSON has no infinity."""
        return [
            self.n,
            self.error,
            self.absolute,
            self.squared,
            self.truth_mean,
            self.truth_spread,
            self.lowest,
            self.highest,
        ]

    @classmethod
    def parse(cls, values: list[float]) -> ErrorSums:
        """Reads what :meth:`as_list` made."""
        return cls(int(values[0]), *(float(value) for value in values[1:]))


@dataclass(slots=True)
class LatencySums:
    """Times of answered requests, in milliseconds, as counts of buckets that grow by ``BUCKET_RATIO``.

    Attributes:
        requests: Answered requests.
        predictions: Predictions in them.
        total: Sum of the times.
        buckets: Requests by bucket; bucket b holds times in (ratio^(b-1), ratio^b].
    """

    requests: int = 0
    predictions: int = 0
    total: float = 0.0
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, milliseconds: float, predictions: int) -> None:
        """Takes an answered request."""
        bucket = math.ceil(math.log(min(max(milliseconds, 1e-3), 1e7)) / math.log(BUCKET_RATIO))
        self.requests += 1
        self.predictions += predictions
        self.total += milliseconds
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: LatencySums) -> None:
        """Takes the requests of another."""
        self.requests += other.requests
        self.predictions += other.predictions
        self.total += other.total
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def quantile(self, share: float) -> float:
        """The time within which ``share`` of the requests were answered: the middle (geometric) of its bucket."""
        wanted, seen = share * self.requests, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return float(BUCKET_RATIO ** (bucket - 0.5))
        return 0.0

    def metrics(self) -> dict[str, float]:
        """``latency_ms_mean``, ``_p50``, ``_p95``, ``_p99``, ``requests`` and ``predictions``; the counts alone without a request."""
        counts = {"requests": float(self.requests), "predictions": float(self.predictions)}
        if not self.requests:
            return counts
        quantiles = {f"latency_ms_p{round(share * 100)}": self.quantile(share) for share in (0.5, 0.95, 0.99)}
        return {"latency_ms_mean": self.total / self.requests, **quantiles, **counts}

    def as_list(self) -> list[Any]:
        """It as JSON."""
        return [self.requests, self.predictions, self.total, [[bucket, n] for bucket, n in sorted(self.buckets.items())]]

    @classmethod
    def parse(cls, values: list[Any]) -> LatencySums:
        """Reads what :meth:`as_list` made."""
        return cls(int(values[0]), int(values[1]), float(values[2]), {int(bucket): int(n) for bucket, n in values[3]})


@dataclass(slots=True)
class Gauge:
    """A figure that was read now and then: CPU, a drift index, a record count."""

    n: int = 0
    total: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    last: float = 0.0

    def add(self, value: float) -> None:
        """Takes a finite reading."""
        self.merge(Gauge(1, value, value, value, value))

    def merge(self, later: Gauge) -> None:
        """Takes the readings of another, which are later than those at hand."""
        if not later.n:
            return
        self.n += later.n
        self.total += later.total
        self.lowest = min(self.lowest, later.lowest)
        self.highest = max(self.highest, later.highest)
        self.last = later.last

    @property
    def mean(self) -> float:
        """Mean reading; 0 without one."""
        return self.total / self.n if self.n else 0.0


class Served(NamedTuple):
    """One version of a model in one service; ``shadow`` where it only scored along and answered nobody."""

    service: str
    model: str
    version: str
    shadow: bool = False

    @property
    def label(self) -> str:
        """For a legend."""
        return f"{self.model} v{self.version}" + (" (shadow)" if self.shadow else "")

    def as_dict(self) -> dict[str, Any]:
        """Its parts and its label by name."""
        return {**self._asdict(), "label": self.label}


class Series(NamedTuple):
    """Whose errors: a served model, and a group of records such as ``material_id=00000000``, or '' for all."""

    served: Served
    group: str = ""


@dataclass(slots=True)
class Rollup:
    """What happened in ``[at, at + seconds)``.

    Attributes:
        at: Begin, seconds since 1970 (UTC), a multiple of ``seconds``.
        seconds: 60 or 3600.
        errors: Of pairs whose prediction was made in that time, whenever its truth came.
        latency: Of requests that were answered in that time.
        failures: Requests that failed, by service and stable error code.
        gauges: Readings by metric name, e.g. ``system/cpu_utilization_percentage``.
    """

    at: float
    seconds: int = MINUTE
    errors: dict[Series, ErrorSums] = field(default_factory=dict)
    latency: dict[Served, LatencySums] = field(default_factory=dict)
    failures: dict[tuple[str, str], int] = field(default_factory=dict)
    gauges: dict[str, Gauge] = field(default_factory=dict)

    def joined(self, served: Served, group: str, truth: float, prediction: float) -> None:
        """Takes a pair; it counts for its group and for all."""
        for name in {"", group}:
            self.errors.setdefault(Series(served, name), ErrorSums()).add(truth, prediction)

    def answered(self, served: Served, milliseconds: float, predictions: int) -> None:
        """Takes an answered request."""
        self.latency.setdefault(served, LatencySums()).add(milliseconds, predictions)

    def failed(self, service: str, code: str, count: int) -> None:
        """Takes failed requests."""
        self.failures[service, code] = self.failures.get((service, code), 0) + count

    def read(self, metrics: Mapping[str, float]) -> None:
        """Takes a point of metrics; what is not finite is left out."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self.gauges.setdefault(name, Gauge()).add(float(value))

    def merge(self, later: Rollup) -> None:
        """Takes the content of another one, later or of the same time; ``at`` and ``seconds`` stay."""
        for series, sums in later.errors.items():
            self.errors.setdefault(series, ErrorSums()).merge(sums)
        for served, latency in later.latency.items():
            self.latency.setdefault(served, LatencySums()).merge(latency)
        for (service, code), count in later.failures.items():
            self.failed(service, code, count)
        for name, gauge in later.gauges.items():
            self.gauges.setdefault(name, Gauge()).merge(gauge)

    def as_dict(self) -> dict[str, Any]:
        """It as the body of a document."""
        return {
            "seconds": self.seconds,
            "errors": [[*series.served, series.group, sums.as_list()] for series, sums in self.errors.items() if sums.n],
            "latency": [[*served, latency.as_list()] for served, latency in self.latency.items()],
            "failures": [[service, code, count] for (service, code), count in self.failures.items()],
            "gauges": {name: [g.n, g.total, g.lowest, g.highest, g.last] for name, g in self.gauges.items() if g.n},
        }

    @classmethod
    def parse(cls, at: float, body: Mapping[str, Any]) -> Rollup:
        """Reads what :meth:`as_dict` made."""
        rollup = cls(at, int(body["seconds"]))
        for *served, group, sums in body["errors"]:
            rollup.errors[Series(_served(served), str(group))] = ErrorSums.parse(sums)
        for *served, latency in body["latency"]:
            rollup.latency[_served(served)] = LatencySums.parse(latency)
        for service, code, count in body["failures"]:
            rollup.failures[str(service), str(code)] = int(count)
        for name, (n, *others) in body["gauges"].items():
            rollup.gauges[str(name)] = Gauge(int(n), *(float(value) for value in others))
        return rollup


def merged(rollups: Iterable[Rollup], at: float, seconds: int) -> Rollup:
    """One roll-up of several, given from the earliest to the latest."""
    whole = Rollup(at, seconds)
    for rollup in rollups:
        whole.merge(rollup)
    return whole


def begin_of(at: float, seconds: int) -> float:
    """The begin of the period that a time lies in."""
    return float(math.floor(at / seconds) * seconds)


def _served(values: list[Any]) -> Served:
    service, model, version, shadow = values
    return Served(str(service), str(model), str(version), bool(shadow))
