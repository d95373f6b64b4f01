"""The frameworks compared on the hold-out set, who was champion when, and how versions do with live records."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.aggregates import ErrorSums
from complex_system.monitoring.page import series
from complex_system.monitoring.page.components import View, Viewer, badge, card, empty, outside, plot, table
from complex_system.monitoring.page.figures import COLORS, Figure, colour, figure, level, plain, reference, waiting
from complex_system.monitoring.page.formatting import NONE, count, error, interval, number, unit_of
from complex_system.monitoring.page.reading import Reading

OUTPUTS = (
    ("models-note", "children"),
    ("models-comparison", "figure"),
    ("models-table", "children"),
    ("models-champions-plot", "figure"),
    ("models-champions", "children"),
    ("models-live", "children"),
)


def skeleton() -> Component:
    """The parts, empty."""
    return html.Div(
        [
            html.Div(
                [
                    card(
                        "Comparison of the models",
                        html.P(id="models-note", className="note"),
                        plot("models-comparison", "RMSE of every compared model beside the best possible", 270),
                        html.Div(id="models-table"),
                    ),
                    card(
                        "Champions",
                        plot("models-champions-plot", "RMSE of each champion at its comparison", 270),
                        html.Div(id="models-champions"),
                    ),
                ],
                className="columns",
            ),
            card(
                "With live records",
                html.Div(id="models-live"),
                note="Predictions of the chosen period that have met their truth. A shadow scores along and answers nobody.",
            ),
        ]
    )


def fill(reading: Reading, viewer: Viewer) -> list[Any]:
    """The values of ``OUTPUTS``."""
    return [
        _note(reading),
        _comparison(reading, viewer),
        _results(reading),
        _champions_plot(reading, viewer),
        _champions(reading, viewer),
        _live(reading),
    ]


def _rows(reading: Reading) -> list[dict[str, Any]]:
    """The models, best first as they were ranked."""
    return [dict(row) for row in (reading.comparison or {}).get("results") or []]


def _baselines(reading: Reading) -> list[dict[str, Any]]:
    return [{**row, "baseline": name} for name, row in ((reading.comparison or {}).get("baselines") or {}).items()]


def _by_folds(reading: Reading) -> bool:
    return (reading.comparison or {}).get("ranked_by") == "cross-validation"


def _figures(row: dict[str, Any], *, by_folds: bool) -> dict[str, Any]:
    """The figures that the ranking goes by, where the row has them."""
    return row["cv"] if by_folds and row.get("cv") else row


def _name(row: dict[str, Any]) -> str:
    return f"baseline {row['baseline']}" if "baseline" in row else f"{row.get('model')} v{row.get('version')}"


def _is_champion(row: dict[str, Any], reading: Reading) -> bool:
    champion = reading.champion or (reading.comparison or {}).get("champion") or {}
    return (row.get("model"), str(row.get("version"))) == (champion.get("model"), str(champion.get("version")))


def _note(reading: Reading) -> list[Any]:
    comparison = reading.comparison
    if not comparison:
        return []
    records = (
        f"{count(comparison.get('holdout'))} hold-out records that no trainer saw. " if comparison.get("holdout") else ""
    )
    if _by_folds(reading):
        folds = comparison.get("cross_validation") or {}
        again = f", {folds['repeats']} times" if int(folds.get("repeats") or 1) > 1 else ""
        records = (
            f"Ranked by cross-validation, because the records are few: {count(folds.get('records'))} records in "
            f"{folds.get('folds')} folds{again}. Lines are 95 % intervals. "
        )
    words: list[Any] = [f"{records}Shorter is better. "]
    if comparison.get("verdict"):
        words.append(html.Strong(f"{comparison['verdict']} "))
    if comparison.get("kept"):
        words.append(f"{comparison['kept']} ")
    words.append(outside("Comparison in MLflow", comparison.get("run_url")) if comparison.get("run_url") else "")
    return words


def _comparison(reading: Reading, viewer: Viewer) -> Figure:
    rows = _rows(reading)
    if not rows:
        return waiting(
            viewer.theme, "Waiting for the first training round:\nit begins when enough labelled records are there."
        )
    rows = [*rows, *_baselines(reading)]
    rows.reverse()
    shown = [_figures(row, by_folds=_by_folds(reading)) for row in rows]
    ends = [float(each.get("rmse_high") or each["rmse"]) for each in shown]
    colors = COLORS[viewer.theme]
    best = reading.best_possible
    bars = {
        "type": "bar", "orientation": "h", "x": [each["rmse"] for each in shown], "y": [plain(_name(row)) for row in rows],
        "error_x": {
            "type": "data", "symmetric": False, "array": [end - each["rmse"] for end, each in zip(ends, shown, strict=True)],
            "arrayminus": [each["rmse"] - float(each.get("rmse_low") or each["rmse"]) for each in shown],
            "color": colors["ink"], "thickness": 1.2, "width": 4,
        },
        "textfont": {"color": colors["ink"], "size": 12},
        "marker": {"color": [colour(viewer.theme, 0) if _is_champion(row, reading) else colors["line"] for row in rows],
                   "cornerradius": 3},
        "customdata": [
            [each.get("mae"), each.get("r2"), plain(row.get("framework") or "")] for row, each in zip(rows, shown, strict=True)
        ],
        "hovertemplate": "%{y}<br>RMSE %{x:.3f}<br>MAE %{customdata[0]:.3f}<br>R² %{customdata[1]:.4f}"
                         "<br>%{customdata[2]}<extra></extra>",
        "name": "RMSE", "width": 0.62, "showlegend": False,
    }  # fmt: skip
    highest = max(ends)
    x = {"title": {"text": f"RMSE ({plain(unit_of(reading.facts.dataset))})"}, "range": [0, highest * 1.14]}
    words = {  # beside the whiskers, where no bar is behind them
        "type": "scatter", "mode": "text", "x": ends, "y": bars["y"], "text": [f" {error(each['rmse'])}" for each in shown],
        "textposition": "middle right", "cliponaxis": False, "textfont": {"color": colors["ink"], "size": 12}, "hoverinfo": "skip",
        "showlegend": False, "name": "",
    }  # fmt: skip
    shapes, notes = [], []
    if best is not None:
        shape, words = level(viewer.theme, best, f"best possible {best:.2f}", "good", vertical=True)
        shapes, notes = [shape], [{**words, "xanchor": "right"}]
    return figure(
        viewer.theme, [bars, words], x, {"showgrid": False, "tickfont": {"color": colors["ink"], "size": 12}}, keep="comparison",
        shapes=shapes, annotations=notes, margin={"l": 12, "r": 14, "t": 26, "b": 8}, hovermode="closest",
    )  # fmt: skip


def _results(reading: Reading) -> Component | None:
    rows = _rows(reading)
    if not rows:
        return None
    rows += _baselines(reading)
    crossed = _by_folds(reading)
    cells = []
    for row in rows:
        figures = _figures(row, by_folds=crossed)
        known = figures is not row or not crossed  # a champion of before was not cross-validated with these records
        cells.append([
            html.Span([_name(row), " ", badge("good", "champion") if _is_champion(row, reading) else ""]),
            *([] if crossed else [str(row.get("framework", ""))]),
            html.Span([error(figures["rmse"]), html.Div(interval(figures), className="detail nowrap")]) if known else NONE,
            *([error(row["rmse"])] if crossed else []),
            error(figures["mae"]) if known else NONE,
            number(figures["r2"], 4) if known else NONE,
            _in_mlflow(row, reading) if "baseline" not in row else "",
        ])  # fmt: skip
    marked = next((i for i, row in enumerate(rows) if _is_champion(row, reading)), None)
    heads = (
        ["Model", "RMSE", "Hold-out", "MAE", "R²", "MLflow"]
        if crossed
        else ["Model", "Framework", "RMSE", "MAE", "R²", "MLflow"]
    )
    return table(tuple(heads), cells, numbers=(1, 2, 3, 4) if crossed else (2, 3, 4), marked=marked)


def _in_mlflow(row: dict[str, Any], reading: Reading) -> Any:
    """A link to the model's run, or to its version in the registry, which names the run."""
    if row.get("run_url"):
        return outside("run", row["run_url"])
    place = f"{reading.facts.mlflow_url}/#/models/{quote(str(row.get('model')))}/versions/{quote(str(row.get('version')))}"
    return outside("version", place if reading.facts.mlflow_url else "")


def _champions_plot(reading: Reading, viewer: Viewer) -> Figure:
    known = [each for each in reading.champions if each.get("rmse") is not None]
    if not known:
        return waiting(viewer.theme, "No champion yet.")
    times = [viewer.clock.axis(float(each["at"])) for each in known]
    trace = {
        "type": "scatter", "mode": "lines+markers", "x": [*times, viewer.clock.axis(reading.end)],
        "y": [*(each["rmse"] for each in known), known[-1]["rmse"]], "name": "champion",
        "text": [*(plain(_name(dict(each))) for each in known), plain(_name(dict(known[-1])))],
        "line": {"shape": "hv", "width": 2, "color": colour(viewer.theme, 0)},
        "marker": {"size": [8] * len(known) + [0], "color": colour(viewer.theme, 0)},
        "hovertemplate": "%{text}<br>RMSE %{y:.2f}<extra></extra>",
    }  # fmt: skip
    traces, values = [trace], [float(each["rmse"]) for each in known]
    if (best := reading.best_possible) is not None:
        traces.append(reference(viewer.theme, best, f"best possible {best:.2f}", [times[0], viewer.clock.axis(reading.end)]))
        values.append(best)
    room = 0.15 * (max(values) - min(values)) or 0.1 * max(values)
    span = [min(values) - room, max(values) + room]
    y = {"title": {"text": f"RMSE ({plain(unit_of(reading.facts.dataset))})"}, "range": span}
    x = {"type": "date", "title": {"text": f"time ({plain(viewer.clock.name)})"}}
    return figure(viewer.theme, traces, x, y, keep=f"champions-{len(known)}")


def _champions(reading: Reading, viewer: Viewer) -> Component:
    if not reading.champions:
        return empty("The model that wins the first comparison is crowned here.")
    rows = []
    for each in list(reversed(reading.champions))[:12]:
        rows.append([
            viewer.clock.moment(float(each["at"])),
            _name(dict(each)),
            error(each.get("rmse")),
            str(each.get("cause") or "–"),
        ])  # fmt: skip
    return table(("Crowned", "Model", "RMSE", "Cause"), rows, numbers=(2,), marked=0)


def _live(reading: Reading) -> Component:
    curves = series.errors_by_model(reading)
    if not curves:
        return empty("No prediction of this period has met its truth yet. Late truths are joined when they come.")
    rows = []
    for served in series.ordered(curves):
        metrics = series.total(curves[served], ErrorSums).metrics()
        cells = [*(error(metrics.get(name)) for name in ("rmse", "mae", "bias")), number(metrics.get("r2"), 4)]
        rows.append([served.label, served.service, count(metrics["count"]), *cells])
    return table(("Model", "Service", "Pairs", "RMSE", "MAE", "Bias", "R²"), rows, numbers=(2, 3, 4, 5, 6))


VIEW = View("/models", "Models", OUTPUTS, skeleton, fill)
