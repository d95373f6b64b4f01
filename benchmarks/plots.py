"""One picture a table: bars with their spread, readable on a light page and on a dark one."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.tables import Table

_GREY = "#808890"
_OURS = "#2f81c7"
_OTHER = "#a0a8b0"


def file_name(table: Table) -> str:
    """The picture's file, after the table's title."""
    return re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-") + ".svg"


def draw(table: Table, folder: Path) -> Path:
    """Writes the picture and returns its path."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 10, "text.color": _GREY})
    from matplotlib import pyplot

    bars = table.bars[::-1]
    figure, axes = pyplot.subplots(figsize=(7, 0.7 + 0.38 * len(bars)))
    colours = [_OURS if bar.name.startswith("ours") else _OTHER for bar in bars]
    spread = [[bar.value - bar.least for bar in bars], [bar.most - bar.value for bar in bars]]
    values = [bar.value for bar in bars]
    axes.barh([bar.name for bar in bars], values, color=colours, xerr=spread, ecolor=_GREY, capsize=3, height=0.65)
    axes.set_xlabel(table.unit, color=_GREY)
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.tick_params(colors=_GREY)
    for side, line in axes.spines.items():
        line.set_visible(side in ("left", "bottom"))
        line.set_color(_GREY)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(table)
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return path
