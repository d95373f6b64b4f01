"""Predictions against their truth: over the range, over time, by group of records, by version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.aggregates import ErrorSums, Served
from complex_system.monitoring.page import series
from complex_system.monitoring.page.components import View, Viewer, card, figures, plot
from complex_system.monitoring.page.figures import (
    COLORS,
    Figure,
    band,
    colour,
    curve,
    figure,
    level,
    moment,
    plain,
    reference,
    waiting,
)
from complex_system.monitoring.page.formatting import count, group_column, group_name, number, rate, unit_of
from complex_system.monitoring.page.reading import Reading

OUTPUTS = (
    ("predictions-figures", "children"),
    ("predictions-errors", "figure"),
    ("predictions-scatter", "figure"),
    ("predictions-residuals", "figure"),
    ("predictions-groups", "figure"),
)
MOST_CURVES = 6
_AWAITED = "Waiting for predictions to meet their truth:\na pair appears when a predicted record is measured."


def skeleton() -> Component:
    """The parts, empty."""
    return html.Div(
        [
            html.Section(html.Div(id="predictions-figures"), className="card slim"),
            card(
                "Error over time, by model version",
                plot("predictions-errors", "RMSE over time of each model version beside the best possible", 300),
                note="A pair counts when its prediction was made, also when the truth comes days later. "
                "Shaded: an open alert. Dotted: a new champion.",
            ),
            html.Div(
                [
                    card(
                        "Predicted against true", plot("predictions-scatter", "Predicted against true values, a sample", 340)
                    ),
                    card(
                        "Residuals over time",
                        plot("predictions-residuals", "Prediction minus truth over time, a sample", 340),
                    ),
                ],
                className="columns",
            ),
            card("Residuals by group of records", plot("predictions-groups", "Residuals by group, as boxes", 280)),
        ]
    )


def fill(reading: Reading, viewer: Viewer) -> list[Any]:
    """The values of ``OUTPUTS``."""
    curves = series.errors_by_model(reading)
    return [
        _figures(reading, curves),
        _errors(reading, viewer, curves),
        _scatter(reading, viewer, curves),
        _residuals(reading, viewer, curves),
        _groups(reading, viewer),
    ]


def _figures(reading: Reading, curves: dict[Served, series.Curve[ErrorSums]]) -> Component:
    whole = ErrorSums()
    for served, each in curves.items():
        if not served.shadow:
            whole.merge(series.total(each, ErrorSums))
    metrics = whole.metrics()
    unit = reading.facts.dataset.column(reading.facts.dataset.target).unit
    suffix = f" {unit}" if unit else ""
    best = reading.best_possible
    pairs = [
        (f"RMSE, {reading.period.label}", number(metrics.get("rmse")) + (suffix if whole.n else "")),
        ("MAE", number(metrics.get("mae")) + (suffix if whole.n else "")),
        ("Bias", number(metrics.get("bias")) + (suffix if whole.n else "")),
        ("R²", number(metrics.get("r2"), 4)),
        ("Joined pairs", count(whole.n)),
        ("Waiting for truth", count(reading.waiting)),
        ("Predictions now", rate(series.predictions_per_second(reading))),
    ]
    if best is not None:
        pairs.insert(1, ("Best possible RMSE", number(best)))
    return figures(*pairs)


def _time(viewer: Viewer, reading: Reading) -> Figure:
    span = [viewer.clock.axis(reading.begin), viewer.clock.axis(reading.end)]
    return {"type": "date", "range": span, "title": {"text": f"time ({plain(viewer.clock.name)})"}}


def _errors(reading: Reading, viewer: Viewer, curves: dict[Served, series.Curve[ErrorSums]]) -> Figure:
    if not curves:
        return waiting(viewer.theme, _AWAITED)
    newest = _shown(curves)
    traces = []
    for i, served in enumerate(newest):
        times, values = _with_gaps(curves[served], reading.period.step)
        twin = any(by.label == served.label and by != served for by in newest)
        name = f"{served.label}, {served.service}" if twin else served.label
        x = [viewer.clock.axis(at + reading.period.step / 2) for at in times]
        traces.append(curve(viewer.theme, i, name, x, values, mode="lines+markers", marker={"size": 4}))
    if (best := reading.best_possible) is not None:
        span = [viewer.clock.axis(reading.begin), viewer.clock.axis(reading.end)]
        traces.append(reference(viewer.theme, best, f"best possible {best:.2f}", span))
    shapes, notes = [], []
    for alert in reading.alerts:
        if (alert.ended or reading.at) >= reading.begin:
            start, end = max(alert.began, reading.begin), min(alert.ended or reading.end, reading.end)
            shapes.append(band(viewer.theme, viewer.clock.axis(start), viewer.clock.axis(end)))
    events = [(float(each["began"]), "error changes", "warn") for each in reading.overview.get("changes") or ()]
    events += [(float(each["at"]), f"{each.get('model')} v{each.get('version')}", "muted") for each in reading.champions]
    for at, text, tone in sorted(event for event in events if event[0] > reading.begin):
        late = at > reading.end - 0.2 * reading.period.seconds
        shape, words = moment(viewer.theme, viewer.clock.axis(at), text, tone, late=late)
        shapes.append(shape)
        notes.append({**words, "yshift": -14} if tone == "warn" else words)
    y = {"title": {"text": f"RMSE ({plain(unit_of(reading.facts.dataset))})"}, "rangemode": "tozero"}
    keep = f"errors-{reading.period.key}"
    return figure(
        viewer.theme, traces, _time(viewer, reading), y, keep=keep, shapes=shapes, annotations=notes, showlegend=True
    )


def _with_gaps(sums: series.Curve[ErrorSums], step: int) -> tuple[list[float], list[float | None]]:
    """Times and RMSE; None where steps are missing, so that no line is drawn over a time without predictions."""
    times: list[float] = []
    values: list[float | None] = []
    for at in sorted(sums):
        if times and at - times[-1] > 3 * step:
            times.append(at - step)
            values.append(None)
        times.append(at)
        values.append(sums[at].metrics().get("rmse"))
    return times, values


def _scatter(reading: Reading, viewer: Viewer, curves: dict[Served, series.Curve[ErrorSums]]) -> Figure:
    if not reading.pairs:
        return waiting(viewer.theme, _AWAITED)
    colors = COLORS[viewer.theme]
    values = [value for pair in reading.pairs for value in (pair.truth, pair.prediction)]
    low, high = min(values), max(values)
    diagonal = {
        "type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "name": "exact", "hoverinfo": "skip",
        "line": {"color": colors["muted"], "width": 1.5, "dash": "dash"},
    }  # fmt: skip
    traces = [_dots(viewer, i, served, reading, truth=True) for i, served in enumerate(_shown(curves))]
    unit = plain(unit_of(reading.facts.dataset))
    x = {"title": {"text": f"true ({unit})"}, "showgrid": True}
    y = {"title": {"text": f"predicted ({unit})"}}
    return figure(viewer.theme, [*traces, diagonal], x, y, keep=f"scatter-{reading.period.key}", hovermode="closest")


def _shown(curves: dict[Served, series.Curve[ErrorSums]]) -> Sequence[Served]:
    """The models that were asked last, in an order that stays, so that a model keeps its colour in all figures."""
    newest = sorted(curves, key=lambda by: (by.shadow, -max(curves[by])))[:MOST_CURVES]
    return series.ordered(newest)


def _dots(viewer: Viewer, i: int, served: Served, reading: Reading, *, truth: bool) -> Figure:
    pairs = [pair for pair in reading.pairs if pair.served == served]
    symbols = ("circle", "diamond", "square", "cross", "triangle-up", "x")
    return {
        "type": "scatter", "mode": "markers", "name": plain(served.label),
        "x": [round(p.truth, 3) for p in pairs] if truth else [viewer.clock.axis(p.at) for p in pairs],
        "y": [round(p.prediction if truth else p.residual, 3) for p in pairs],
        "text": [plain(group_name(p.group)) for p in pairs],
        "marker": {"color": colour(viewer.theme, i), "size": 5, "opacity": 0.55, "symbol": symbols[i % len(symbols)]},
        "hovertemplate": ("true %{x:,.4~g}<br>predicted %{y:,.4~g}" if truth else "%{x}<br>residual %{y:,.4~g}")
                         + "<br>%{text}<extra>" + plain(served.label) + "</extra>",
    }  # fmt: skip


def _residuals(reading: Reading, viewer: Viewer, curves: dict[Served, series.Curve[ErrorSums]]) -> Figure:
    if not reading.pairs:
        return waiting(viewer.theme, _AWAITED)
    traces = [_dots(viewer, i, served, reading, truth=False) for i, served in enumerate(_shown(curves))]
    shape, _ = level(viewer.theme, 0.0, "")
    y = {"title": {"text": f"prediction − truth ({plain(unit_of(reading.facts.dataset))})"}}
    keep = f"residuals-{reading.period.key}"
    return figure(
        viewer.theme, traces, _time(viewer, reading), y, keep=keep, shapes=[shape], hovermode="closest", showlegend=True
    )


def _groups(reading: Reading, viewer: Viewer) -> Figure:
    by_group: dict[str, list[float]] = {}
    for pair in reading.pairs:
        if pair.group and not pair.served.shadow:
            by_group.setdefault(pair.group, []).append(round(pair.residual, 3))
    if not by_group:
        return waiting(viewer.theme, _AWAITED)
    exact = series.errors_by_group(reading)
    traces = []
    for i, group in enumerate(sorted(by_group)):
        metrics = exact[group].metrics() if group in exact else {}
        name = plain(group_name(group))
        if "rmse" in metrics:
            name += f"<br>RMSE {metrics['rmse']:.2f}, bias {metrics['bias']:+.2f}<br>{count(metrics['count'])} pairs"
        traces.append({
            "type": "box", "y": by_group[group], "name": name, "boxpoints": False, "boxmean": True, "hoverinfo": "y",
            "line": {"color": colour(viewer.theme, i), "width": 1.5}, "fillcolor": "rgba(0,0,0,0)", "width": 0.5,
        })  # fmt: skip
    shape, _ = level(viewer.theme, 0.0, "")
    y = {"title": {"text": f"prediction − truth ({plain(unit_of(reading.facts.dataset))})"}}
    x = {"title": {"text": plain(group_column(list(by_group)))}}
    keep = f"groups-{reading.period.key}"
    return figure(viewer.theme, traces, x, y, keep=keep, shapes=[shape], showlegend=False, hovermode="closest")


VIEW = View("/predictions", "Predictions", OUTPUTS, skeleton, fill)
