"""The compared models, who was champion when, and the errors of every version with live records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.page.components import View, badge, card, columns, empty, outside, plot, table
from complex_system.monitoring.page.formatting import NONE, Viewer, count, error, interval, number
from complex_system.monitoring.page.plots import (
    COLORS,
    Figure,
    bars,
    best_possible,
    colour,
    figure,
    plain,
    threshold,
    titled,
    waiting,
)
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.summaries import Table, champions, errors_of_models
from complex_system.monitoring.page.views.dependence import DEPENDENCE_PARTS, dependence_card
from complex_system.monitoring.page.views.promotion import PROMOTION_PARTS, promotion_card
from complex_system.protocol.training import ComparedModel, Quality, ScoresWithInterval

MAX_CHAMPIONS = 12


def skeleton() -> Component:
    """Return the view without content."""
    return html.Div(
        [
            columns(
                card(
                    "Comparison of the models",
                    html.P(id="models-note", className="note"),
                    plot("models-comparison", "RMSE of every compared model beside the best possible", 270),
                    html.Div(id="models-table"),
                    terms=(
                        "RMSE",
                        "MAE",
                        "R²",
                        "Hold-out",
                        "Cross-validation",
                        "95 % interval",
                        "Baseline",
                        "Best possible",
                    ),
                ),
                card(
                    "Champions",
                    plot("models-champions-plot", "Hold-out RMSE of each champion when it was compared", 270),
                    html.Div(id="models-champions"),
                    terms=("RMSE", "Hold-out"),
                ),
            ),
            dependence_card(),
            promotion_card(),
            card(
                "Predictions with a true value",
                html.Div(id="models-live"),
                note="Of the chosen period: every model version, by who asked. Predictions of a shadow are not used.",
                terms=("RMSE", "MAE", "Bias", "R²", "Live predictions", "Own requests", "Probes", "Shadow"),
            ),
        ]
    )


def ranking_scores(reading: Reading) -> Mapping[str, ScoresWithInterval]:
    """Return the scores that the ranking goes by, by model; without those that have none, such as an earlier champion's."""
    comparison = reading.comparison
    if comparison is None or comparison.ranked_by == "hold-out":
        return reading.compared
    return {name: each.cv for name, each in reading.compared.items() if each.cv is not None}


def framework_of(model: Quality) -> str:
    """Return a model's framework; empty for a baseline."""
    return model.framework if isinstance(model, ComparedModel) else ""


def _is_champion(quality: Quality, reading: Reading) -> bool:
    champion = reading.champion
    if champion is None or not isinstance(quality, ComparedModel):
        return False
    return (quality.model, quality.version) == (champion.model, champion.version)


def _note(reading: Reading, _: Viewer) -> list[Any]:
    comparison = reading.comparison
    if comparison is None:
        return []
    text = f"{count(comparison.holdout)} hold-out records that no trainer has seen. " if comparison.holdout else ""
    if comparison.ranked_by == "cross-validation":
        folds = comparison.cross_validation
        size = f": {count(folds.records)} records in {folds.folds} folds" if folds else ""
        size += f", {folds.repeats} times" if folds and folds.repeats > 1 else ""
        text = f"Ranked by cross-validation, because there are few records{size}. "
    parts: list[Any] = [f"{text}Shorter is better. {comparison.answers} "]
    if comparison.verdict:
        parts.append(html.Strong(f"{comparison.verdict} "))
    if comparison.kept:
        parts.append(f"{comparison.kept} ")
    if comparison.intervals:
        parts.append(f"Lines: {comparison.intervals} ")
    return [*parts, outside("Comparison in MLflow", comparison.run_url)] if comparison.run_url else parts


def _comparison(reading: Reading, viewer: Viewer) -> Figure:
    scores = ranking_scores(reading)
    shown = {name: scores.get(name, each) for name, each in reversed(reading.compared.items())}
    if not shown:
        return waiting(viewer, "Waiting for the first training round:\nit starts when there are enough labelled records.")
    ends = [each.rmse_high or each.rmse for each in shown.values()]
    colors, best = COLORS[viewer.theme], reading.best_possible
    labels = {  # beside the whiskers, where no bar is behind them
        "type": "scatter", "mode": "text", "x": ends, "y": [plain(name) for name in shown], "hoverinfo": "skip",
        "text": [f" {error(each.rmse)}" for each in shown.values()], "textposition": "middle right", "cliponaxis": False,
        "textfont": {"color": colors["ink"], "size": 12},
    }  # fmt: skip
    marks = []
    if best is not None:
        line, label = threshold(viewer, best, f"best possible {best:.2f}", "good", vertical=True)
        marks.append((line, {**label, "xanchor": "right"}))
    models = [reading.compared[name] for name in shown]
    return bars(
        viewer, {name: each.rmse for name, each in shown.items()},
        [colour(viewer, 0) if _is_champion(each, reading) else colors["line"] for each in models],
        titled(f"RMSE ({reading.facts.unit})", range=[0, 1.14 * max(ends)]), labels, keep="comparison", marks=marks,
        hover="RMSE %{x:.3f}<br>MAE %{customdata[0]:.3f}<br>R² %{customdata[1]:.4f}<br>%{customdata[2]}",
        customdata=[[each.mae, each.r2, plain(framework_of(model))] for model, each in zip(models, shown.values(), strict=True)],
        error_x={
            "type": "data", "symmetric": False, "color": colors["ink"], "thickness": 1.2, "width": 4,
            "array": [end - each.rmse for end, each in zip(ends, shown.values(), strict=True)],
            "arrayminus": [each.rmse - (each.rmse_low or each.rmse) for each in shown.values()],
        },
    )  # fmt: skip


def _results(reading: Reading, _: Viewer) -> Component | None:
    if reading.comparison is None:
        return None
    crossed = reading.comparison.ranked_by == "cross-validation"
    scores = ranking_scores(reading)
    rows, marked = [], None
    for i, (name, model) in enumerate(reading.compared.items()):
        is_champion = _is_champion(model, reading)
        marked = i if is_champion else marked
        found = scores.get(name)
        rmse, mae, r2 = (error(found.rmse), error(found.mae), number(found.r2, 4)) if found else (NONE, NONE, NONE)
        range_ = interval(found.rmse_low, found.rmse_high) if found else ""
        rows.append([
            html.Span([name, " ", badge("good", "champion") if is_champion else "", *_members(model)]),
            *([] if crossed else [framework_of(model)]),
            html.Span([rmse, html.Div(range_, className="detail nowrap")]),
            *([error(model.rmse)] if crossed else []),
            mae,
            r2,
            _in_mlflow(model, reading),
        ])  # fmt: skip
    second = ("RMSE", "Hold-out") if crossed else ("Framework", "RMSE")
    return table(
        Table(("Model", *second, "MAE", "R²", "MLflow"), rows, (1, 2, 3, 4) if crossed else (2, 3, 4)), marked=marked
    )


def _members(model: Quality) -> list[Component]:
    """Return what a stack is made of, the largest weight first; nothing for another model."""
    members = sorted(model.members, key=lambda each: -each.weight) if isinstance(model, ComparedModel) else []
    told = " + ".join(
        f"{number(each.weight, 2)} {each.model}" + (f" v{each.version}" if each.version else "") for each in members
    )
    return [html.Div(told, className="detail")] if told else []


def _in_mlflow(model: Quality, reading: Reading) -> Any:
    """Return links to the model's version in the registry, which links to its run, and to its card; empty for a baseline."""
    if not isinstance(model, ComparedModel):
        return ""
    url = reading.facts.mlflow_url
    version = outside("version", f"{url}/#/models/{quote(model.model)}/versions/{quote(model.version)}" if url else "")
    card = "/card?" + urlencode({"model": model.model, "version": model.version})
    return [version, ", ", html.A("card", href=card, target="_blank", title=f"Model card of {model.model} {model.version}")]


def _champions_plot(reading: Reading, viewer: Viewer) -> Figure:
    known = [(each.at, each.rmse, each.name) for each in reversed(reading.champions) if each.rmse is not None]
    if not known:
        return waiting(viewer, "No champion yet.")
    shown = [*known, (reading.end, *known[-1][1:])]
    trace = {
        "type": "scatter", "mode": "lines+markers", "name": "champion", "x": [viewer.clock.axis(at) for at, _, _ in shown],
        "y": [rmse for _, rmse, _ in shown], "text": [plain(name) for _, _, name in shown],
        "line": {"shape": "hv", "width": 2, "color": colour(viewer, 0)},
        "marker": {"size": [8] * len(known) + [0], "color": colour(viewer, 0)},
        "hovertemplate": "%{text}<br>hold-out RMSE %{y:.2f}<extra></extra>",
    }  # fmt: skip
    traces, values = [trace], [rmse for _, rmse, _ in known]
    if (best := reading.best_possible) is not None:
        traces.append(best_possible(viewer, best, known[0][0], reading.end))
        values.append(best)
    room = 0.15 * (max(values) - min(values)) or 0.1 * max(values)
    y = titled(f"hold-out RMSE ({reading.facts.unit})", range=[min(values) - room, max(values) + room])
    x = titled(f"time ({viewer.clock.name})", type="date")
    return figure(viewer, traces, x, y, keep=f"champions-{len(known)}")


def _champions(reading: Reading, viewer: Viewer) -> Component:
    newest = champions(reading.champions[:MAX_CHAMPIONS], viewer.clock)
    return table(newest, marked=0) if newest.rows else empty("The best model of the first comparison becomes champion.")


def _live(reading: Reading, _: Viewer) -> Component:
    live = errors_of_models(reading)
    return table(live) if live.rows else empty("No true values in this period yet; they count even if they come days later.")


PARTS = {
    "models-note": ("children", _note),
    "models-comparison": ("figure", _comparison),
    "models-table": ("children", _results),
    "models-champions-plot": ("figure", _champions_plot),
    "models-champions": ("children", _champions),
    "models-live": ("children", _live),
    **DEPENDENCE_PARTS,
    **PROMOTION_PARTS,
}
VIEW = View("/models", "Models", skeleton, PARTS)
