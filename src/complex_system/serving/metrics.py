"""Metrics of a serving process for Prometheus, and its failed requests for monitoring."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override

from complex_system.errors import ComplexSystemError, InternalError
from complex_system.pipeline.pipeline import OutsideRange
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.predictor import ModelInfo

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RECORDS = (1, 2, 5, 10, 50, 100, 500, 1000, 5000, 10_000, 50_000, 100_000)


class ServingMetrics:
    """All metrics of one application, in a registry of its own, so that several can live in one process."""

    def __init__(self, models: ModelManager, broker_connected: Callable[[], bool] | None = None) -> None:
        """Make the metrics.

        Args:
            models: What is loaded, and what was refused.
            broker_connected: Whether the broker is connected; None where there is none.
        """
        self.failures = FailureCounters()
        self.requests = RequestCounters()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_ModelMetrics(models))
        self.registry.register(self.requests)
        self.events_dropped = Counter(
            "serving_events_dropped",
            "Prediction events that were not sent: the broker is slow or away",
            registry=self.registry,
        )
        self.compared = Counter(
            "serving_compared_records",
            "Records that were compared with the champion's training data: those that ask for warnings, and a sample of the others",
            ["distance"],
            registry=self.registry,
        )
        self.shadowed = Counter(
            "serving_shadow_requests", "Requests that challengers scored too", ["model", "outcome"], registry=self.registry
        )
        if broker_connected is not None:
            gauge = Gauge("serving_broker_connected", "Whether the broker is connected", registry=self.registry)
            gauge.set_function(lambda: float(broker_connected()))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class OutsideCounters(Collector):
    """Values outside of their column's range that were predicted with all the same, by column and what became of them."""

    def __init__(self) -> None:
        self._counts: Counts[tuple[str, str]] = Counts()

    def add(self, found: Sequence[OutsideRange]) -> None:
        """Count those of one request."""
        for each in found:
            self._counts[each.column.name, each.column.outside] += each.count

    @override
    def collect(self) -> Iterator[Metric]:
        values = CounterMetricFamily(
            "serving_outside_range", "Values outside of the declared range that were taken", labels=["column", "outside"]
        )
        for labels, count in self._counts.items():
            values.add_metric(labels, count)
        yield values


class FailureCounters:
    """Failed requests for predictions by error code, for the event that tells monitoring."""

    def __init__(self) -> None:
        self._counts: Counts[str] = Counts()

    def count(self, code: str) -> None:
        """Count a failed request."""
        self._counts[code] += 1

    def take(self) -> dict[str, int]:
        """Return the counts by code since the last call."""
        counts, self._counts = dict(self._counts), Counts()
        return counts

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count an exception that passes, by its code; one that is not ours is an internal error."""
        try:
            yield
        except ComplexSystemError as error:
            self.count(error.code)
            raise
        except Exception:
            self.count(InternalError.code)
            raise


class RequestCounters(Collector):
    """Requests that were answered, with what, how long they took, and how many records they contained.

    Plain numbers that become Prometheus' series when they are read: ``prometheus_client``'s own counters take a lock and several
    calls a number, a tenth of a request's time. They are changed by the event loop's thread only, which also answers ``/metrics``.

    Attributes:
        in_progress: Open requests.
    """

    def __init__(self) -> None:
        self.in_progress = 0
        self._answered: Counts[tuple[str, str, str, int]] = Counts()
        self._routes: dict[str, tuple[_Histogram, _Histogram]] = {}

    def add(self, route: str, model: ModelInfo | None, status: int, seconds: float, records: int) -> None:
        """Count an answered request.

        Args:
            route: Template of its path, not the path: clients must not be able to make labels.
            model: What predicted, if anything did.
            status: Of the response.
            seconds: Until the response was made.
            records: How many predictions were asked for; 0 for other requests.
        """
        name, version = (model.name, model.version) if model else ("", "")
        self._answered[route, name, version, status] += 1
        found = self._routes.get(route)
        if found is None:
            found = self._routes[route] = (_Histogram(_SECONDS), _Histogram(_RECORDS))
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


class _Histogram:
    """Values between bounds, each bound belonging to what is below it, and their sum."""

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


class _ModelMetrics(Collector):
    """What is loaded, and what was refused, at the moment of reading."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    @override
    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily(
            "serving_model_loaded_timestamp_seconds",
            "When a model that is served was loaded",
            labels=["model", "version", "framework", "champion"],
        )
        refused = GaugeMetricFamily(
            "serving_model_refused",
            "1 for a version that is not served; /models says why",
            labels=["model", "version", "code"],
        )
        slots = self._models.slots()
        seen: set[tuple[str, str]] = set()
        for predictor in (slot.current for slot in slots if slot.current is not None):
            info = predictor.info
            if (info.name, info.version) not in seen:
                seen.add((info.name, info.version))
                labels = [info.name, info.version, info.framework, str(predictor is slots[0].current).lower()]
                loaded.add_metric(labels, datetime.fromisoformat(info.loaded_at).timestamp())
        for problem in sorted({(each.name, each.version, each.code) for slot in slots if (each := slot.problem)}):
            refused.add_metric(list(problem), 1)
        yield loaded
        yield refused
