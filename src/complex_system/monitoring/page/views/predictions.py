"""Predictions against the true values: over their range, over time, by group of records, by model version."""

from __future__ import annotations

from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring import series
from complex_system.monitoring.aggregates import ErrorSums, Served
from complex_system.monitoring.page.components import View, card, columns, figures, plot
from complex_system.monitoring.page.formatting import Viewer, count, group_column, group_name, number, rate
from complex_system.monitoring.page.plots import (
    COLORS,
    MAX_CURVES,
    Figure,
    best_possible,
    colour,
    curve,
    figure,
    moment,
    over_time,
    plain,
    shaded,
    threshold,
    titled,
    waiting,
)
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.series import Curve

_WAITING = "Waiting for true values:\na prediction is compared with the true value as soon as its record has been measured."
_SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up", "x")


def skeleton() -> Component:
    """Return the view without content."""
    return html.Div(
        [
            html.Section(html.Div(id="predictions-figures"), className="card slim"),
            card(
                "Error over time by model version",
                plot("predictions-errors", "RMSE over time of each model version beside the best possible", 300),
                note="An error counts at the time of the prediction, even if the true value comes days later. "
                "Shaded: open alerts. Dotted: new champions.",
            ),
            columns(
                card("Predicted against true", plot("predictions-scatter", "Predicted against true values, a sample", 340)),
                card("Residuals over time", plot("predictions-residuals", "Prediction minus true value over time, a sample", 340)),
            ),
            card("Residuals by group of records", plot("predictions-groups", "Residuals by group, as boxes", 280)),
        ]
    )  # fmt: skip


def _figures(reading: Reading, _: Viewer) -> Component:
    answered = (sums for served, each in reading.errors.items() if not served.shadow for sums in each.values())
    whole = series.total(answered, ErrorSums)
    metrics = whole.metrics()
    unit = reading.facts.dataset.column(reading.facts.dataset.target).unit
    suffix = f" {unit}" if unit and whole.n else ""
    best = [("Best possible RMSE", number(reading.best_possible))] if reading.best_possible is not None else []
    return figures(
        (f"RMSE, {reading.period.label}", number(metrics.get("rmse")) + suffix),
        *best,
        ("MAE", number(metrics.get("mae")) + suffix),
        ("Bias", number(metrics.get("bias")) + suffix),
        ("R²", number(metrics.get("r2"), 4)),
        ("With true value", count(whole.n)),
        ("Without true value yet", count(reading.waiting)),
        ("Predictions now", rate(reading.per_second(series.predictions))),
    )


def error_curves(reading: Reading) -> dict[str, Curve[ErrorSums]]:
    """Return the errors over time of the models that are drawn, by name."""
    shown = _shown(reading)
    labels = [served.label for served in shown]
    return {
        f"{served.label}, {served.service}" if labels.count(served.label) > 1 else served.label: reading.errors[served]
        for served in shown
    }


def _errors(reading: Reading, viewer: Viewer) -> Figure:
    if not reading.errors:
        return waiting(viewer, _WAITING)
    step, traces = reading.period.step, []
    for i, (name, each) in enumerate(error_curves(reading).items()):
        values = series.points(each, step, lambda sums: sums.metrics().get("rmse"))
        middle = [(at + step / 2, value) for at, value in values]
        traces.append(curve(viewer, i, name, middle, mode="lines+markers", marker={"size": 4}))
    if reading.best_possible is not None:
        traces.append(best_possible(viewer, reading.best_possible, reading.begin, reading.end))
    marks = [
        shaded(viewer, max(alert.began, reading.begin), min(alert.ended or reading.end, reading.end))
        for alert in [*reading.open_alerts, *reading.past_alerts]
    ]
    events = [(each.began, "error changes", "warn") for each in reading.overview.changes]
    events += [(each.at, each.name, "muted") for each in reading.champions]
    for at, text, tone in sorted(event for event in events if event[0] > reading.begin):
        line, label = moment(viewer, at, text, tone, late=at > reading.end - 0.2 * reading.period.seconds)
        marks.append((line, {**label, "yshift": -14} if tone == "warn" else label))
    return over_time(viewer, reading, traces, titled(f"RMSE ({reading.facts.unit})"), keep="errors", marks=marks)


def _shown(reading: Reading) -> Sequence[Served]:
    """Return the models that answered last, in an order that stays, so that a model has the same colour in all figures."""
    newest = sorted(reading.errors, key=lambda by: (by.shadow, -max(reading.errors[by])))[:MAX_CURVES]
    return [served for served in reading.errors if served in newest]


def _scatter(reading: Reading, viewer: Viewer) -> Figure:
    if not reading.pairs:
        return waiting(viewer, _WAITING)
    values = [value for pair in reading.pairs for value in (pair.truth, pair.prediction)]
    ends = [min(values), max(values)]
    diagonal = {
        "type": "scatter", "mode": "lines", "x": ends, "y": ends, "name": "exact", "hoverinfo": "skip",
        "line": {"color": COLORS[viewer.theme]["muted"], "width": 1.5, "dash": "dash"},
    }  # fmt: skip
    unit = reading.facts.unit
    x, y = titled(f"true ({unit})", showgrid=True), titled(f"predicted ({unit})")
    traces = [*_dots(viewer, reading, truth=True), diagonal]
    return figure(viewer, traces, x, y, keep=f"scatter-{reading.period.key}", hovermode="closest")


def _residuals(reading: Reading, viewer: Viewer) -> Figure:
    if not reading.pairs:
        return waiting(viewer, _WAITING)
    y = titled(f"prediction − true ({reading.facts.unit})", rangemode="normal")
    dots = _dots(viewer, reading, truth=False)
    return over_time(viewer, reading, dots, y, keep="residuals", marks=[threshold(viewer, 0.0, "")], hovermode="closest")


def _dots(viewer: Viewer, reading: Reading, *, truth: bool) -> list[Figure]:
    """Return the sampled pairs of each model: predictions over true values, or residuals over time."""
    shown = "true %{x:,.4~g}<br>predicted %{y:,.4~g}" if truth else "%{x}<br>residual %{y:,.4~g}"
    traces = []
    for i, served in enumerate(_shown(reading)):
        pairs = [pair for pair in reading.pairs if pair.served == served]
        traces.append({
            "type": "scatter", "mode": "markers", "name": plain(served.label),
            "x": [round(p.truth, 3) if truth else viewer.clock.axis(p.at) for p in pairs],
            "y": [round(p.prediction if truth else p.residual, 3) for p in pairs],
            "text": [plain(group_name(p.group)) for p in pairs],
            "marker": {"color": colour(viewer, i), "size": 5, "opacity": 0.55, "symbol": _SYMBOLS[i]},
            "hovertemplate": f"{shown}<br>%{{text}}<extra>{plain(served.label)}</extra>",
        })  # fmt: skip
    return traces


def _groups(reading: Reading, viewer: Viewer) -> Figure:
    by_group: dict[str, list[float]] = {}
    for pair in reading.pairs:
        if pair.group and not pair.served.shadow:
            by_group.setdefault(pair.group, []).append(round(pair.residual, 3))
    if not by_group:
        return waiting(viewer, _WAITING)
    exact = reading.groups
    traces = []
    for i, group in enumerate(sorted(by_group)):
        metrics = exact[group].metrics() if group in exact else {}
        name = plain(group_name(group))
        if "rmse" in metrics:
            name += f"<br>RMSE {metrics['rmse']:.2f}, bias {metrics['bias']:+.2f}<br>{count(metrics['count'])} pairs"
        traces.append({
            "type": "box", "y": by_group[group], "name": name, "boxpoints": False, "boxmean": True, "hoverinfo": "y",
            "line": {"color": colour(viewer, i), "width": 1.5}, "fillcolor": "rgba(0,0,0,0)", "width": 0.5,
        })  # fmt: skip
    x, y = titled(group_column(list(by_group))), titled(f"prediction − true ({reading.facts.unit})")
    keep = f"groups-{reading.period.key}"
    return figure(viewer, traces, x, y, keep=keep, marks=[threshold(viewer, 0.0, "")], showlegend=False, hovermode="closest")


PARTS = {
    "predictions-figures": ("children", _figures),
    "predictions-errors": ("figure", _errors),
    "predictions-scatter": ("figure", _scatter),
    "predictions-residuals": ("figure", _residuals),
    "predictions-groups": ("figure", _groups),
}
VIEW = View("/predictions", "Predictions", skeleton, PARTS)
