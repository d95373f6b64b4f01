"""Live data against the champion's reference: columns and features by drift, with their distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from complex_system.monitoring.aggregates import Gauge
from complex_system.monitoring.drift import MODERATE, SIGNIFICANT, band_of
from complex_system.monitoring.page.answers import MIN_RECORDS, are_few
from complex_system.monitoring.page.components import View, badge, card, columns, empty, plot
from complex_system.monitoring.page.formatting import Level, Viewer, count, number, share
from complex_system.monitoring.page.plots import (
    COLORS,
    Figure,
    bars,
    curves,
    over_time,
    threshold,
    titled,
    waiting,
)
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.svg import categories, histogram
from complex_system.monitoring.series import Curve
from complex_system.monitoring.views import ColumnView

_BAND_LEVELS: dict[str, Level] = {"stable": "good", "moderate": "warn", "significant": "bad"}
DRIFT_LIMITS = ((MODERATE, "moderate", "warn"), (SIGNIFICANT, "significant", "bad"))
_NO_WINDOW = "Waiting for the first comparison of live records."


def skeleton() -> Component:
    """Return the view without content."""
    choice = dcc.RadioItems(
        id="data-choice", value="raw", className="choice", inline=True,
        options={"raw": "Raw columns", "processed": "Model features"},
    )  # fmt: skip
    key = html.Div(
        [html.Span(className="key live"), "live", html.Span(className="key reference"),
         "reference, the champion's training data"],
        className="keys",
    )  # fmt: skip
    return html.Div(
        [
            columns(
                card("Drift now", html.P(id="data-note", className="note"),
                     plot("data-drift", "Population stability index of every column, largest first", 300), aside=choice),
                card("Drift over time", plot("data-over-time", "Population stability index over time", 336)),
            ),
            card("Live against reference", html.Div(id="data-columns", className="tiles"), dcc.Store(id="data-pictures"),
                 aside=key),
            card("Missing and out of range", plot("data-quality", "Shares of missing and out-of-range values over time", 280),
                 html.P(id="data-rejected", className="quiet")),
        ]
    )  # fmt: skip


def distribution(column: ColumnView) -> str:
    """Return a drawing of a column's live and reference distribution."""
    label = f"Live and reference distribution of {column.name}"
    if column.categories or column.type == "indicator":
        return categories(column.categories or ("0", "1"), column.reference, column.live, label)
    return histogram(column.edges, column.reference, column.live, column.unit, label)


def largest(found: Mapping[str, Curve[Gauge]]) -> dict[str, Curve[Gauge]]:
    """Return curves by their highest value, largest first."""
    return dict(sorted(found.items(), key=lambda item: -_highest(item[1])))


def _highest(curve: Curve[Gauge]) -> float:
    return max(gauge.highest for gauge in curve.values())


def _missing(reading: Reading) -> str:
    return reading.awaiting("drift", "Waiting for predictions, and for the reference that the champion was trained on.")


def _measured(reading: Reading, viewer: Viewer) -> Sequence[ColumnView]:
    """Return the columns or features, as the reader has chosen."""
    return reading.data.processed if viewer.choice == "processed" else reading.data.raw


def _note(reading: Reading, viewer: Viewer) -> str:
    data = reading.data
    if not _measured(reading, viewer):
        return ""
    sources = {"champion": "the champion's training data", "database": "the labelled records of the database"}
    source = sources.get(data.reference.source if data.reference else "", "the reference")
    text = (
        f"Population stability index (PSI) of the last {count(data.samples)} predicted records against {source}: "
        f"stable below {MODERATE}, moderate up to {SIGNIFICANT}, significant above."
    )
    if not are_few(data):
        return text
    trained = count(data.reference.samples if data.reference else 0)
    return f"{text} With fewer than {MIN_RECORDS} records on either side it may be chance; the reference has {trained}."


def _drift(reading: Reading, viewer: Viewer) -> Figure:
    known = {each.name: each.psi for each in reversed(_measured(reading, viewer)) if each.psi is not None}
    if not known:
        return waiting(viewer, _missing(reading))
    colors, few = COLORS[viewer.theme], are_few(reading.data)
    bands = ["" if few else band_of(psi) for psi in known.values()]
    marks = [threshold(viewer, limit, str(limit), tone, vertical=True) for limit, _, tone in DRIFT_LIMITS]
    x = titled("PSI (no unit)", range=[0, max(0.3, 1.3 * max(known.values()))])
    return bars(
        viewer, known, [colors[_BAND_LEVELS.get(each, "muted")] for each in bands], x, keep="drift", hover="PSI %{x:.3f}",
        marks=marks, textposition="outside", cliponaxis=False, textfont={"size": 11, "color": colors["ink"]},
        text=[f"{psi:.2f} {'' if each == 'stable' else each}" for psi, each in zip(known.values(), bands, strict=True)],
    )  # fmt: skip


def _over_time(reading: Reading, viewer: Viewer) -> Figure:
    psi = "drift/psi" if viewer.choice == "processed" else "data/psi"
    found = largest(reading.gauges(psi))
    if not found:
        return waiting(viewer, _NO_WINDOW)
    traces = curves(viewer, reading, found, lambda gauge: gauge.mean)
    marks = [threshold(viewer, limit, f"{name} from {limit}", tone) for limit, name, tone in DRIFT_LIMITS]
    return over_time(viewer, reading, traces, titled("PSI (no unit)"), keep=psi, marks=marks)


def _tiles(reading: Reading, viewer: Viewer) -> Any:
    few = are_few(reading.data)
    tiles = [_tile(f"data-tile-{i}", each, few=few) for i, each in enumerate(_measured(reading, viewer))]
    return tiles or empty(_missing(reading))


def _pictures(reading: Reading, viewer: Viewer) -> dict[str, str]:
    return {f"data-tile-{i}": distribution(each) for i, each in enumerate(_measured(reading, viewer))}


def _tile(key: str, column: ColumnView, *, few: bool) -> Component:
    name = column.name
    head = html.Div([html.H3(name, title=name), _badge(column, few=few)], className="tile-head")
    return html.Div(
        [head, html.Div(id=key, className="drawing"), html.P(_facts(column), className="quiet")], className="tile", key=key
    )


def _badge(column: ColumnView, *, few: bool) -> Component:
    if column.follows_clock:
        return badge("none", "follows the clock")
    if column.psi is None:
        return badge("none", "too few")
    if few:
        return badge("none", f"PSI {number(column.psi)}")
    return badge(_BAND_LEVELS[band_of(column.psi)], f"PSI {number(column.psi)} {band_of(column.psi)}")


def _facts(column: ColumnView) -> str:
    facts = [f"missing {share(column.missing)} (reference {share(column.missing_reference)})"]
    if column.out_of_range is not None:
        facts.append(f"out of range {share(column.out_of_range)}")
    if column.new_categories:
        facts.append("new: " + ", ".join(f"{name} ({n})" for name, n in list(column.new_categories.items())[:4]))
    if column.test is not None and column.test.p_value is not None:
        facts.append(f"KS p = {column.test.p_value:.2g}")
    elif column.test is not None and column.test.distance is not None:
        facts.append(f"Wasserstein {column.test.distance:.2f} standard deviations")
    return " · ".join(facts)


def _quality(reading: Reading, viewer: Viewer) -> Figure:
    found = {
        f"{column}: {text}": each
        for figure, text in (("missing", "missing"), ("out_of_range", "out of range"), ("new_category", "new category"))
        for column, each in reading.gauges(f"data/{figure}").items()
    }
    if not found:
        return waiting(viewer, _NO_WINDOW)
    shown = {name: each for name, each in largest(found).items() if _highest(each) > 0}
    if not shown:
        return waiting(viewer, f"No missing, out-of-range or new values in the last {reading.period.label}.")
    traces = curves(viewer, reading, shown, lambda gauge: 100 * gauge.mean, "%")
    return over_time(viewer, reading, traces, titled("share of records (%)"), keep="quality")


def _rejected(reading: Reading, _: Viewer) -> str:
    """Return what was rejected in the last minutes, and what was not written; neither is among the live records."""
    rejected, ingest = reading.data.rejected, reading.data.ingest
    dead, stopped, conflicts = (int(ingest.get(name, 0)) for name in ("dead", "stopped_sources", "conflicts"))
    notes = [f"{count(dead)} published messages were refused and are dead letters."] if dead else []
    notes += [f"{count(stopped)} sources have no room for another dead letter: their messages wait."] if stopped else []
    notes += (
        [f"{count(conflicts)} records came under keys that exist with other values; `fiot extras conflicts` shows both."]
        if conflicts
        else []
    )
    if not rejected.get("count"):
        return " ".join(notes)
    reasons = [
        f"{count(n)} {name.replace('_', ' ')}" for name, n in rejected.items() if n and name not in ("count", "share")
    ]
    new = [f"{column} ({count(n)})" for column, n in reading.data.new_categories.items()]
    text = f"Rejected in the last five minutes: {share(rejected.get('share'))} of {count(rejected['count'])} new records"
    text += f": {', '.join(reasons)}" if reasons else ""
    return " ".join([text + (f". New categories in {', '.join(new)}." if new else "."), *notes])


PARTS = {
    "data-note": ("children", _note),
    "data-drift": ("figure", _drift),
    "data-over-time": ("figure", _over_time),
    "data-columns": ("children", _tiles),
    "data-pictures": ("data", _pictures),
    "data-quality": ("figure", _quality),
    "data-rejected": ("children", _rejected),
}
VIEW = View("/data", "Data", skeleton, PARTS, choice="data-choice")
