"""Counts of requests, kept as plain numbers and turned into Prometheus' series when somebody asks.

``prometheus_client``'s own counters take a lock and several calls a number: with seven numbers a request that was a tenth of its time.
These are changed by one thread only, the event loop's, which also answers ``/metrics``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RECORDS = (1, 2, 5, 10, 50, 100, 500, 1000, 5000, 10_000, 50_000, 100_000)


class _Distribution:
    """How many values fell between bounds, each bound belonging to what is below it, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_to(self, family: HistogramMetricFamily, route: str) -> None:
        names = [*map(floatToGoString, self.bounds), "+Inf"]
        family.add_metric([route], list(zip(names, accumulate(self.counts), strict=True)), self.total)


class RequestTallies(Collector):
    """How many requests were answered and with what, how long they took, and how many records they held.

    Attributes:
        in_progress: Requests under way.
    """

    def __init__(self) -> None:
        self.in_progress = 0
        self._answered: Counter[tuple[str, str, str, int]] = Counter()
        self._routes: dict[str, tuple[_Distribution, _Distribution]] = {}

    def add(self, route: str, model: str, version: str, status: int, seconds: float, records: int) -> None:
        """Takes an answered request; ``records`` is 0 where no predictions were asked for."""
        self._answered[route, model, version, status] += 1
        found = self._routes.get(route)
        if found is None:
            found = self._routes[route] = (_Distribution(_SECONDS), _Distribution(_RECORDS))
        found[0].add(seconds)
        if records:
            found[1].add(records)

    @override
    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "serving_requests", "Requests that were answered", labels=["route", "model", "version", "status"]
        )
        for (route, model, version, status), count in self._answered.items():
            requests.add_metric([route, model, version, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily("serving_request_seconds", "Time to the answer", labels=["route"])
        records = HistogramMetricFamily("serving_batch_records", "Records in a request for predictions", labels=["route"])
        for route, (times, sizes) in self._routes.items():
            times.add_to(seconds, route)
            sizes.add_to(records, route)
        yield seconds
        yield records
        yield GaugeMetricFamily("serving_requests_in_progress", "Requests under way", value=self.in_progress)
