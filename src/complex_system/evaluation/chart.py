"""The chart of a comparison: the RMSE of models and baselines as bars, with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from complex_system.evaluation.results import Comparison
from complex_system.evaluation.verdict import format_figure
from complex_system.protocol.training import Quality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCENT, OTHER, _LIMIT, TEXT, GRID = "#0b6e4f", "#9db4c0", "#c1121f", "#253237", "#e3e8ea"
_BASELINE = "#e3e8ea"


def rmse_chart(comparison: Comparison, best_possible: float | None = None, unit: str = "") -> Figure:
    """Draw the RMSE as horizontal bars, best on top, the champion in colour, baselines below; a dashed line at the best possible.

    Whiskers are 95 % intervals. The bars show what the ranking goes by.

    Matplotlib is used without pyplot, which keeps global state: any thread may draw.

    Args:
        comparison: What to draw.
        best_possible: Lowest RMSE that any model can reach, where it is known.
        unit: The target's unit, for the axis.
    """
    from matplotlib.figure import Figure

    results, champion, baselines = comparison.results, comparison.champion.ref, comparison.baselines
    figure = Figure(figsize=(8.0, 1.9 + 0.55 * (len(results) + len(baselines))), dpi=150, layout="constrained")
    axes = figure.subplots()
    shown = [_shown(each.quality, comparison.ranked_by == "cross-validation") for each in (*results, *baselines.values())]
    values = [value for value, _, _ in shown]
    labels = [
        f"{result.ref.trainer or result.ref.model}\nv{result.ref.version}{' (until now)' if result.incumbent else ''}"
        for result in results
    ]
    labels += [f"{name}\n(baseline)" for name in baselines]
    places = range(len(values))
    colours = [ACCENT if result is comparison.champion else OTHER for result in results] + [_BASELINE] * len(baselines)
    whiskers = [[value - low for value, low, _ in shown], [high - value for value, _, high in shown]]
    shows_ranges = any(map(any, whiskers))
    style = {"ecolor": TEXT, "elinewidth": 1.0, "capsize": 3.0}
    axes.barh(places, values, height=0.62, color=colours, xerr=whiskers if shows_ranges else None, error_kw=style)
    for place, (value, _, high) in enumerate(shown):
        text = _value(value, best_possible)
        axes.annotate(text, (high, place), xytext=(6, 0), textcoords="offset points", va="center", color=TEXT, fontsize=10)
    axes.set_yticks(places, labels, color=TEXT, fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*(high for _, _, high in shown), best_possible or 0.0]) * 1.28 or 1.0)
    by = ", 95 % intervals" if shows_ranges else ""
    axes.set_xlabel(f"RMSE{f' in {unit}' if unit else ''} (less is better{by})", color=TEXT)
    axes.set_title(
        f"{champion.trainer or champion.model} is the champion of round {comparison.round}",
        loc="left", color=TEXT, fontsize=13, fontweight="bold", pad=26,
    )  # fmt: skip
    axes.text(
        0, 1.0, _basis(comparison),
        transform=axes.transAxes, va="bottom", color=TEXT, fontsize=10,
    )  # fmt: skip
    if best_possible is not None:
        line = axes.axvline(best_possible, color=_LIMIT, linestyle=(0, (4, 3)), linewidth=1.6)
        axes.legend([line], [f"best possible: {best_possible:.2f}"], loc="upper right", bbox_to_anchor=(1.0, 1.18),
                    frameon=False, labelcolor=_LIMIT)  # fmt: skip
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, colors=TEXT)
    axes.xaxis.grid(visible=True, color=GRID)
    axes.set_axisbelow(True)
    return figure


def _shown(quality: Quality, by_folds: bool) -> tuple[float, float, float]:
    """Return RMSE, lower and upper end that are drawn of a model: those of the ranking, where it has them."""
    figures = quality.cv if by_folds and quality.cv is not None else quality
    low, high = figures.rmse_low, figures.rmse_high
    return figures.rmse, figures.rmse if low is None else low, figures.rmse if high is None else high


def _basis(comparison: Comparison) -> str:
    folds = comparison.folds
    if comparison.ranked_by == "cross-validation" and folds:
        repeats = f", {folds.repeats} times" if folds.repeats > 1 else ""
        return f"cross-validation of {folds.records:,} records in {folds.folds} folds{repeats}"
    return f"{comparison.holdout:,} hold-out records that no trainer has seen"


def _value(rmse: float, best_possible: float | None) -> str:
    if not best_possible:
        return format_figure(rmse)
    return f"{rmse:.2f}  ({100 * (rmse / best_possible - 1):+.1f} %)"
