"""The report of a period as one HTML file to keep, print or mail: figures, tables and drawings, without scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources

from complex_system.monitoring import series
from complex_system.monitoring.aggregates import LatencySums
from complex_system.monitoring.page import answers
from complex_system.monitoring.page.diagram import diagrams
from complex_system.monitoring.page.formatting import (
    NONE,
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
)
from complex_system.monitoring.page.plots import SERIES
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.summaries import (
    Table,
    champions,
    decisions,
    errors_of_champion,
    errors_of_groups,
    errors_of_models,
    failed_requests,
    outliers,
)
from complex_system.monitoring.page.svg import chart, safe, tag
from complex_system.monitoring.page.terms import TERMS, requests_of
from complex_system.monitoring.page.views.data import DRIFT_LIMITS, distribution, judged_drift, largest, state_of
from complex_system.monitoring.page.views.models import framework_of, ranking_scores
from complex_system.monitoring.page.views.predictions import error_curves
from complex_system.monitoring.page.views.system import CPU, MEMORY
from complex_system.monitoring.series import Curve, T
from complex_system.protocol.operations import Alert

TICKS = 6


def make_report(reading: Reading, clock: Clock) -> str:
    """Return the report.

    Args:
        reading: Its subject.
        clock: The reader's time zone.

    Returns:
        A whole HTML document that loads nothing.
    """
    dataset = reading.facts.dataset
    title = f"{dataset.name}: monitoring of {reading.period.label} until {clock.moment(reading.at)}"
    about = (
        f"{clock.moment(reading.begin)} to {clock.moment(reading.at)} ({clock.name}); "
        f"complex-system {reading.facts.version}, data set {dataset.name}, pipeline {dataset.version}."
    )
    sections = {
        "Alerts": _alerts(reading, clock),
        "Data flow and services": diagrams(reading)[0] + _services(reading),
        "Models": _models(reading, clock),
        "Predictions": _predictions(reading, clock),
        "Data": _data(reading, clock),
        "System": _system(reading, clock),
        "Terms": _table(Table(("Term", "Meaning"), list(TERMS.items()))),
    }
    parts = [tag("h1", safe(f"Monitoring of {dataset.name}")), tag("p", safe(about), class_="quiet"), _answers(reading)]
    parts += [tag("section", tag("h2", safe(name)) + content) for name, content in sections.items()]
    head = tag("meta", charset="utf-8").removesuffix("</meta>") + tag("title", safe(title)) + tag("style", _styles())
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _styles() -> str:
    hues = "".join(
        f"svg .curve.series-{i} {{ stroke: {hue}; }}\nsvg .dot.series-{i} {{ fill: {hue}; }}\ni.series-{i} {{ border-color: {hue} }}\n"
        for i, hue in enumerate(SERIES["light"])
    )
    return (resources.files(__package__) / "report.css").read_text(encoding="utf-8") + hues


def _table(content: Table, otherwise: str = "") -> str:
    """Return a table, or a text if it has no rows."""
    if not content.rows:
        return _empty(otherwise)

    def cells(name: str, row: Sequence[object]) -> str:
        return "".join(tag(name, safe(cell), class_="n" if i in content.numbers else "") for i, cell in enumerate(row))

    body = "".join(tag("tr", cells("td", row)) for row in content.rows)
    return tag("table", tag("thead", tag("tr", cells("th", content.heads))) + tag("tbody", body))


def _empty(text: str) -> str:
    return tag("p", safe(text), class_="empty")


def _answers(reading: Reading) -> str:
    rows = ""
    for each in answers.all_answers(reading):
        answer = tag("td", tag("b", safe(each.text)), class_=f"w {each.level}")
        rows += tag("tr", tag("td", safe(each.question), class_="w") + answer + tag("td", safe(each.why)))
    return tag("table", tag("tbody", rows))


def _alerts(reading: Reading, clock: Clock) -> str:
    def row(alert: Alert) -> tuple[str, ...]:
        ended = alert.ended
        end = "open" if ended is None else f"{clock.short(ended)} ({lasting(ended - alert.began)})"
        done = " ".join(action.what or action.outcome for action in alert.actions)
        what = f"{alert.sentence} {alert.over}".strip()
        return clock.short(alert.began), end, f"{alert.rule} ({alert.severity})", what, done or NONE

    rows = [row(alert) for alert in [*reading.open_alerts, *reading.past_alerts]]
    heads = ("Began", "Ended", "Rule", "What", "What the system did")
    return _table(Table(heads, rows), f"No alerts in the last {reading.period.label}.")


def _services(reading: Reading) -> str:
    rows = [
        (
            each.service,
            each.state,
            each.running,
            f"{number(each.cpu_percent, 0)} %",
            megabytes(each.memory_megabytes),
            each.restarts,
        )
        for each in reading.overview.services
    ]
    heads = ("Service", "State", "Replicas", "CPU", "Memory", "Restarts")
    return _table(Table(heads, rows, (2, 3, 4, 5)), "No heartbeat received yet.")


def _models(reading: Reading, clock: Clock) -> str:
    comparison, ranked = reading.comparison, ranking_scores(reading)
    rows = []
    for name, model in reading.compared.items():
        crossed = ranked.get(name) if comparison and comparison.ranked_by == "cross-validation" else None
        for basis, scores in (("cross-validation", crossed), ("hold-out", model)):
            if scores:
                range_ = interval(scores.rmse_low, scores.rmse_high) or NONE
                errors = (error(scores.rmse), range_, error(scores.mae), number(scores.r2, 4))
                rows.append((name, framework_of(model), basis, *errors))
    heads = ("Model", "Framework", "By", "RMSE", "95 %", "MAE", "R²")
    parts = tag("h3", "Last comparison of the models") + _table(Table(heads, rows, (3, 4, 5, 6)), "No comparison yet.")
    if comparison:
        told = (comparison.answers, comparison.verdict, comparison.kept, comparison.intervals)
        parts += "".join(tag("p", safe(text)) for text in told if text)
    if reading.best_possible is not None:
        parts += tag("p", safe(f"Best possible RMSE: {number(reading.best_possible)}."), class_="quiet")
    if comparison and (url := link(comparison.run_url)):
        parts += tag("p", safe(f"In MLflow: {url}"), class_="quiet")
    new = [each for each in reading.champions if each.at >= reading.begin]
    parts += tag("h3", "New champions in this period") + _table(champions(new, clock), "None.")
    known = reading.models.promotion.decisions if reading.models.promotion else ()
    decided = [each for each in known if each.at >= reading.begin]
    return parts + tag("h3", "Decisions about the champion") + _table(decisions(decided, clock), "None.")


def _predictions(reading: Reading, clock: Clock) -> str:
    if not reading.errors:
        return _empty("No true value is known yet for a prediction of this period.")
    best = reading.best_possible
    levels = {f"best possible {best:.2f}": best} if best is not None else {}
    parts = _chart(
        reading, clock, error_curves(reading), lambda sums: sums.metrics().get("rmse"), f"RMSE ({reading.facts.unit})",
        "RMSE over time by model version", levels,
    )  # fmt: skip
    if reading.champion is not None:
        parts += tag("h3", safe(f"The champion's errors: {reading.champion.name}")) + _table(errors_of_champion(reading))
        parts += tag("p", safe(outliers(reading)))
    parts += tag("h3", "Every model version") + _table(errors_of_models(reading))
    groups, by = {group_name(name): sums for name, sums in reading.groups.items()}, reading.judged
    if not groups or by is None:
        return parts
    return parts + tag("h3", safe(f"By group: {by.label}, {requests_of(by.origin)}")) + _table(errors_of_groups(groups))


def _data(reading: Reading, clock: Clock) -> str:
    columns = reading.data.raw
    if not columns:
        return _empty(reading.awaiting("drift", "No live data have been compared with a reference."))
    few = answers.are_few(reading.data)
    rows = [
        (each.name, number(each.psi), number(each.evidence.value if each.evidence else None, 1),
         state_of(each, few=few)[1] or "too few",
         *(share(value) for value in (each.missing, each.missing_reference, each.out_of_range)))
        for each in columns
    ]  # fmt: skip
    heads = ("Column", "PSI", "Evidence", "Drift", "Missing", "in the reference", "Out of range")
    parts = _table(Table(heads, rows, (1, 2, 4, 5, 6)))
    tiles = "".join(tag("div", tag("h3", safe(each.name)) + distribution(each)) for each in columns)
    key = "Live data as bars, the champion's training data as a line; for categories the training data as grey bars."
    parts += tag("p", key, class_="quiet") + tag("div", tiles, class_="tiles")
    found = largest(judged_drift(reading, reading.gauges("data/psi")))
    if found:
        levels = {f"{name} from {limit}": limit for limit, name, _ in DRIFT_LIMITS}
        label = "Population stability index over time"
        drift = _chart(reading, clock, found, lambda gauge: gauge.mean, "PSI (no unit)", label, levels)
        parts += tag("h3", "Drift over time") + drift
    return parts


def _system(reading: Reading, clock: Clock) -> str:
    host = {name: reading.gauges(figure).get("") for name, figure in (("CPU", CPU), ("memory", MEMORY))}
    known = {name: curve for name, curve in host.items() if curve}
    parts = ""
    if known:
        label = "CPU and memory of the host"
        parts += tag("h3", "Host") + _chart(reading, clock, known, lambda gauge: gauge.mean, "use (%)", label)
    rows = []
    for service, curve in reading.latency.items():
        sums = series.total(curve.values(), LatencySums)
        quantiles = (number(sums.quantile(q), 1) for q in (0.5, 0.95, 0.99))
        rows.append((service, count(sums.requests), count(sums.predictions), *quantiles))
    if rows:
        heads = ("Service", "Requests", "Predictions", "p50 (ms)", "p95 (ms)", "p99 (ms)")
        parts += tag("h3", "Answered requests for predictions") + _table(Table(heads, rows, (1, 2, 3, 4, 5)))
    failed = failed_requests(reading)
    if failed.rows:
        parts += tag("h3", "Failed requests") + _table(failed)
    return parts or _empty("Nothing was measured in this period.")


def _chart(
    reading: Reading, clock: Clock, curves: Mapping[str, Curve[T]], value: Callable[[T], float | None], y_title: str,
    label: str, levels: Mapping[str, float] | None = None,
) -> str:  # fmt: skip
    """Return a legend and curves over the period, at most as many as there are hues."""
    step, start = reading.period.step, reading.begin - reading.period.step
    shown = list(curves.items())[: len(SERIES["light"])]
    legend = "".join(tag("span", tag("i", class_=f"series-{i}") + safe(name)) for i, (name, _) in enumerate(shown))
    lines = [[point for point in series.points(each, step, value) if point[0] >= start] for _, each in shown]
    written = "%H:%M" if reading.period.seconds <= 86400 else "%d %b"
    places = [reading.begin + reading.period.seconds * (i + 0.5) / TICKS for i in range(TICKS)]
    ticks = [(at, clock.local(at).strftime(written)) for at in places]
    y_title = f"{y_title}, time in {clock.name}"
    return tag("p", legend, class_="legend") + chart(lines, (start, reading.at), ticks, y_title, label, levels)
