"""The report of a period as one HTML file: figures, tables and pictures without a script, to be kept, printed or mailed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from complex_system.monitoring.aggregates import ErrorSums, LatencySums, Served
from complex_system.monitoring.page import answers, series
from complex_system.monitoring.page.diagram import pictures
from complex_system.monitoring.page.figures import SERIES
from complex_system.monitoring.page.formatting import (
    Clock,
    count,
    error,
    group_name,
    interval,
    lasting,
    link,
    megabytes,
    number,
    share,
    unit_of,
)
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.svg import Bars, Line, Mark, categories, chart, histogram, safe, tag
from complex_system.monitoring.page.views.system import CPU, MEMORY

TICKS = 6


def make_report(reading: Reading, clock: Clock) -> str:
    """The report.

    Args:
        reading: What it is about.
        clock: In whose zone its times are.

    Returns:
        A whole HTML document that asks for nothing.
    """
    name = reading.facts.dataset.name
    title = f"{name}: monitoring of {reading.period.label} until {clock.moment(reading.at)}"
    parts = [
        tag("h1", safe(f"Monitoring of {name}")),
        tag("p", safe(f"{clock.moment(reading.begin)} to {clock.moment(reading.at)} ({clock.name}); "
                      f"complex-system {reading.facts.version}, data set {name}, pipeline {reading.facts.dataset.version}."),
            class_="quiet"),
        _answers(reading),
        _section("Alerts", _alerts(reading, clock)),
        _section("Data flow and services", pictures(reading)[0] + _services(reading)),
        _section("Models", _models(reading, clock)),
        _section("Predictions", _predictions(reading, clock)),
        _section("Data", _data(reading, clock)),
        _section("System", _system(reading, clock)),
    ]  # fmt: skip
    head = tag("meta", charset="utf-8").removesuffix("</meta>") + tag("title", safe(title)) + tag("style", _styles())
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _styles() -> str:
    hues = "".join(
        f"svg .curve.series-{i} {{ stroke: {hue}; }}\nsvg .dot.series-{i} {{ fill: {hue}; }}\ni.series-{i} {{ border-color: {hue} }}\n"
        for i, hue in enumerate(SERIES["light"])
    )
    return (resources.files(__package__) / "report.css").read_text(encoding="utf-8") + hues


def _section(title: str, content: str) -> str:
    return tag("section", tag("h2", safe(title)) + content)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    def cells(name: str, row: Sequence[Any]) -> str:
        return "".join(tag(name, safe(cell), class_="n" if i in numbers else "") for i, cell in enumerate(row))

    body = "".join(tag("tr", cells("td", row)) for row in rows)
    return tag("table", tag("thead", tag("tr", cells("th", heads))) + tag("tbody", body))


def _answers(reading: Reading) -> str:
    rows = "".join(
        tag(
            "tr",
            tag("td", safe(each.question), class_="w")
            + tag("td", tag("b", safe(each.word)), class_=f"w {each.kind}")
            + tag("td", safe(each.why)),
        )
        for each in answers.all_answers(reading)
    )
    return tag("table", tag("tbody", rows))


def _alerts(reading: Reading, clock: Clock) -> str:
    found = [alert for alert in reading.alerts if alert.ended is None or alert.ended >= reading.begin]
    if not found:
        return _nothing(f"No alert within {reading.period.label}.")
    rows = []
    for alert in found:
        end = f"{clock.short(alert.ended)} ({lasting(alert.ended - alert.began)})" if alert.ended is not None else "open"
        done = " ".join(str(action.get("what") or action.get("outcome", "")) for action in alert.actions)
        rows.append(
            (
                clock.short(alert.began),
                end,
                f"{alert.rule} ({alert.severity})",
                f"{alert.sentence} {alert.over}".strip(),
                done or "–",
            )
        )
    return _table(("Began", "Ended", "Rule", "What", "What the system did"), rows)


def _services(reading: Reading) -> str:
    rows = [
        (each["service"], each.get("state", ""), each.get("running", 0), f"{number(each.get('cpu_percent'), 0)} %",
         megabytes(each.get("memory_megabytes")), each.get("restarts", 0))
        for each in reading.services
    ]  # fmt: skip
    heads = ("Service", "State", "Replicas", "CPU", "Memory", "Restarts")
    return _table(heads, rows, (2, 3, 4, 5)) if rows else _nothing("No service has sent a heartbeat.")


def _models(reading: Reading, clock: Clock) -> str:
    comparison = reading.comparison or {}
    crossed = comparison.get("ranked_by") == "cross-validation"
    baselines = [{**row, "model": f"baseline {name}"} for name, row in (comparison.get("baselines") or {}).items()]
    rows = []
    for row in [*(comparison.get("results") or ()), *baselines]:
        name = row["model"] + (f" v{row['version']}" if "version" in row else "")
        for basis, figures in (("cross-validation", row.get("cv") if crossed else None), ("hold-out", row)):
            if figures:
                rows.append((name, row.get("framework", ""), basis, error(figures.get("rmse")), interval(figures),
                             error(figures.get("mae")), number(figures.get("r2"), 4)))  # fmt: skip
    parts = tag("h3", "Last comparison of the models")
    heads = ("Model", "Framework", "By", "RMSE", "95 %", "MAE", "R²")
    parts += _table(heads, rows, (3, 4, 5, 6)) if rows else _nothing("No comparison yet.")
    if comparison.get("verdict"):
        parts += tag("p", safe(comparison["verdict"]))
    if reading.best_possible is not None:
        parts += tag("p", safe(f"Best possible RMSE: {number(reading.best_possible)}."), class_="quiet")
    if comparison.get("kept"):
        parts += tag("p", safe(comparison["kept"]))
    if url := link(comparison.get("run_url")):
        parts += tag("p", safe(f"In MLflow: {url}"), class_="quiet")
    crowned = [
        (
            clock.moment(float(each["at"])),
            f"{each.get('model')} v{each.get('version')}",
            number(each.get("rmse")),
            each.get("cause") or "–",
        )
        for each in reversed(reading.champions)
        if float(each["at"]) >= reading.begin
    ]
    parts += tag("h3", "Champions crowned in this period")
    return parts + (_table(("Crowned", "Model", "RMSE", "Cause"), crowned, (2,)) if crowned else _nothing("None."))


def _predictions(reading: Reading, clock: Clock) -> str:
    curves = series.errors_by_model(reading)
    if not curves:
        return _nothing("No prediction of this period has met its truth.")
    models = series.ordered(curves)
    lines = [Line(by.label, _curve(curves[by], reading, lambda sums: sums.metrics().get("rmse"))) for by in models]
    best = reading.best_possible
    marks = [Mark(f"best possible {best:.2f}", best)] if best is not None else []
    y_title = f"RMSE ({unit_of(reading.facts.dataset)})"
    parts = _legend([by.label for by in models]) + _chart(
        reading, clock, lines, y_title, "RMSE over time by model version", marks
    )
    parts += _error_table("Model", {_served(by): series.total(curves[by], ErrorSums) for by in models})
    groups = series.errors_by_group(reading)
    return parts + (_error_table("Group", {group_name(name): sums for name, sums in groups.items()}) if groups else "")


def _served(by: Served) -> str:
    return f"{by.label}, {by.service}"


def _error_table(first: str, sums: Mapping[str, ErrorSums]) -> str:
    rows = []
    for name, each in sums.items():
        metrics = each.metrics()
        figures = [number(metrics.get(figure), 4 if figure == "r2" else 2) for figure in ("rmse", "mae", "bias", "r2")]
        rows.append((name, count(each.n), *figures))
    return _table((first, "Pairs", "RMSE", "MAE", "Bias", "R²"), rows, (1, 2, 3, 4, 5))


def _data(reading: Reading, clock: Clock) -> str:
    columns = reading.data.get("raw") or ()
    if not columns:
        return _nothing(reading.awaited("drift", "No live data were compared with a reference."))
    few = answers.are_few(reading.data)
    rows = [
        (each["name"], number(each.get("psi")), "too few" if few else each.get("band", "too few"), *_shares(each))
        for each in columns
    ]
    parts = _table(("Column", "PSI", "Band", "Missing", "in the reference", "Out of range"), rows, (1, 3, 4, 5))
    tiles = "".join(tag("div", tag("h3", safe(each["name"])) + _distribution(each)) for each in columns)
    parts += tag("p", "Live as bars; the champion's training data as a line, for categories as grey bars.", class_="quiet")
    parts += tag("div", tiles, class_="tiles")
    found = series.gauges(reading, lambda name: name.removeprefix("data/psi/") if name.startswith("data/psi/") else None)
    if found:
        names = sorted(found, key=lambda name: -max(gauge.highest for gauge in found[name].values()))[:6]
        lines = [Line(name, _curve(found[name], reading, lambda gauge: gauge.mean)) for name in names]
        marks = [Mark("moderate from 0.1", 0.1), Mark("significant from 0.25", 0.25)]
        parts += tag("h3", "Drift over time") + _legend(names)
        parts += _chart(reading, clock, lines, "PSI (no unit)", "Population stability index over time", marks)
    return parts


def _shares(each: Mapping[str, Any]) -> list[str]:
    return [share(each.get(name)) for name in ("missing", "missing_reference", "out_of_range")]


def _distribution(each: Mapping[str, Any]) -> str:
    label = f"Live and reference distribution of {each['name']}"
    if "categories" in each:
        return categories(Bars([str(name) for name in each["categories"]], each["reference"], each["live"]), label)
    return histogram(each["edges"], each["reference"], each["live"], str(each.get("unit") or ""), label)


def _system(reading: Reading, clock: Clock) -> str:
    host = series.gauges(reading, {CPU: "CPU", MEMORY: "memory"}.get)
    parts = ""
    if host:
        lines = [Line(name, _curve(host[name], reading, lambda gauge: gauge.mean)) for name in host]
        parts += (
            tag("h3", "Host") + _legend(list(host)) + _chart(reading, clock, lines, "use (%)", "CPU and memory of the host")
        )
    latency = series.latency_by_service(reading)
    rows = []
    for service, curve in sorted(latency.items()):
        metrics = series.total(curve, LatencySums).metrics()
        quantiles = [number(metrics.get(f"latency_ms_p{q}"), 1) for q in (50, 95, 99)]
        rows.append((service, count(metrics["requests"]), count(metrics["predictions"]), *quantiles))
    if rows:
        heads = ("Service", "Requests", "Predictions", "p50 (ms)", "p95 (ms)", "p99 (ms)")
        parts += tag("h3", "Answered requests for predictions") + _table(heads, rows, (1, 2, 3, 4, 5))
    failed = [(service, code, count(n)) for (service, code), n in series.failures(reading).items()]
    if failed:
        parts += tag("h3", "Failed requests") + _table(("Service", "Error", "Requests"), failed, (2,))
    return parts or _nothing("Nothing was measured in this period.")


def _curve(curve: Mapping[float, Any], reading: Reading, value: Any) -> list[tuple[float, float | None]]:
    points: list[tuple[float, float | None]] = []
    for at in sorted(curve):
        if points and at - points[-1][0] > 3 * reading.period.step:
            points.append((at - 1, None))
        points.append((at, value(curve[at])))
    return [point for point in points if point[0] >= reading.begin - reading.period.step]


def _chart(
    reading: Reading, clock: Clock, lines: Sequence[Line], y_title: str, label: str, marks: Sequence[Mark] = ()
) -> str:
    span = (reading.begin - reading.period.step, reading.at)
    written = "%H:%M" if reading.period.seconds <= 86400 else "%d %b"
    ticks = [reading.begin + reading.period.seconds * (i + 0.5) / TICKS for i in range(TICKS)]
    return chart(
        lines,
        span,
        [(at, clock.local(at).strftime(written)) for at in ticks],
        f"{y_title}, time in {clock.name}",
        label,
        marks,
    )


def _legend(names: Sequence[str]) -> str:
    return tag(
        "p",
        "".join(tag("span", tag("i", class_=f"series-{i % 6}") + safe(name)) for i, name in enumerate(names)),
        class_="legend",
    )


def _nothing(words: str) -> str:
    return tag("p", safe(words), class_="empty")
