"""The bar chart of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from complex_system.evaluation.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHAMPION, _OTHER, _LIMIT, _TEXT, _GRID = "#0b6e4f", "#9db4c0", "#c1121f", "#253237", "#e3e8ea"


def rmse_chart(comparison: Comparison, best_possible: float | None = None, unit: str = "") -> Figure:
    """Horizontal bars of the RMSE, best on top, the champion in colour; a dashed line where no model can be better.

    Matplotlib's object interface is used without pyplot: it keeps no global state, so any thread may draw.

    Args:
        comparison: What to draw.
        best_possible: Lowest RMSE that any model can reach, where it is known.
        unit: The target's unit, for the axis.
    """
    from matplotlib.figure import Figure

    results = comparison.results
    figure = Figure(figsize=(8.0, 1.9 + 0.55 * len(results)), dpi=150, layout="constrained")
    axes = figure.subplots()
    values = [result.scores.rmse for result in results]
    labels = [
        f"{result.ref.trainer or result.ref.model}\nv{result.ref.version}{' (until now)' if result.incumbent else ''}"
        for result in results
    ]
    colours = [_CHAMPION] + [_OTHER] * (len(results) - 1)
    bars = axes.barh(range(len(results)), values, height=0.62, color=colours)
    texts = [_value(value, best_possible) for value in values]
    axes.bar_label(bars, texts, padding=6, color=_TEXT, fontsize=10)
    axes.set_yticks(range(len(results)), labels, color=_TEXT, fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*values, best_possible or 0.0]) * 1.28)
    axes.set_xlabel(f"RMSE{f' in {unit}' if unit else ''} (less is better)", color=_TEXT)
    axes.set_title(
        f"{results[0].ref.trainer or results[0].ref.model} is the champion of round {comparison.round}",
        loc="left", color=_TEXT, fontsize=13, fontweight="bold", pad=26,
    )  # fmt: skip
    axes.text(
        0, 1.0, f"{comparison.holdout:,} hold-out records that no trainer has seen",
        transform=axes.transAxes, va="bottom", color=_TEXT, fontsize=10,
    )  # fmt: skip
    if best_possible is not None:
        line = axes.axvline(best_possible, color=_LIMIT, linestyle=(0, (4, 3)), linewidth=1.6)
        axes.legend([line], [f"best possible: {best_possible:.2f}"], loc="upper right", bbox_to_anchor=(1.0, 1.18),
                    frameon=False, labelcolor=_LIMIT)  # fmt: skip
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(length=0, colors=_TEXT)
    axes.xaxis.grid(visible=True, color=_GRID)
    axes.set_axisbelow(True)
    return figure


def _value(rmse: float, best_possible: float | None) -> str:
    if not best_possible:
        return f"{rmse:.2f}"
    return f"{rmse:.2f}  ({100 * (rmse / best_possible - 1):+.1f} %)"
