"""Live data against the champion's reference: columns and features by drift, with their distributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from complex_system.monitoring.drift import MODERATE, SIGNIFICANT, band_of
from complex_system.monitoring.page import series
from complex_system.monitoring.page.answers import FEW_RECORDS, are_few
from complex_system.monitoring.page.components import View, Viewer, badge, card, empty, plot
from complex_system.monitoring.page.figures import COLORS, Figure, curve, figure, level, plain, waiting
from complex_system.monitoring.page.formatting import count, number, share
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.svg import Bars, categories, histogram

OUTPUTS = (
    ("data-note", "children"),
    ("data-drift", "figure"),
    ("data-over-time", "figure"),
    ("data-columns", "children"),
    ("data-pictures", "data"),
    ("data-quality", "figure"),
    ("data-rejected", "children"),
)
MOST_CURVES = 6
_BANDS = {"stable": ("good", "stable"), "moderate": ("warn", "moderate"), "significant": ("bad", "significant")}


def skeleton() -> Component:
    """The parts, empty."""
    choice = dcc.RadioItems(
        id="data-choice", value="raw", className="choice", inline=True,
        options={"raw": "Raw columns", "processed": "Model features"},
    )  # fmt: skip
    return html.Div(
        [
            html.Div(
                [
                    card("Drift now", html.P(id="data-note", className="note"),
                         plot("data-drift", "Population stability index of every column, largest first", 300), aside=choice),
                    card("Drift over time", plot("data-over-time", "Population stability index over time", 336)),
                ],
                className="columns",
            ),
            card("Live against reference", html.Div(id="data-columns", className="tiles"), dcc.Store(id="data-pictures"),
                 aside=html.Div([html.Span(className="key live"), "live", html.Span(className="key reference"),
                                 "reference, the champion's training data"], className="keys")),
            card("Missing and out of range", plot("data-quality", "Shares of missing and out-of-range values over time", 280),
                 html.P(id="data-rejected", className="quiet")),
        ]
    )  # fmt: skip


def fill(reading: Reading, viewer: Viewer) -> list[Any]:
    """The values of ``OUTPUTS``."""
    part = viewer.choice if viewer.choice in ("raw", "processed") else "raw"
    measured = _measured(reading, part)
    columns, pictures = _tiles(reading, measured)
    return [
        _note(reading, measured),
        _drift(reading, viewer, measured),
        _over_time(reading, viewer, part),
        columns,
        pictures,
        _quality(reading, viewer),
        _rejected(reading),
    ]


def _awaited(reading: Reading) -> str:
    return reading.awaited("drift", "Waiting for predictions, and for the reference that the champion was trained on.")


def _measured(reading: Reading, part: str) -> dict[str, Mapping[str, Any]]:
    """Columns or features, those that drift most first."""
    return {str(each["name"]): each for each in reading.data.get(part) or ()}


def _note(reading: Reading, measured: Mapping[str, Any]) -> str:
    if not measured:
        return ""
    samples, reference = reading.data.get("samples", 0), reading.data.get("reference") or {}
    against = {"champion": "the champion's training data", "database": "the labelled records of the database"}
    return (
        f"Population stability index of the last {count(samples)} predicted records against "
        f"{against.get(str(reference.get('source')), 'the reference')}. "
        f"Below {MODERATE} stable, up to {SIGNIFICANT} moderate, beyond significant"
        + (
            f" where both have {FEW_RECORDS} records; here it may be chance, the reference has {count(reference.get('samples', 0))}."
            if are_few(reading.data)
            else "."
        )
    )


def _drift(reading: Reading, viewer: Viewer, measured: Mapping[str, Mapping[str, Any]]) -> Figure:
    known = {name: float(each["psi"]) for name, each in measured.items() if each.get("psi") is not None}
    if not known:
        return waiting(viewer.theme, _awaited(reading))
    colors = COLORS[viewer.theme]
    tones = {"stable": colors["good"], "moderate": colors["warn"], "significant": colors["bad"]}
    names = list(reversed(known))
    few = are_few(reading.data)
    bands = ["few" if few else band_of(known[name]) for name in names]
    tones["few"] = colors["muted"]
    bars = {
        "type": "bar", "orientation": "h", "y": [plain(name) for name in names], "x": [known[name] for name in names],
        "marker": {"color": [tones[each] for each in bands], "cornerradius": 3}, "width": 0.6,
        "text": [f"{known[name]:.2f}" if each in ("stable", "few") else f"{known[name]:.2f} {each}"
                 for name, each in zip(names, bands, strict=True)],
        "textposition": "outside", "cliponaxis": False, "textfont": {"size": 11, "color": colors["ink"]},
        "hovertemplate": "%{y}<br>PSI %{x:.3f}<extra></extra>",
    }  # fmt: skip
    low, first = level(viewer.theme, MODERATE, str(MODERATE), "warn", vertical=True)
    high, second = level(viewer.theme, SIGNIFICANT, str(SIGNIFICANT), "bad", vertical=True)
    top = max(0.3, 1.3 * max(known.values()))
    return figure(
        viewer.theme, [bars], {"title": {"text": "PSI (no unit)"}, "range": [0, top]},
        {"showgrid": False, "tickfont": {"color": colors["ink"], "size": 11}}, keep="drift", hovermode="closest",
        shapes=[low, high], annotations=[first, second], margin={"l": 12, "r": 14, "t": 24, "b": 8}, showlegend=False,
        bargap=0.3,
    )  # fmt: skip


def _over_time(reading: Reading, viewer: Viewer, part: str) -> Figure:
    prefix = "data/psi/" if part == "raw" else "drift/psi/"
    found = series.gauges(reading, lambda metric: metric.removeprefix(prefix) if metric.startswith(prefix) else None)
    if not found:
        return waiting(viewer.theme, "Waiting for the first measured window.")
    most = sorted(found, key=lambda name: -max(gauge.highest for gauge in found[name].values()))[:MOST_CURVES]
    traces = [
        curve(viewer.theme, i, name, [viewer.clock.axis(at) for at in sorted(found[name])],
              [round(found[name][at].mean, 4) for at in sorted(found[name])])
        for i, name in enumerate(most)
    ]  # fmt: skip
    low, first = level(viewer.theme, MODERATE, "moderate from 0.1", "warn")
    high, second = level(viewer.theme, SIGNIFICANT, "significant from 0.25", "bad")
    first, second = ({**words, "x": 0, "xanchor": "left", "xshift": 3} for words in (first, second))
    span = [viewer.clock.axis(reading.begin), viewer.clock.axis(reading.end)]
    x = {"type": "date", "range": span, "title": {"text": f"time ({plain(viewer.clock.name)})"}}
    keep = f"drift-{part}-{reading.period.key}"
    y = {"title": {"text": "PSI (no unit)"}, "rangemode": "tozero"}
    return figure(viewer.theme, traces, x, y, keep=keep, shapes=[low, high], annotations=[first, second], showlegend=True)


def _tiles(reading: Reading, measured: Mapping[str, Mapping[str, Any]]) -> tuple[Any, dict[str, str]]:
    if not measured:
        return empty(_awaited(reading)), {}
    tiles, pictures, few = [], {}, are_few(reading.data)
    for i, (name, each) in enumerate(measured.items()):
        key = f"data-tile-{i}"
        pictures[key] = _picture(name, each)
        tiles.append(
            html.Div(
                [
                    html.Div([html.H3(name, title=name), _badge(each, few=few)], className="tile-head"),
                    html.Div(id=key, className="drawing"),
                    html.P(_facts(each), className="quiet"),
                ],
                className="tile",
                key=key,
            )
        )
    return tiles, pictures


def _picture(name: str, each: Mapping[str, Any]) -> str:
    label = f"Live and reference distribution of {name}"
    if "categories" in each:
        return categories(Bars([str(c) for c in each["categories"]], each["reference"], each["live"]), label)
    if each.get("type") == "indicator":
        return categories(Bars(["0", "1"], each["reference"], each["live"]), label)
    return histogram(each["edges"], each["reference"], each["live"], str(each.get("unit") or ""), label)


def _badge(each: Mapping[str, Any], *, few: bool) -> Component:
    if each.get("psi") is None:
        return badge("none", "too few")
    if few:
        return badge("none", f"PSI {number(float(each['psi']))}")
    kind, word = _BANDS[band_of(float(each["psi"]))]
    return badge(kind, f"PSI {number(float(each['psi']))} {word}")


def _facts(each: Mapping[str, Any]) -> str:
    words = [f"missing {share(each.get('missing'))} (reference {share(each.get('missing_reference'))})"]
    if each.get("out_of_range") is not None:
        words.append(f"out of range {share(each['out_of_range'])}")
    if each.get("new_categories"):
        words.append("new: " + ", ".join(f"{name} ({n})" for name, n in list(each["new_categories"].items())[:4]))
    test = each.get("test") or {}
    if test.get("name") == "ks":
        words.append(f"KS p = {test['p_value']:.2g}")
    elif test.get("name") == "wasserstein":
        words.append(f"Wasserstein {test['distance']:.2f} standard deviations")
    return " · ".join(words)


def _rejected(reading: Reading) -> str:
    """What became of the records that came in the last minutes: rejected ones never get into the live window."""
    rejected = reading.data.get("rejected") or {}
    if not rejected.get("count"):
        return ""
    kinds = [
        f"{count(n)} {name.replace('_', ' ')}"
        for name, n in rejected.items()
        if n and name not in ("count", "share", "per_second")
    ]
    new = [f"{column} ({count(n)})" for column, n in (reading.data.get("new_categories") or {}).items()]
    words = f"Rejected in the last five minutes: {share(rejected.get('share'))} of {count(rejected['count'])} new records"
    words += f": {', '.join(kinds)}" if kinds else ""
    return words + (f". New categories in {', '.join(new)}." if new else ".")


def _quality(reading: Reading, viewer: Viewer) -> Figure:
    def wanted(metric: str) -> str | None:
        for prefix, word in (
            ("data/missing/", "missing"),
            ("data/out_of_range/", "out of range"),
            ("data/new_category/", "new category"),
        ):
            if metric.startswith(prefix):
                return f"{metric.removeprefix(prefix)}: {word}"
        return None

    found = series.gauges(reading, wanted)
    if not found:
        return waiting(viewer.theme, "Waiting for the first measured window.")
    highest = {name: max(gauge.highest for gauge in found[name].values()) for name in found}
    shown = sorted((name for name in found if highest[name] > 0), key=lambda name: -highest[name])[:MOST_CURVES]
    if not shown:
        return waiting(viewer.theme, f"No value was missing, out of range or new within {reading.period.label}.")
    traces = [
        curve(viewer.theme, i, name, [viewer.clock.axis(at) for at in sorted(found[name])],
              [round(100 * found[name][at].mean, 3) for at in sorted(found[name])], "%")
        for i, name in enumerate(shown)
    ]  # fmt: skip
    span = [viewer.clock.axis(reading.begin), viewer.clock.axis(reading.end)]
    x = {"type": "date", "range": span, "title": {"text": f"time ({plain(viewer.clock.name)})"}}
    y = {"title": {"text": "share of records (%)"}, "rangemode": "tozero"}
    return figure(viewer.theme, traces, x, y, keep=f"quality-{reading.period.key}", showlegend=True)


VIEW = View("/data", "Data", OUTPUTS, skeleton, fill, choice="data-choice")
