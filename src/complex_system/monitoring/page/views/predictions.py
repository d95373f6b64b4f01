"""Predictions against the true values: over their range, over time, by group of records, by model version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring import series
from complex_system.monitoring.aggregates import ErrorSums, Served
from complex_system.monitoring.page.components import View, card, columns, empty, figures, plot, table
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
from complex_system.monitoring.page.summaries import errors_of_champion, outliers
from complex_system.monitoring.page.terms import requests_of, short
from complex_system.monitoring.series import Curve
from complex_system.protocol.serving import ORIGIN_LABELS

_WAITING = "Waiting for true values:\na prediction is compared with the true value as soon as its record has been measured."
_LABEL_WIDTH, _LABEL_LINES = 0.2, 4
"""Events nearer to each other than this share of the period have their labels below each other, in so many lines."""
_NO_GROUPS = "The data set has no category by which residuals could be grouped."
_TERMS = (
    "RMSE",
    "MAE",
    "Bias",
    "R²",
    "Hold-out",
    "Live predictions",
    "Own requests",
    "Probes",
    "Best possible",
    "90 % interval",
    "Coverage",
    "Far records",
)
_SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up", "x")


def skeleton() -> Component:
    """Return the view without content."""
    return html.Div(
        [
            card("The champion's errors", html.Div(id="predictions-figures"), _downloads(), terms=_TERMS),
            card(
                "Error over time by model version",
                plot("predictions-errors", "RMSE over time of each model version beside the best possible", 300),
                note="An error counts at the time of the prediction, even if the true value comes days later. "
                "Shaded: open alerts. Dotted: new champions.",
                terms=("RMSE", "Live predictions", "Own requests", "Probes", "Shadow", "Best possible"),
            ),
            columns(
                card("Predicted against true", plot("predictions-scatter", "Predicted against true values, a sample", 340)),
                card("Residuals over time", plot("predictions-residuals", "Prediction minus true value over time, a sample", 340),
                     terms=("Residual",)),
            ),
            card("Residuals by group of records", html.P(id="predictions-groups-note", className="note"),
                 plot("predictions-groups", "Residuals by group, as boxes", 280), terms=("Residual", "RMSE", "Bias")),
        ]
    )  # fmt: skip


def _downloads() -> Component:
    """Return links to the period's predictions as files; their addresses follow the period."""
    links = [
        html.A(label, id=f"predictions-{form}", className="button", download="")
        for form, label in (("csv", "CSV"), ("parquet", "Parquet"))
    ]
    return html.P(["Predictions of the period beside the true values: ", *links], className="note downloads")


def _address(form: str) -> Callable[[Reading, Viewer], str]:
    return lambda reading, _: f"/api/predictions.{form}?from={reading.begin:.0f}&to={reading.end:.0f}"


def _figures(reading: Reading, _: Viewer) -> Component:
    best = [("Best possible RMSE", number(reading.best_possible))] if reading.best_possible is not None else []
    by = {origin: series.predictions(reading.rollups, origin) for origin in ORIGIN_LABELS}
    parts = ", ".join(f"{count(n)} {requests_of(origin)}" for origin, n in by.items() if n)
    named = figures(
        *best,
        (f"Predictions, {reading.period.label}", count(sum(by.values())), f"of all models: {parts}" if parts else ""),
        ("Without true value yet", count(reading.waiting)),
        *_intervals(reading),
        ("Predictions now", rate(reading.per_second(series.predictions))),
    )
    if reading.champion is None:
        return html.Div([empty("No champion yet: errors of other models are below."), named])
    errors, unit = errors_of_champion(reading), reading.facts.unit
    title = f"{reading.champion.name}, {reading.period.label}, in {unit}"
    nothing = [] if reading.champion_errors else [empty("None of its predictions in this period has a true value yet.")]
    slips = [html.P(text, className="note")] if (text := outliers(reading)) else []
    return html.Div([html.P(title, className="quiet"), table(errors), *nothing, *slips, named])


def _intervals(reading: Reading) -> list[tuple[str, str, str]]:
    """Return the coverage of the champion's intervals and the share of records far from its training data, where they are known."""
    found: list[tuple[str, str, str]] = []
    coverage, half = reading.newest("performance/coverage"), _half_width(reading)
    if coverage is not None and half is not None:
        width = f"prediction ± {number(half)} in {reading.facts.unit}"
        of = reading.newest("performance/count")
        found.append(("Within the 90 % intervals", f"{coverage:.1%}", f"of the newest {count(of)} true values; {width}"))
    far, compared = reading.newest("data/far"), reading.newest("data/compared")
    if far is not None and compared is not None:
        found.append(("Far from the training data", f"{far:.1%}", f"of {count(compared)} predicted records"))
    return found


def _half_width(reading: Reading) -> float | None:
    return reading.newest("performance/half_width")


def error_curves(reading: Reading) -> dict[str, Curve[ErrorSums]]:
    """Return the errors over time of the models that are drawn, by name."""
    shown = _shown(reading)
    labels = [f"{served.label}, {short(served.origin)}" for served in shown]
    return {
        f"{label}, {served.service}" if labels.count(label) > 1 else label: reading.errors[served]
        for label, served in zip(labels, shown, strict=True)
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
    events = [(each.began, f"error changes ({short(each.origin)})", "warn") for each in reading.overview.changes]
    events += [(each.at, each.name, "muted") for each in reading.champions]
    begun: list[float] = []
    for at, text, tone in sorted(event for event in events if event[0] > reading.begin):
        line, label = moment(viewer, at, text, tone, late=at > reading.end - 0.2 * reading.period.seconds)
        near = sum(at - other < _LABEL_WIDTH * reading.period.seconds for other in begun)
        begun.append(at)
        marks.append((line, {**label, "yshift": -14 * (near % _LABEL_LINES)}))
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
    half = _half_width(reading)
    band = [] if half is None else _band(viewer, ends, [end - half for end in ends], [end + half for end in ends])
    traces = [*band, *_dots(viewer, reading, truth=True), diagonal]
    return figure(viewer, traces, x, y, keep=f"scatter-{reading.period.key}", hovermode="closest")


def _residuals(reading: Reading, viewer: Viewer) -> Figure:
    if not reading.pairs:
        return waiting(viewer, _WAITING)
    y = titled(f"prediction − true ({reading.facts.unit})", rangemode="normal")
    half, ends = _half_width(reading), [viewer.clock.axis(at) for at in (reading.begin, reading.end)]
    band = [] if half is None else _band(viewer, ends, [-half] * 2, [half] * 2)
    traces = [*band, *_dots(viewer, reading, truth=False)]
    return over_time(viewer, reading, traces, y, keep="residuals", marks=[threshold(viewer, 0.0, "")], hovermode="closest")


def _band(viewer: Viewer, x: Sequence[Any], low: Sequence[float], high: Sequence[float]) -> list[Figure]:
    """Return the band of the champion's 90 % intervals, drawn below the dots."""
    edge = {"type": "scatter", "mode": "lines", "x": list(x), "hoverinfo": "skip", "line": {"width": 0}}
    name, fill = "champion's 90 % interval", {"fill": "tonexty", "fillcolor": COLORS[viewer.theme]["band"]}
    return [{**edge, "y": list(low), "showlegend": False}, {**edge, "y": list(high), "name": name, **fill}]


def _dots(viewer: Viewer, reading: Reading, *, truth: bool) -> list[Figure]:
    """Return the sampled pairs of each model: predictions over true values, or residuals over time."""
    shown = "true %{x:,.4~g}<br>predicted %{y:,.4~g}" if truth else "%{x}<br>residual %{y:,.4~g}"
    traces = []
    for i, served in enumerate(_shown(reading)):
        pairs = [pair for pair in reading.pairs if pair.served == served]
        traces.append({
            "type": "scatter", "mode": "markers", "name": plain(f"{served.label}, {short(served.origin)}"),
            "x": [round(p.truth, 3) if truth else viewer.clock.axis(p.at) for p in pairs],
            "y": [round(p.prediction if truth else p.residual, 3) for p in pairs],
            "text": [plain(group_name(p.group)) for p in pairs],
            "marker": {"color": colour(viewer, i), "size": 5, "opacity": 0.55, "symbol": _SYMBOLS[i]},
            "hovertemplate": f"{shown}<br>%{{text}}<extra>{plain(served.label)}, {short(served.origin)}</extra>",
        })  # fmt: skip
    return traces


def _groups_note(reading: Reading, _: Viewer) -> str:
    by = reading.judged
    return f"{by.label}, {requests_of(by.origin)}." if by else ""


def _groups(reading: Reading, viewer: Viewer) -> Figure:
    by_group: dict[str, list[float]] = {}
    for pair in reading.pairs:
        if pair.group and pair.served == reading.judged:
            by_group.setdefault(pair.group, []).append(round(pair.residual, 3))
    if not by_group:
        known = any(pair.served == reading.judged for pair in reading.pairs)
        return waiting(viewer, _NO_GROUPS if known else _WAITING)
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
    "predictions-csv": ("href", _address("csv")),
    "predictions-parquet": ("href", _address("parquet")),
    "predictions-errors": ("figure", _errors),
    "predictions-scatter": ("figure", _scatter),
    "predictions-residuals": ("figure", _residuals),
    "predictions-groups-note": ("children", _groups_note),
    "predictions-groups": ("figure", _groups),
}
VIEW = View("/predictions", "Predictions", skeleton, PARTS)
