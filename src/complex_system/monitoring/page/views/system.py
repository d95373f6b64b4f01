"""The host and the services on it: CPU, memory, latency, throughput, failed requests."""

from __future__ import annotations

from functools import partial

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring import series
from complex_system.monitoring.aggregates import Gauge, LatencySums, begin_of
from complex_system.monitoring.page.components import Parts, View, card, columns, empty, figures, plot, table
from complex_system.monitoring.page.formatting import Viewer, count, megabytes, number, rate, share
from complex_system.monitoring.page.plots import Figure, curve, curves, over_time, titled, waiting
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.summaries import failed_requests

CPU = "system/cpu_utilization_percentage"
MEMORY = "system/system_memory_usage_percentage"
PARTIAL_STEP = 10
"""Seconds by which the length of a step that is not over is rounded up."""
CHAMPION_SERVICE = "ml_serving_mlflow"
"""The service of which all quantiles of the latency are drawn; of others only the p95."""
_NO_REQUEST = "Waiting for the first answered request for a prediction."


def skeleton() -> Component:
    """Return the view without content."""
    return html.Div(
        [
            html.Section(html.Div(id="system-figures"), className="card slim"),
            columns(
                card("Latency of predictions", plot("system-latency", "p50, p95 and p99 of answered requests", 280)),
                card("Throughput", plot("system-throughput", "Predictions per second by service", 280)),
                card("CPU of the host", plot("system-cpu", "CPU use of the host over time", 240)),
                card("Memory of the host", plot("system-memory", "Memory use of the host over time", 240)),
                card("CPU by service", plot("system-service-cpu", "CPU use by service over time", 340),
                     note="100 % is one core. The services with the highest CPU use of the period."),
                card("Memory by service", plot("system-service-memory", "Memory by service over time", 340),
                     note="Resident memory. The services with the highest memory use of the period."),
            ),
            card("Failed requests", html.Div(id="system-failures")),
        ]
    )  # fmt: skip


def _figures(reading: Reading, _: Viewer) -> Component:
    whole = series.total((sums for each in reading.latency.values() for sums in each.values()), LatencySums)
    metrics = whole.metrics()
    failed = sum(series.failed_requests(reading.rollups).values())
    used = reading.newest("system/system_memory_usage_megabytes")
    quantiles = " / ".join(number(metrics.get(f"latency_ms_p{q}"), 1) for q in (50, 95, 99))
    return figures(
        ("CPU now", _percent(reading.newest(CPU))),
        ("Memory now", _percent(reading.newest(MEMORY)) + (f" ({megabytes(used)})" if used is not None else "")),
        ("Disk", _percent(reading.newest("system/disk_usage_percentage"))),
        (f"Requests, {reading.period.label}", count(whole.requests)),
        ("p50 / p95 / p99", f"{quantiles} ms" if whole.requests else "–"),
        ("Failed", f"{count(failed)} ({share(failed / (failed + whole.requests))})" if failed else "0"),
        ("Predictions now", rate(reading.per_second(series.predictions))),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


def _host(reading: Reading, viewer: Viewer, figure: str, name: str, title: str) -> Figure:
    found = reading.gauges(figure).get("")
    if not found:
        return waiting(viewer, "Waiting for the first reading of the host.")
    step = reading.period.step
    traces = [curve(viewer, 0, f"{name}, mean", series.points(found, step, lambda gauge: gauge.mean), "%")]
    if step > 60:
        highest = series.points(found, step, lambda gauge: gauge.highest)
        traces.append(curve(viewer, 0, f"{name}, highest", highest, "%", line={"width": 1, "dash": "dot"}, opacity=0.7))
    return over_time(viewer, reading, traces, titled(title, range=[0, 100]), keep=name)


def _latency(reading: Reading, viewer: Viewer) -> Figure:
    if not reading.latency:
        return waiting(viewer, _NO_REQUEST)
    main = CHAMPION_SERVICE if CHAMPION_SERVICE in reading.latency else next(iter(reading.latency))
    shown = [(main, 50), (main, 95), (main, 99), *((name, 95) for name in reading.latency if name != main)]
    traces = []
    for i, (service, percent) in enumerate(shown):
        values = series.points(
            reading.latency[service], reading.period.step, partial(LatencySums.quantile, share=percent / 100)
        )
        traces.append(curve(viewer, i, f"{service} p{percent}", values, "ms"))
    return over_time(viewer, reading, traces, titled("time to the answer (ms)"), keep="latency")


def _throughput(reading: Reading, viewer: Viewer) -> Figure:
    if not reading.latency:
        return waiting(viewer, _NO_REQUEST)
    step = reading.period.step
    traces = []
    for i, (service, each) in enumerate(reading.latency.items()):
        # The newest step is not over: its predictions divided by its whole length would be too few.
        values = [
            (at, None if n is None else round(n / min(step, begin_of(reading.at - at, PARTIAL_STEP) + PARTIAL_STEP), 3))
            for at, n in series.points(each, step, lambda sums: sums.predictions)
        ]
        traces.append(curve(viewer, i, service, values, "/s"))
    return over_time(viewer, reading, traces, titled("predictions (1/s)"), keep="throughput")


def _services(reading: Reading, viewer: Viewer, figure: str, title: str) -> Figure:
    found = reading.gauges(figure)
    if not found:
        return waiting(viewer, "Waiting for the first heartbeats of the services.")
    highest = sorted(found, key=lambda name: -series.total(found[name].values(), Gauge).mean)
    traces = curves(viewer, reading, {name: found[name] for name in highest}, lambda gauge: gauge.mean)
    return over_time(viewer, reading, traces, titled(title), keep=figure)


def _failures(reading: Reading, _: Viewer) -> Component:
    failed = failed_requests(reading)
    return table(failed) if failed.rows else empty(f"No requests for predictions failed in the last {reading.period.label}.")


PARTS: Parts = {
    "system-figures": ("children", _figures),
    "system-cpu": ("figure", partial(_host, figure=CPU, name="CPU", title="CPU use (% of all cores)")),
    "system-memory": ("figure", partial(_host, figure=MEMORY, name="memory", title="memory in use (%)")),
    "system-latency": ("figure", _latency),
    "system-throughput": ("figure", _throughput),
    "system-service-cpu": ("figure", partial(_services, figure="services/cpu_percent", title="CPU use (% of a core)")),
    "system-service-memory": ("figure", partial(_services, figure="services/memory_megabytes", title="memory (MB)")),
    "system-failures": ("children", _failures),
}
VIEW = View("/system", "System", skeleton, PARTS)
