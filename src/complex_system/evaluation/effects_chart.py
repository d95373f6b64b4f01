"""The picture of a model's explanation: importance of its raw columns as bars, and the effects of the most important ones below."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from complex_system.evaluation.chart import ACCENT, GRID, OTHER, TEXT
from complex_system.evaluation.verdict import format_figure
from complex_system.protocol.explanation import ColumnEffect, ModelExplanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BARS = 12
_PANELS = 3
"""Panels in a row."""


def effects_chart(explanation: ModelExplanation, unit: str = "") -> Figure:
    """Draw an explanation.

    Args:
        explanation: At least one column.
        unit: Of the target.
    """
    from matplotlib.figure import Figure  # imported late: it takes a while

    shown = explanation.importance[:_BARS]
    rows = math.ceil(len(explanation.effects) / _PANELS)
    heights = [0.34 * len(shown) + 1.3, *([2.3] * rows)]
    figure = Figure(figsize=(9.6, sum(heights)), dpi=110, layout="constrained")
    grid = figure.add_gridspec(rows + 1, _PANELS, height_ratios=heights)
    bars = figure.add_subplot(grid[0, :])
    places = range(len(shown))
    increases = [each.increase for each in shown]
    whiskers = [[each.increase - each.low for each in shown], [each.high - each.increase for each in shown]]
    style = {"ecolor": TEXT, "elinewidth": 1.0, "capsize": 3.0}
    bars.barh(places, increases, height=0.62, color=ACCENT, xerr=whiskers, error_kw=style)
    for place, each in zip(places, shown, strict=True):
        text, end = format_figure(each.increase), max(each.high, 0.0)
        bars.annotate(text, (end, place), xytext=(6, 0), textcoords="offset points", va="center", color=TEXT, fontsize=9)
    bars.set_yticks(places, [_escaped(each.column) for each in shown], color=TEXT, fontsize=10)
    bars.invert_yaxis()
    bars.set_xlim(min(0.0, *(each.low for each in shown)), max(*(each.high for each in shown), 0.0) * 1.14 or 1.0)
    of = f" in {_escaped(unit)}" if unit else ""
    bars.set_xlabel(f"increase of the RMSE{of} where the column is exchanged among the records", color=TEXT)
    rest = len(explanation.importance) - len(shown) + explanation.left_out
    bars.set_title(
        f"What {_escaped(explanation.model)} v{explanation.version} depends on{f' (and {rest} further columns)' if rest else ''}",
        loc="left", color=TEXT, fontsize=13, fontweight="bold", pad=22,
    )  # fmt: skip
    about = f"{explanation.records:,} hold-out records, RMSE {format_figure(explanation.rmse)}; lines: {explanation.repeats} repeats"
    bars.text(0, 1.0, about, transform=bars.transAxes, va="bottom", color=TEXT, fontsize=9)
    _plain(bars)
    bars.xaxis.grid(visible=True, color=GRID)
    lows, highs = ([end(effect.effects) for effect in explanation.effects] for end in (min, max))
    for number, effect in enumerate(explanation.effects):
        panel = figure.add_subplot(grid[1 + number // _PANELS, number % _PANELS])
        _draw(panel, effect)
        room = 0.06 * (max(highs) - min(lows)) or 1.0
        panel.set_ylim(min(lows) - room, max(highs) + room)  # the same for all: their sizes can be compared
        panel.set_title(
            _escaped(effect.column + (f" ({effect.unit})" if effect.unit else "")), loc="left", color=TEXT, fontsize=10
        )
        if number % _PANELS == 0:
            panel.set_ylabel(f"effect{of}", color=TEXT, fontsize=9)
    return figure


def _draw(panel: Any, effect: ColumnEffect) -> None:
    panel.axhline(0, color=GRID, linewidth=1.2)
    if effect.method == "accumulated":
        panel.plot(effect.values, effect.effects, color=ACCENT, linewidth=2)
    else:
        places = range(len(effect.values))
        panel.vlines(places, 0, effect.effects, color=OTHER, linewidth=2)
        panel.plot(places, effect.effects, "o", color=ACCENT, markersize=6)
        panel.set_xticks(places, [_escaped(str(each))[:14] for each in effect.values], rotation=30, ha="right")
        panel.set_xlim(-0.5, len(effect.values) - 0.5)
    _plain(panel)
    panel.yaxis.grid(visible=True, color=GRID)
    panel.tick_params(labelsize=8)


def _plain(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, colors=TEXT)
    axes.set_axisbelow(True)


def _escaped(name: str) -> str:
    """Return a name as matplotlib writes it: a dollar sign would begin a formula."""
    return name.replace("$", r"\$")
