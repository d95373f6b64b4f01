"""What Prometheus is told of a serving process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from complex_system.serving.failures import FailureCounts
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.predictor import ModelInfo
from complex_system.serving.tallies import RequestTallies

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServingMetrics:
    """Counters of one application, in a registry of their own, so that several can live in one process."""

    def __init__(self, models: ModelManager, broker_connected: Callable[[], bool] | None = None) -> None:
        """Makes the metrics.

        Args:
            models: What is loaded, and what was refused.
            broker_connected: Whether the broker is there; None where there is none.
        """
        self.failures = FailureCounts()
        """Failed requests for predictions, for the event that tells monitoring."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Models(models))
        self.requests = RequestTallies()
        self.registry.register(self.requests)
        self.events_dropped = Counter(
            "serving_events_dropped",
            "Prediction events that were not sent: the broker is slow or away",
            registry=self.registry,
        )
        self.shadowed = Counter(
            "serving_shadow_requests", "Requests that challengers scored too", ["model", "outcome"], registry=self.registry
        )
        if broker_connected is not None:
            gauge = Gauge("serving_broker_connected", "Whether the broker is connected", registry=self.registry)
            gauge.set_function(lambda: float(broker_connected()))

    def answered(self, route: str, model: ModelInfo | None, status: int, seconds: float, records: int) -> None:
        """Counts a request.

        Args:
            route: Template of its path, not the path: clients must not be able to make labels.
            model: What predicted, if anything did.
            status: Status of the answer.
            seconds: Until the answer was made.
            records: How many predictions were asked for; 0 for other requests.
        """
        name, version = (model.name, model.version) if model else ("", "")
        self.requests.add(route, name, version, status, seconds, records)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Models(Collector):
    """Read when it is asked for: what is loaded, and what was refused."""

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
        champion = self._models.champion
        seen: set[tuple[str, str]] = set()
        problems: set[tuple[str, str, str]] = set()
        for holder in self._models.holders():
            if holder.problem is not None:
                problems.add((holder.problem.name, holder.problem.version, holder.problem.code))
            if holder.current is None:
                continue
            info = holder.current.info
            if (info.name, info.version) not in seen:
                seen.add((info.name, info.version))
                labels = [info.name, info.version, info.framework, str(holder.current is champion.current).lower()]
                loaded.add_metric(labels, datetime.fromisoformat(info.loaded_at).timestamp())
        for problem in sorted(problems):
            refused.add_metric(list(problem), 1)
        yield loaded
        yield refused
