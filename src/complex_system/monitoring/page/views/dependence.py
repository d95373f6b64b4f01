"""What the winner of the last comparison depends on: importance of its raw columns as bars, and the effects of the first ones."""

from __future__ import annotations

from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from complex_system.monitoring.page.components import Parts, card, empty, plot
from complex_system.monitoring.page.formatting import Viewer, count, error
from complex_system.monitoring.page.plots import COLORS, Figure, bars, colour, plain, titled, waiting
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.svg import effects
from complex_system.protocol.explanation import ColumnEffect, ModelExplanation

MAX_BARS = 12
_NO_EFFECT = 1e-6
"""Share of the range of all effects below which a column's differences are those of rounding."""
_NONE = "The next comparison says what its winner depends on."


def dependence_card() -> Component:
    """Return the card without content."""
    return card(
        "What the model depends on",
        html.P(id="models-dependence-note", className="note"),
        plot("models-importance", "Importance of the raw columns, largest first", 250),
        html.P(id="models-effects-note", className="note"),
        html.Div(id="models-effects", className="tiles"),
        dcc.Store(id="models-effect-pictures"),
        terms=("Importance", "Effect", "RMSE", "Hold-out"),
    )


def _explanation(reading: Reading) -> ModelExplanation | None:
    return reading.comparison.explanation if reading.comparison else None


def _note(reading: Reading, _: Viewer) -> str:
    found = _explanation(reading)
    if found is None:
        return ""
    rest = len(found.importance) - MAX_BARS + found.left_out
    return (
        f"{found.model} v{found.version}, on {count(found.records)} hold-out records with RMSE {error(found.rmse)}. Bars: increase of "
        f"the RMSE where a column's values are exchanged among the records; lines: {found.repeats} repeats."
        f"{f' {count(rest)} less important columns are not shown.' if rest > 0 else ''}"
    )


def _importance(reading: Reading, viewer: Viewer) -> Figure:
    found = _explanation(reading)
    if found is None:
        return waiting(viewer, _NONE)
    shown = found.importance[:MAX_BARS][::-1]
    colors, highest = COLORS[viewer.theme], max(0.0, *(each.high for each in shown))
    labels = {  # beside the lines, where no bar is behind them
        "type": "scatter", "mode": "text", "x": [max(each.high, 0.0) for each in shown], "y": [plain(each.column) for each in shown],
        "text": [f" {error(each.increase)}" for each in shown], "textposition": "middle right", "cliponaxis": False,
        "textfont": {"color": colors["ink"], "size": 12}, "hoverinfo": "skip",
    }  # fmt: skip
    return bars(
        viewer, {each.column: each.increase for each in shown}, [colour(viewer, 0)] * len(shown),
        titled(f"increase of the RMSE ({reading.facts.unit})", range=[min(0.0, *(each.low for each in shown)), 1.14 * highest or 1.0]),
        labels, keep="importance", marks=(), hover="%{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
        customdata=[[each.low, each.high] for each in shown],
        error_x={
            "type": "data", "symmetric": False, "color": colors["ink"], "thickness": 1.2, "width": 4,
            "array": [each.high - each.increase for each in shown], "arrayminus": [each.increase - each.low for each in shown],
        },
    )  # fmt: skip


def _effects_note(reading: Reading, _: Viewer) -> str:
    found = _explanation(reading)
    if found is None or not found.effects:
        return ""
    return f"Effects on the prediction ({reading.facts.unit}), all on the same scale: how it changes with each of these columns."


def _tiles(reading: Reading, _: Viewer) -> Any:
    found = _explanation(reading)
    if found is None:
        return []
    if not found.effects:
        return empty("No effects: the model carries no sample of its training records, or has no numbers and categories.")
    low, high = _limits(found)
    return [_tile(place, each, high - low) for place, each in enumerate(found.effects)]


def _tile(place: int, effect: ColumnEffect, scale: float) -> Component:
    key = f"models-effect-{place}"
    head = html.Div(html.H3(effect.column, title=effect.column), className="tile-head")
    low, high = min(effect.effects), max(effect.effects)
    size = f"from {_signed(low)} to {_signed(high)}" if high - low > _NO_EFFECT * scale else "no effect"
    drawing = html.Div(id=key, className="drawing")
    return html.Div([head, drawing, html.P(size, className="quiet")], className="tile", key=key)


def _signed(value: float) -> str:
    return f"{value:+,.3g}"


def _limits(found: ModelExplanation) -> tuple[float, float]:
    """Return the least and the largest of all effects, and 0 between them."""
    every = [value for each in found.effects for value in each.effects]
    return min(0.0, *every), max(0.0, *every)


def _pictures(reading: Reading, _: Viewer) -> dict[str, str]:
    found = _explanation(reading)
    if found is None or not found.effects:
        return {}
    low, high = _limits(found)
    room = 0.05 * (high - low) or 1.0
    unit = reading.facts.unit
    return {
        f"models-effect-{place}": effects(
            each.values, each.effects, (low - room, high + room), each.unit, _label(each, unit)
        )
        for place, each in enumerate(found.effects)
    }


def _label(effect: ColumnEffect, unit: str) -> str:
    """Return an effect as a text, for readers who cannot see the drawing."""
    pairs = sorted(zip(effect.effects, effect.values, strict=True), key=lambda pair: pair[0])
    (least, at_least), (most, at_most) = pairs[0], pairs[-1]
    values = [value if isinstance(value, str) else f"{value:.4g}" for value in (at_least, at_most)]
    ends = f"least {_signed(least)} at {values[0]}, most {_signed(most)} at {values[1]}"
    return f"Effect of {effect.column} on the prediction ({unit}): {ends}"


DEPENDENCE_PARTS: Parts = {
    "models-dependence-note": ("children", _note),
    "models-importance": ("figure", _importance),
    "models-effects-note": ("children", _effects_note),
    "models-effects": ("children", _tiles),
    "models-effect-pictures": ("data", _pictures),
}
"""What fills the card."""
