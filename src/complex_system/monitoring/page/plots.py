"""Plotly figures as plain dictionaries: colours for light and dark, axes with units, one look for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from complex_system.monitoring.page.formatting import Viewer
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.series import Curve, T, points

Figure = dict[str, Any]
Mark = tuple[Figure, Figure]
"""A line or an area across a figure with its label, as shape and annotation; the label may be empty."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'Liberation Sans', Arial, sans-serif"
COLORS: dict[str, dict[str, str]] = {
    "light": {
        "ink": "#18222c", "muted": "#54616e", "grid": "#e7ecf0", "line": "#c9d2da", "surface": "#ffffff",
        "good": "#177245", "warn": "#a15c00", "bad": "#bf2c2c", "shade": "rgba(191,44,44,0.08)", "band": "rgba(15,98,196,0.10)",
    },
    "dark": {
        "ink": "#e8eef4", "muted": "#a2b0bd", "grid": "#232d37", "line": "#3a4753", "surface": "#151c23",
        "good": "#4cc38a", "warn": "#f0b04e", "bad": "#ff8078", "shade": "rgba(255,128,120,0.12)", "band": "rgba(98,174,252,0.16)",
    },
}  # fmt: skip
SERIES = {
    "light": ("#0f62c4", "#d2691e", "#128074", "#8a4fc9", "#b8336a", "#6b7680"),
    "dark": ("#62aefc", "#f5a25d", "#45c6b4", "#bd93f0", "#f07fae", "#9aa8b5"),
}
"""Six hues that colour-blind people can tell apart; curves differ in their dashes as well."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MAX_CURVES = len(DASHES)


def plain(text: object) -> str:
    """Escape text for a figure: plotly reads names and labels as markup, and what comes from events must not be markup."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;")


def colour(viewer: Viewer, i: int) -> str:
    """Return the colour of the i-th curve."""
    return SERIES[viewer.theme][i % len(SERIES[viewer.theme])]


def titled(title: str, **more: Any) -> Figure:
    """Return an axis with a title, which names the unit."""
    return {"title": {"text": plain(title)}, **more}


def figure(
    viewer: Viewer, traces: Sequence[Figure], x: Figure, y: Figure, *, keep: str, marks: Sequence[Mark] = (), **layout: Any
) -> Figure:
    """Return a figure.

    Args:
        viewer: The reader.
        traces: Its traces.
        x: The x axis, as far as it differs from the usual one.
        y: The y axis, likewise.
        keep: While this stays the same, the reader's zoom and hidden curves stay, too.
        marks: Lines and areas across the figure.
        layout: The layout, as far as it differs from the usual one.
    """
    colors = COLORS[viewer.theme]
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
            "xaxis": _merged(axis, {"showgrid": False, "showline": True}, x),
            "yaxis": _merged(axis, {"ticks": ""}, y),
            "legend": {
                "orientation": "h", "x": 0, "y": 1, "xref": "container", "yref": "container", "xanchor": "left", "yanchor": "top",
                "bgcolor": "rgba(0,0,0,0)", "tracegroupgap": 0,
                "font": {"color": colors["ink"], "size": 11}, "itemwidth": 30, "entrywidth": 0,
            },
            "hoverlabel": {
                "bgcolor": colors["surface"], "bordercolor": colors["line"], "font": {"color": colors["ink"], "size": 12},
                "align": "left", "namelength": -1,
            },
            "shapes": [shape for shape, _ in marks], "annotations": [label for _, label in marks if label],
            "hovermode": "x unified", "uirevision": keep, "showlegend": len(traces) > 1,
            "dragmode": "zoom", "modebar": {"color": colors["muted"], "bgcolor": "rgba(0,0,0,0)"},
            **layout,
        },
    }  # fmt: skip


def over_time(viewer: Viewer, reading: Reading, traces: Sequence[Figure], y: Figure, *, keep: str, **layout: Any) -> Figure:
    """Return a figure over the period, with a legend and a y axis from zero unless told otherwise; arguments as :func:`figure`."""
    span = [viewer.clock.axis(reading.begin), viewer.clock.axis(reading.end)]
    x = titled(f"time ({viewer.clock.name})", type="date", range=span)
    keep = f"{keep}-{reading.period.key}"
    return figure(viewer, traces, x, {"rangemode": "tozero", **y}, keep=keep, **{"showlegend": True, **layout})


def waiting(viewer: Viewer, text: str) -> Figure:
    """Return a figure without data, which says what is missing."""
    hidden = {"visible": False, "fixedrange": True}
    note = {
        "text": plain(text).replace("\n", "<br>"), "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False,
        "font": {"size": 13, "color": COLORS[viewer.theme]["muted"]}, "align": "center",
    }  # fmt: skip
    return figure(viewer, [], hidden, hidden, keep="empty", annotations=[note], showlegend=False)


def curve(
    viewer: Viewer, i: int, name: str, values: Iterable[tuple[float, float | None]], unit: str = "", **more: Any
) -> Figure:
    """Return a curve through times and values; one of fewer than three points is drawn with dots.

    Args:
        viewer: The reader.
        i: Its place among the curves, which gives its colour and dashes.
        name: For the legend.
        values: Times in seconds since 1970 with their values; None makes a gap.
        unit: Shown behind a value.
        more: What differs from the usual curve.
    """
    known = list(values)
    trace = {
        "type": "scatter", "mode": "lines+markers" if len(known) < 3 else "lines", "name": plain(name),
        "x": [viewer.clock.axis(at) for at, _ in known], "y": [value for _, value in known],
        "line": {"color": colour(viewer, i), "width": 2, "dash": DASHES[i % len(DASHES)]}, "connectgaps": False,
        "hovertemplate": f"%{{y:,.4~g}}{' ' + plain(unit) if unit else ''}<extra>{plain(name)}</extra>",
    }  # fmt: skip
    return _merged(trace, more)


def curves(
    viewer: Viewer, reading: Reading, found: Mapping[str, Curve[T]], value: Callable[[T], float | None], unit: str = ""
) -> list[Figure]:
    """Return a curve for each of the first ``MAX_CURVES`` series."""
    shown = list(found.items())[:MAX_CURVES]
    return [curve(viewer, i, name, points(each, reading.period.step, value), unit) for i, (name, each) in enumerate(shown)]


def threshold(viewer: Viewer, value: float, text: str, tone: str = "muted", *, vertical: bool = False) -> Mark:
    """Return a dashed line across the figure with its label."""
    color = COLORS[viewer.theme][tone]
    along, across = ("y", "x") if vertical else ("x", "y")
    shape = {
        "type": "line", f"{along}ref": "paper", f"{across}ref": across, f"{along}0": 0, f"{along}1": 1, f"{across}0": value,
        f"{across}1": value, "line": {"color": color, "width": 1.5, "dash": "dash"},
    }  # fmt: skip
    label = {
        f"{along}ref": "paper", f"{across}ref": across, f"{along}": int(vertical), f"{across}": value, "yanchor": "bottom",
        "xanchor": "center" if vertical else "left", "xshift": 0 if vertical else 3, "text": plain(text),
        "showarrow": False, "font": {"size": 11, "color": color},
    }  # fmt: skip
    return shape, label if text else {}


def best_possible(viewer: Viewer, value: float, start: float, end: float) -> Figure:
    """Return the best possible RMSE as a dashed curve; it is named in the legend, because a label would hide other curves."""
    trace = {"color": COLORS[viewer.theme]["good"], "width": 1.5, "dash": "dash"}
    name = f"best possible {value:.2f}"
    return curve(
        viewer, 0, name, [(start, value), (end, value)], mode="lines", line=trace, hoverinfo="skip", hovertemplate=None
    )


def moment(viewer: Viewer, at: float, text: str, tone: str = "muted", *, late: bool = False) -> Mark:
    """Return a vertical line at a time and its label, which is on the left of the line if it is ``late`` on the axis."""
    colors, x = COLORS[viewer.theme], viewer.clock.axis(at)
    shape = {
        "type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
        "line": {"color": colors[tone], "width": 1, "dash": "dot"},
    }  # fmt: skip
    label = {
        "x": x, "xref": "x", "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "right" if late else "left", "text": plain(text),
        "showarrow": False, "font": {"size": 10.5, "color": colors[tone]}, "textangle": 0, "xshift": -2 if late else 2,
    }  # fmt: skip
    return shape, label


def shaded(viewer: Viewer, start: float, end: float) -> Mark:
    """Return a shaded time span, for instance of an alert."""
    shape = {
        "type": "rect", "xref": "x", "yref": "paper", "x0": viewer.clock.axis(start), "x1": viewer.clock.axis(end), "y0": 0, "y1": 1,
        "layer": "below", "fillcolor": COLORS[viewer.theme]["shade"], "line": {"width": 0},
    }  # fmt: skip
    return shape, {}


def bars(
    viewer: Viewer, values: Mapping[str, float], colors: Sequence[str], x: Figure, *more: Figure, keep: str, hover: str,
    marks: Sequence[Mark], **trace: Any,
) -> Figure:  # fmt: skip
    """Return horizontal bars, the first one at the bottom; ``more`` traces are drawn over them, and ``trace`` adds to the bars."""
    drawn = {
        "type": "bar", "orientation": "h", "x": list(values.values()), "y": [plain(name) for name in values], "width": 0.62,
        "marker": {"color": list(colors), "cornerradius": 3}, "hovertemplate": f"%{{y}}<br>{hover}<extra></extra>", **trace,
    }  # fmt: skip
    y = {"showgrid": False, "tickfont": {"color": COLORS[viewer.theme]["ink"], "size": 12}}
    return figure(
        viewer, [drawn, *more], x, y, keep=keep, marks=marks, margin={"l": 12, "r": 14, "t": 26, "b": 8}, hovermode="closest",
        showlegend=False,
    )  # fmt: skip


def _merged(*parts: Figure) -> Figure:
    whole: Figure = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = _merged(whole[key], value) if both else value
    return whole
