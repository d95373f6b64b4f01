"""The machine and the services on it: CPU, memory, latency, throughput, failed requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.aggregates import Gauge, LatencySums, begin_of
from complex_system.monitoring.page import series
from complex_system.monitoring.page.components import View, Viewer, card, empty, figures, plot, table
from complex_system.monitoring.page.figures import Figure, curve, figure, plain, waiting
from complex_system.monitoring.page.formatting import count, megabytes, number, rate, share
from complex_system.monitoring.page.reading import Reading

OUTPUTS = (
    ("system-figures", "children"),
    ("system-cpu", "figure"),
    ("system-memory", "figure"),
    ("system-latency", "figure"),
    ("system-throughput", "figure"),
    ("system-service-cpu", "figure"),
    ("system-service-memory", "figure"),
    ("system-failures", "children"),
)
CPU = "system/cpu_utilization_percentage"
MEMORY = "system/system_memory_usage_percentage"
MOST_CURVES = 6
PART = 10
"""Seconds in which the length of a step that is not over is counted."""
CHAMPIONS = "ml_serving_mlflow"
"""The service whose latency has its quantiles drawn; of others the p95."""


def skeleton() -> Component:
    """The parts, empty."""
    return html.Div(
        [
            html.Section(html.Div(id="system-figures"), className="card slim"),
            html.Div(
                [
                    card("Latency of predictions", plot("system-latency", "p50, p95 and p99 of answered requests", 280)),
                    card("Throughput", plot("system-throughput", "Predictions a second by service", 280)),
                    card("CPU of the host", plot("system-cpu", "CPU use of the host over time", 240)),
                    card("Memory of the host", plot("system-memory", "Memory use of the host over time", 240)),
                    card("CPU by service", plot("system-service-cpu", "CPU use by service over time", 340),
                         note="100 % is one core. The busiest services of the period."),
                    card("Memory by service", plot("system-service-memory", "Memory by service over time", 340),
                         note="Resident memory. The largest services of the period."),
                ],
                className="columns",
            ),
            card("Failed requests", html.Div(id="system-failures")),
        ]
    )  # fmt: skip


def fill(reading: Reading, viewer: Viewer) -> list[Any]:
    """The values of ``OUTPUTS``."""
    latency = series.latency_by_service(reading)
    return [
        _figures(reading, latency),
        _gauge(reading, viewer, {CPU: "CPU"}, "CPU use (% of all cores)", "cpu", [0, 100]),
        _gauge(reading, viewer, {MEMORY: "memory"}, "memory in use (%)", "memory", [0, 100]),
        _latency(reading, viewer, latency),
        _throughput(reading, viewer, latency),
        _services(reading, viewer, "cpu_percent", "CPU use (% of a core)", 1.0),
        _services(reading, viewer, "memory_megabytes", "memory (MB)", 1.0),
        _failures(reading),
    ]


def _figures(reading: Reading, latency: dict[str, series.Curve[LatencySums]]) -> Component:
    whole = LatencySums()
    for each in latency.values():
        whole.merge(series.total(each, LatencySums))
    metrics = whole.metrics()
    failed = sum(series.failures(reading).values())
    requests = int(metrics["requests"])
    disk = series.newest(reading, "system/disk_usage_percentage")
    used = series.newest(reading, "system/system_memory_usage_megabytes")
    return figures(
        ("CPU now", _percent(series.newest(reading, CPU))),
        ("Memory now", _percent(series.newest(reading, MEMORY)) + (f" ({megabytes(used)})" if used is not None else "")),
        ("Disk", _percent(disk)),
        (f"Requests, {reading.period.label}", count(requests)),
        ("p50 / p95 / p99", " / ".join(number(metrics.get(f"latency_ms_p{q}"), 1) for q in (50, 95, 99)) + " ms"
         if requests else "–"),
        ("Failed", f"{count(failed)} ({share(failed / max(1, failed + requests))})" if failed else "0"),
        ("Predictions now", rate(series.predictions_per_second(reading))),
    )  # fmt: skip


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


def _time(viewer: Viewer, reading: Reading) -> Figure:
    span = [viewer.clock.axis(reading.begin), viewer.clock.axis(reading.end)]
    return {"type": "date", "range": span, "title": {"text": f"time ({plain(viewer.clock.name)})"}}


def _gauge(
    reading: Reading, viewer: Viewer, names: dict[str, str], title: str, keep: str, span: list[float] | None = None
) -> Figure:
    found = series.gauges(reading, names.get)
    if not found:
        return waiting(viewer.theme, "Waiting for the first reading of the host.")
    traces = []
    for i, name in enumerate(found):
        times = sorted(found[name])
        x = [viewer.clock.axis(at) for at in times]
        highest = [round(found[name][at].highest, 2) for at in times]
        traces.append(curve(viewer.theme, i, f"{name}, mean", x, [round(found[name][at].mean, 2) for at in times], "%"))
        if reading.period.step > 60:
            more = {"line": {"width": 1, "dash": "dot"}, "opacity": 0.7}
            traces.append(curve(viewer.theme, i, f"{name}, highest", x, highest, "%", **more))
    y = {"title": {"text": title}, **({"range": span} if span else {"rangemode": "tozero"})}
    return figure(viewer.theme, traces, _time(viewer, reading), y, keep=f"{keep}-{reading.period.key}", showlegend=True)


def _latency(reading: Reading, viewer: Viewer, latency: dict[str, series.Curve[LatencySums]]) -> Figure:
    if not latency:
        return waiting(viewer.theme, "Waiting for the first answered request for a prediction.")
    main = CHAMPIONS if CHAMPIONS in latency else sorted(latency)[0]
    times = sorted(latency[main])
    x = [viewer.clock.axis(at) for at in times]
    traces = []
    for i, percent in enumerate((50, 95, 99)):
        values = [round(latency[main][at].quantile(percent / 100), 3) for at in times]
        traces.append(curve(viewer.theme, i, f"{main} p{percent}", x, values, "ms"))
    for i, service in enumerate(sorted(set(latency) - {main}), start=3):
        times = sorted(latency[service])
        values = [round(latency[service][at].quantile(0.95), 3) for at in times]
        traces.append(curve(viewer.theme, i, f"{service} p95", [viewer.clock.axis(at) for at in times], values, "ms"))
    y = {"title": {"text": "time to the answer (ms)"}, "rangemode": "tozero"}
    return figure(viewer.theme, traces, _time(viewer, reading), y, keep=f"latency-{reading.period.key}", showlegend=True)


def _throughput(reading: Reading, viewer: Viewer, latency: dict[str, series.Curve[LatencySums]]) -> Figure:
    if not latency:
        return waiting(viewer.theme, "Waiting for the first answered request for a prediction.")
    step = reading.period.step
    traces = []
    for i, service in enumerate(sorted(latency)):
        times = sorted(latency[service])
        # The newest step is not over: a rate over its whole length would be too low.
        whole = [min(step, begin_of(reading.at - at, PART) + PART) for at in times]
        values = [round(latency[service][at].predictions / s, 3) for at, s in zip(times, whole, strict=True)]
        traces.append(curve(viewer.theme, i, service, [viewer.clock.axis(at) for at in times], values, "/s"))
    y = {"title": {"text": "predictions (1/s)"}, "rangemode": "tozero"}
    return figure(viewer.theme, traces, _time(viewer, reading), y, keep=f"throughput-{reading.period.key}", showlegend=True)


def _services(reading: Reading, viewer: Viewer, ending: str, title: str, factor: float) -> Figure:
    found = series.gauges(reading, _of_service(ending))
    if not found:
        return waiting(viewer.theme, "Waiting for the first heartbeats of the services.")
    mean = {name: series.total(found[name], Gauge).mean for name in found}
    traces = []
    for i, name in enumerate(sorted(found, key=lambda each: -mean[each])[:MOST_CURVES]):
        times = sorted(found[name])
        values = [round(found[name][at].mean * factor, 2) for at in times]
        traces.append(curve(viewer.theme, i, name, [viewer.clock.axis(at) for at in times], values))
    y = {"title": {"text": title}, "rangemode": "tozero"}
    return figure(viewer.theme, traces, _time(viewer, reading), y, keep=f"{ending}-{reading.period.key}", showlegend=True)


def _of_service(ending: str) -> Callable[[str], str | None]:
    def wanted(metric: str) -> str | None:
        first, _, rest = metric.partition("/")
        name, _, last = rest.partition("/")
        return name if first == "services" and last == ending else None

    return wanted


def _failures(reading: Reading) -> Component:
    found = series.failures(reading)
    if not found:
        return empty(f"No request for a prediction failed within {reading.period.label}.")
    rows = [[service, html.Code(code), count(n)] for (service, code), n in list(found.items())[:30]]
    return table(("Service", "Error", "Requests"), rows, numbers=(2,))


VIEW = View("/system", "System", OUTPUTS, skeleton, fill)
