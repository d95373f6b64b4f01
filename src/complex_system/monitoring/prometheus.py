"""The newest point in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAMED_FIRST = ("services", "performance")


def exposition(metrics: Mapping[str, float]) -> bytes:
    """Flat metrics as gauges ``monitoring_<group>_<figure>{name="..."}``.

    ``drift/psi/<feature>`` is ``monitoring_drift_psi{name="<feature>"}``, ``services/<service>/cpu_percent`` is
    ``monitoring_services_cpu_percent{name="<service>"}``; what belongs to nothing has an empty name.
    """
    registry = CollectorRegistry()
    registry.register(_Point(metrics))
    return generate_latest(registry)


class _Point(Collector):
    def __init__(self, metrics: Mapping[str, float]) -> None:
        self._metrics = metrics

    @override
    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, value in sorted(self._metrics.items()):
            figure, label = _split(name)
            family = families.get(figure)
            if family is None:
                family = families[figure] = GaugeMetricFamily(
                    figure, "Newest value that ml_monitoring measured", labels=["name"]
                )
            family.add_metric([label], value)
        yield from families.values()


def _split(name: str) -> tuple[str, str]:
    group, *rest = name.split("/", 2)
    if len(rest) == 2:
        first, second = rest
        figure, label = (second, first) if group in _NAMED_FIRST and first != "silent" else (first, second)
        if group == "performance" and first == "shadow":
            label, _, figure = second.rpartition("/")
            figure = f"shadow_{figure}"
    else:
        figure, label = "_".join(rest), ""
    return re.sub(r"\W", "_", f"monitoring_{group}_{figure}"), label
