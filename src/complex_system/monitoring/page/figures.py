"""Plotly figures as plain dicts: colours for light and dark, axes with units, one look for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figure = dict[str, Any]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'Liberation Sans', Arial, sans-serif"
COLORS: dict[str, dict[str, str]] = {
    "light": {
        "ink": "#18222c", "muted": "#54616e", "grid": "#e7ecf0", "line": "#c9d2da", "surface": "#ffffff",
        "good": "#177245", "warn": "#a15c00", "bad": "#bf2c2c", "shade": "rgba(191,44,44,0.08)",
    },
    "dark": {
        "ink": "#e8eef4", "muted": "#a2b0bd", "grid": "#232d37", "line": "#3a4753", "surface": "#151c23",
        "good": "#4cc38a", "warn": "#f0b04e", "bad": "#ff8078", "shade": "rgba(255,128,120,0.12)",
    },
}  # fmt: skip
SERIES = {
    "light": ("#0f62c4", "#d2691e", "#128074", "#8a4fc9", "#b8336a", "#6b7680"),
    "dark": ("#62aefc", "#f5a25d", "#45c6b4", "#bd93f0", "#f07fae", "#9aa8b5"),
}
"""Six hues that stay apart for colour-blind eyes; curves differ in their dash as well."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def plain(text: object) -> str:
    """Text for a figure: plotly reads markup in names and labels, which what comes from events must not be."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;")


def theme_of(client: Mapping[str, Any] | None) -> str:
    """``light`` or ``dark``."""
    return "dark" if (client or {}).get("theme") == "dark" else "light"


def colour(theme: str, i: int) -> str:
    """The colour of the i-th curve."""
    return SERIES[theme][i % len(SERIES[theme])]


def figure(
    theme: str, traces: Sequence[Figure], x: Figure | None = None, y: Figure | None = None, *, keep: str = "", **layout: Any
) -> Figure:
    """A figure.

    Args:
        theme: ``light`` or ``dark``.
        traces: Its traces.
        x: What is special of the x axis.
        y: What is special of the y axis.
        keep: As long as this stays the same, so does what the reader has zoomed and hidden.
        layout: What is special otherwise.
    """
    colors = COLORS[theme]
    axis = {
        "gridcolor": colors["grid"], "linecolor": colors["line"], "zeroline": False, "ticks": "outside", "ticklen": 4,
        "tickcolor": colors["line"], "tickfont": {"color": colors["muted"], "size": 11}, "automargin": True,
        "title": {"font": {"color": colors["muted"], "size": 11.5}, "standoff": 6},
    }  # fmt: skip
    return {
        "data": list(traces),
        "layout": {
            "font": {"family": FONT, "size": 12, "color": colors["ink"]},
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 14, "t": 6, "b": 4, "pad": 0},
            "xaxis": _merged(axis, {"showgrid": False, "showline": True}, x or {}),
            "yaxis": _merged(axis, {"ticks": ""}, y or {}),
            "legend": {
                "orientation": "h", "x": 0, "y": 1, "xref": "container", "yref": "container", "xanchor": "left", "yanchor": "top",
                "bgcolor": "rgba(0,0,0,0)", "tracegroupgap": 0,
                "font": {"color": colors["ink"], "size": 11}, "itemwidth": 30, "entrywidth": 0,
            },
            "hoverlabel": {
                "bgcolor": colors["surface"], "bordercolor": colors["line"], "font": {"color": colors["ink"], "size": 12},
                "align": "left", "namelength": -1,
            },
            "hovermode": "x unified", "uirevision": keep or "same", "showlegend": len(traces) > 1,
            "dragmode": "zoom", "modebar": {"color": colors["muted"], "bgcolor": "rgba(0,0,0,0)"},
            **layout,
        },
    }  # fmt: skip


def waiting(theme: str, text: str) -> Figure:
    """Instead of a figure without data: what is awaited."""
    hidden = {"visible": False, "fixedrange": True}
    words = {
        "text": plain(text).replace("\n", "<br>"), "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False,
        "font": {"size": 13, "color": COLORS[theme]["muted"]}, "align": "center",
    }  # fmt: skip
    return figure(theme, [], hidden, hidden, keep="empty", annotations=[words], showlegend=False)


def curve(theme: str, i: int, name: str, x: Sequence[str], y: Sequence[float | None], unit: str = "", **more: Any) -> Figure:
    """A curve over time; single points between gaps are drawn as dots."""
    shown = f"%{{y:,.4~g}}{' ' + plain(unit) if unit else ''}"
    trace = {
        "type": "scatter", "mode": "lines+markers" if len(x) < 3 else "lines", "name": plain(name), "x": list(x), "y": list(y),
        "line": {"color": colour(theme, i), "width": 2, "dash": DASHES[i % len(DASHES)]}, "connectgaps": False,
        "hovertemplate": f"{shown}<extra>{plain(name)}</extra>",
    }  # fmt: skip
    return _merged(trace, more)


def level(theme: str, value: float, text: str, tone: str = "muted", *, vertical: bool = False) -> tuple[Figure, Figure]:
    """A dashed line across the figure, and its words, as shape and annotation."""
    colors = COLORS[theme]
    line = {"color": colors[tone], "width": 1.5, "dash": "dash"}
    if vertical:
        shape = {"type": "line", "xref": "x", "yref": "paper", "x0": value, "x1": value, "y0": 0, "y1": 1, "line": line}
        words = {"x": value, "xref": "x", "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "center"}
    else:
        shape = {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": line}
        words = {"x": 1, "xref": "paper", "y": value, "yref": "y", "yanchor": "bottom", "xanchor": "right"}
    return shape, {**words, "text": plain(text), "showarrow": False, "font": {"size": 11, "color": colors[tone]}}


def reference(theme: str, value: float, text: str, x: Sequence[str]) -> Figure:
    """A level as a dashed curve with a name in the legend, where words beside the line would hide curves."""
    return {
        "type": "scatter", "mode": "lines", "name": plain(text), "x": list(x), "y": [value] * len(x), "hoverinfo": "skip",
        "line": {"color": COLORS[theme]["good"], "width": 1.5, "dash": "dash"},
    }  # fmt: skip


def moment(theme: str, at: str, text: str, tone: str = "muted", *, late: bool = False) -> tuple[Figure, Figure]:
    """A vertical line at a time; its words stand on the left of it where it is ``late`` on the axis."""
    colors = COLORS[theme]
    shape = {
        "type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1,
        "line": {"color": colors[tone], "width": 1, "dash": "dot"},
    }  # fmt: skip
    words = {
        "x": at, "xref": "x", "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "right" if late else "left", "text": plain(text),
        "showarrow": False, "font": {"size": 10.5, "color": colors[tone]}, "textangle": 0, "xshift": -2 if late else 2,
    }  # fmt: skip
    return shape, words


def band(theme: str, start: str, end: str) -> Figure:
    """A shaded time, for instance of an alert."""
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1, "layer": "below",
        "fillcolor": COLORS[theme]["shade"], "line": {"width": 0},
    }  # fmt: skip


def _merged(*parts: Figure) -> Figure:
    whole: Figure = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = _merged(whole[key], value) if both else value
    return whole
