"""Roll-ups: a minute or an hour of predictions in a few numbers, which merge into longer periods without loss.

Everything here is small and mergeable: two roll-ups of neighbouring times, or of one time from before and after a restart, merge into
what one roll-up of all would be (quantiles up to the width of a bucket). So a view of a month reads hours, and never a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from complex_system.monitoring.points import Figure, Figures
from complex_system.protocol.base import to_wire

MINUTE = 60
HOUR = 3600

BUCKET_RATIO = 1.1
"""Width of a latency bucket: a quantile is right to 5 %."""
LATENCY_QUANTILES = (0.5, 0.95, 0.99)


class ErrorSums(msgspec.Struct, array_like=True):
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
        """Add a pair of finite numbers."""
        error = prediction - truth
        self.merge(ErrorSums(1, error, abs(error), error * error, truth, 0.0, error, error))

    def merge(self, other: ErrorSums) -> None:
        """Add the pairs of another.

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
        """Return ``rmse``, ``mae``, ``bias``, ``r2`` and ``count``; only ``count`` while it is 0. R2 needs two different truths."""
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


class LatencySums(msgspec.Struct, array_like=True):
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
    buckets: dict[int, int] = {}

    def add(self, milliseconds: float, predictions: int) -> None:
        """Add an answered request."""
        bucket = math.ceil(math.log(min(max(milliseconds, 1e-3), 1e7)) / math.log(BUCKET_RATIO))
        self.merge(LatencySums(1, predictions, milliseconds, {bucket: 1}))

    def merge(self, other: LatencySums) -> None:
        """Add the requests of another."""
        self.requests += other.requests
        self.predictions += other.predictions
        self.total += other.total
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def quantile(self, share: float) -> float:
        """Return the time within which ``share`` of the requests were answered: the middle (geometric) of its bucket."""
        wanted, seen = share * self.requests, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return float(BUCKET_RATIO ** (bucket - 0.5))
        return 0.0

    def metrics(self) -> dict[str, float]:
        """Return :func:`latency_metrics`, ``requests`` and ``predictions``; the counts alone without a request."""
        counts = {"requests": float(self.requests), "predictions": float(self.predictions)}
        if not self.requests:
            return counts
        return {**latency_metrics(self.total / self.requests, map(self.quantile, LATENCY_QUANTILES)), **counts}


def latency_metrics(mean: float, quantiles: Iterable[float]) -> dict[str, float]:
    """Return milliseconds by name: ``latency_ms_mean``, ``latency_ms_p50``, ``_p95``, ``_p99``."""
    named = zip(LATENCY_QUANTILES, quantiles, strict=True)
    return {"latency_ms_mean": mean, **{f"latency_ms_p{round(share * 100)}": value for share, value in named}}


class Gauge(msgspec.Struct, array_like=True):
    """Readings of a figure: CPU, a drift index, a record count."""

    n: int = 0
    total: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    last: float = 0.0

    def add(self, value: float) -> None:
        """Add a finite reading."""
        self.merge(Gauge(1, value, value, value, value))

    def merge(self, later: Gauge) -> None:
        """Add the readings of another, which are later than those at hand."""
        if not later.n:
            return
        self.n += later.n
        self.total += later.total
        if later.lowest < self.lowest:  # noqa: PLR1730 - a view of a day merges 70,000 gauges, and calls cost most of it
            self.lowest = later.lowest
        if later.highest > self.highest:  # noqa: PLR1730
            self.highest = later.highest
        self.last = later.last

    @property
    def mean(self) -> float:
        """Mean reading; 0 without one."""
        return self.total / self.n if self.n else 0.0


class Served(NamedTuple):
    """One version of a model in one service, for requests of one origin.

    ``shadow`` where it predicts the same requests and answers nobody; ``origin`` as :data:`complex_system.protocol.serving.Origin`,
    empty where it does not matter, or where an earlier release did not record it.
    """

    service: str
    model: str
    version: str
    shadow: bool = False
    origin: str = ""

    @property
    def label(self) -> str:
        """For a legend."""
        return f"{self.model} v{self.version}" + (" (shadow)" if self.shadow else "")

    @property
    def whole(self) -> Served:
        """The same version whoever asks."""
        return self._replace(origin="")


class Series(NamedTuple):
    """A served model, and a group of records such as ``material_id=00000000``, or '' for all."""

    served: Served
    group: str = ""


class _Errors(NamedTuple):
    service: str
    model: str
    version: str
    shadow: bool
    group: str
    sums: ErrorSums
    origin: str = ""


class _Latency(NamedTuple):
    service: str
    model: str
    version: str
    shadow: bool
    sums: tuple[int, int, float, list[tuple[int, int]]]
    origin: str = ""


class _Document(msgspec.Struct):
    """A roll-up as the body of a document; those of earlier releases have no origins."""

    seconds: int
    errors: list[_Errors]
    latency: list[_Latency]
    failures: list[tuple[str, str, int]]
    gauges: dict[str, Gauge]


class Rollup(msgspec.Struct):
    """Counts and sums of everything in ``[at, at + seconds)``.

    Attributes:
        at: Begin, seconds since 1970 (UTC), a multiple of ``seconds``.
        seconds: 60 or 3600.
        errors: Of pairs whose prediction was made in that time, whenever its truth came.
        latency: Of requests that were answered in that time.
        failures: Requests that failed, by service and stable error code.
        gauges: Readings by figure.
    """

    at: float
    seconds: int = MINUTE
    errors: dict[Series, ErrorSums] = {}
    latency: dict[Served, LatencySums] = {}
    failures: dict[tuple[str, str], int] = {}
    gauges: dict[Figure, Gauge] = {}

    def joined(self, served: Served, group: str, truth: float, prediction: float) -> None:
        """Add a pair; it counts for its group and for all."""
        for name in {"", group}:
            self.errors.setdefault(Series(served, name), ErrorSums()).add(truth, prediction)

    def answered(self, served: Served, milliseconds: float, predictions: int) -> None:
        """Add an answered request."""
        self.latency.setdefault(served, LatencySums()).add(milliseconds, predictions)

    def failed(self, service: str, code: str, count: int) -> None:
        """Add failed requests."""
        self.failures[service, code] = self.failures.get((service, code), 0) + count

    def read(self, figures: Figures) -> None:
        """Add the figures of a moment, those that are finite."""
        for figure, number in figures.finite().items():
            self.gauges.setdefault(figure, Gauge()).add(number)

    def merge(self, later: Rollup) -> None:
        """Add the content of another one, later or of the same time; ``at`` and ``seconds`` stay."""
        for series, sums in later.errors.items():
            self.errors.setdefault(series, ErrorSums()).merge(sums)
        for served, latency in later.latency.items():
            self.latency.setdefault(served, LatencySums()).merge(latency)
        for (service, code), count in later.failures.items():
            self.failed(service, code, count)
        for figure, gauge in later.gauges.items():
            self.gauges.setdefault(figure, Gauge()).merge(gauge)

    def to_document(self) -> Any:
        """Return the body of its document."""
        body = _Document(
            seconds=self.seconds,
            errors=[_Errors(*by[:4], group, sums, by.origin) for (by, group), sums in self.errors.items() if sums.n],
            latency=[
                _Latency(*by[:4], (sums.requests, sums.predictions, sums.total, sorted(sums.buckets.items())), by.origin)
                for by, sums in self.latency.items()
            ],
            failures=[(*key, count) for key, count in self.failures.items()],
            gauges={figure.flat: gauge for figure, gauge in self.gauges.items() if gauge.n},
        )
        return to_wire(body)

    @classmethod
    def of_document(cls, at: float, body: object) -> Rollup:
        """Read what :meth:`to_document` made.

        Raises:
            msgspec.ValidationError: It is something else.
        """
        read = msgspec.convert(body, _Document)
        rollup = cls(at, read.seconds, gauges={Figure.parse(name): gauge for name, gauge in read.gauges.items()})
        for service, model, version, shadow, group, errors, origin in read.errors:
            rollup.errors[Series(Served(service, model, version, shadow, origin), group)] = errors
        for service, model, version, shadow, (requests, predictions, total, buckets), origin in read.latency:
            by = Served(service, model, version, shadow, origin)
            rollup.latency[by] = LatencySums(requests, predictions, total, dict(buckets))
        for service, code, count in read.failures:
            rollup.failures[service, code] = count
        return rollup


def merged(rollups: Iterable[Rollup], at: float, seconds: int) -> Rollup:
    """Return one roll-up of several, given from the earliest to the latest."""
    whole = Rollup(at, seconds)
    for rollup in rollups:
        whole.merge(rollup)
    return whole


def begin_of(at: float, seconds: int) -> float:
    """Return the begin of the period that a time lies in."""
    return float(math.floor(at / seconds) * seconds)
