"""Live data against the champion's reference: columns and features by drift, with their distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from complex_system.monitoring.aggregates import Gauge
from complex_system.monitoring.drift import MODERATE, SIGNIFICANT, band_of
from complex_system.monitoring.evidence import MIN_EFFECTIVE, NOTICEABLE, SURE, Evidence
from complex_system.monitoring.page.answers import MIN_RECORDS, OLD, are_few
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
from complex_system.monitoring.page.terms import requests_of
from complex_system.monitoring.series import Curve
from complex_system.monitoring.views import ColumnView
from complex_system.protocol.serving import ORIGIN_LABELS

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
                     plot("data-drift", "Population stability index of every column, largest first", 300), aside=choice,
                     terms=("PSI", "Evidence", "Reference")),
                card("Drift over time", plot("data-over-time", "Population stability index over time", 336), terms=("PSI",),
                     note=f"Only times with at least {MIN_RECORDS} records on either side."),
            ),
            card("Live against reference", html.Div(id="data-columns", className="tiles"), dcc.Store(id="data-pictures"),
                 aside=key, terms=("PSI", "Evidence", "Reference", "KS p", "Wasserstein", "Out of range")),
            card("Missing and out of range", plot("data-quality", "Shares of missing and out-of-range values over time", 280),
                 html.P(id="data-rejected", className="quiet"), terms=("Out of range",)),
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


def judged_drift(reading: Reading, measured: Mapping[str, Curve[Gauge]]) -> dict[str, Curve[Gauge]]:
    """Return the curves without the times of so few records that an index exceeds its limits by chance."""
    judged = reading.gauges("drift/judged").get("", {})  # earlier releases did not count them
    few = {at for at, records in judged.items() if records.highest < MIN_RECORDS}
    curves = {name: {at: gauge for at, gauge in each.items() if at not in few} for name, each in measured.items()}
    return {name: each for name, each in curves.items() if each}


def _highest(curve: Curve[Gauge]) -> float:
    return max(gauge.highest for gauge in curve.values())


def _missing(reading: Reading) -> str:
    awaited = "Waiting for predictions, and for the reference that the champion was trained on."
    if reading.data.samples:
        awaited = f"There are fewer than {reading.data.needed} predicted records: no index yet."
    return reading.awaiting("drift", awaited)


def _measured(reading: Reading, viewer: Viewer) -> Sequence[ColumnView]:
    """Return the columns or features, as the reader has chosen."""
    return reading.data.processed if viewer.choice == "processed" else reading.data.raw


def _note(reading: Reading, viewer: Viewer) -> str:
    data = reading.data
    if not _measured(reading, viewer):
        return ""
    sources = {"champion": "the champion's training data", "database": "the labelled records of the database"}
    source = sources.get(data.reference.source if data.reference else "", "the reference")
    asked = ", ".join(f"{count(data.origins[each])} {requests_of(each)}" for each in ORIGIN_LABELS if each in data.origins)
    when = f", as of {viewer.clock.moment(data.at)}" if reading.at - data.at > OLD else ""
    text = (
        f"PSI of the last {count(data.samples)} predicted records{f' ({asked})' if asked else ''} against {source}{when}: "
        f"stable below {MODERATE}, moderate up to {SIGNIFICANT}, significant above."
    )
    if any(each.evidence for each in data.processed):
        text += (
            f" From an evidence of {SURE:g} on a column has moved; it allows for records that are like those before them, as in "
            "the training data."
        )
    if data.independent:
        text += (
            " The champion is of an earlier release: records are taken as independent of each other, which they may not be."
        )
    if data.unjudged:
        names = ", ".join(sorted(data.unjudged)[:5])
        text += (
            f" There is no evidence for {names}{' and others' if len(data.unjudged) > 5 else ''}: the training data change so slowly "
            f"there that they are worth fewer than {MIN_EFFECTIVE:.0f} independent records."
        )
    if not are_few(data):
        return text
    trained = count(data.reference.samples if data.reference else 0)
    return f"{text} With fewer than {MIN_RECORDS} records on either side it may be chance; the reference has {trained}."


def _drift(reading: Reading, viewer: Viewer) -> Figure:
    measured = {each.name: each for each in reversed(_measured(reading, viewer)) if each.psi is not None}
    known = {name: each.psi for name, each in measured.items() if each.psi is not None}
    if not known:
        return waiting(viewer, _missing(reading))
    colors, few = COLORS[viewer.theme], are_few(reading.data)
    judged = [state_of(each, few=few) for each in measured.values()]
    marks = [threshold(viewer, limit, str(limit), tone, vertical=True) for limit, _, tone in DRIFT_LIMITS]
    x = titled("PSI (no unit)", range=[0, max(0.3, 1.3 * max(known.values()))])
    return bars(
        viewer, known, [colors["muted" if level == "none" else level] for level, _ in judged], x, keep="drift", hover="PSI %{x:.3f}",
        marks=marks, textposition="outside", cliponaxis=False, textfont={"size": 11, "color": colors["ink"]},
        text=[f"{psi:.2f} {'' if each == 'stable' else each}" for psi, (_, each) in zip(known.values(), judged, strict=True)],
    )  # fmt: skip


def _over_time(reading: Reading, viewer: Viewer) -> Figure:
    psi = "drift/psi" if viewer.choice == "processed" else "data/psi"
    measured = reading.gauges(psi)
    found = largest(judged_drift(reading, measured))
    if not found:
        few = f"So far there were fewer than {MIN_RECORDS} predicted records, or records of the reference:\nan index may be chance."
        return waiting(viewer, few if measured else _NO_WINDOW)
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
    level, what = state_of(column, few=few)
    return badge(level, f"PSI {number(column.psi)} {what}".strip())


def state_of(column: ColumnView, *, few: bool) -> tuple[Level, str]:
    """Return how a column with an index is, in a word: by its evidence, and by the index where there is none."""
    if column.evidence is not None:
        value = column.evidence.value
        return (
            ("bad", "moved") if value >= SURE else ("warn", "may be moving") if value >= NOTICEABLE else ("good", "stable")
        )
    if few or column.psi is None:
        return "none", ""
    return _BAND_LEVELS[band_of(column.psi)], band_of(column.psi)


def _facts(column: ColumnView) -> str:
    facts = [f"missing {share(column.missing)} (reference {share(column.missing_reference)})"]
    if column.out_of_range is not None:
        facts.append(f"out of range {share(column.out_of_range)}")
    if column.new_categories:
        facts.append("new: " + ", ".join(f"{name} ({n})" for name, n in list(column.new_categories.items())[:4]))
    if column.evidence is not None:
        facts.append(_evidence(column.evidence))
    if column.test is not None and column.test.p_value is not None:
        facts.append(f"KS p = {column.test.p_value:.2g}")
    elif column.test is not None and column.test.distance is not None:
        facts.append(f"Wasserstein {column.test.distance:.2f} standard deviations")
    return " · ".join(facts)


def _evidence(found: Evidence) -> str:
    text = f"evidence {found.value:.1f}"
    if found.value < NOTICEABLE:
        return text
    return f"{text} ({found.aspect} {'up' if found.rising else 'down'}, {count(found.records)} records)"


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
    """Return what was rejected, not written, or processed outside of its range in the last minutes; not of the live records."""
    rejected, ingest = reading.data.rejected, reading.data.ingest
    dead, stopped, conflicts = (int(ingest.get(name, 0)) for name in ("dead", "stopped_sources", "conflicts"))
    notes = [f"{count(dead)} published messages were refused and are dead letters."] if dead else []
    notes += [f"{count(stopped)} sources have no room for another dead letter: their messages wait."] if stopped else []
    notes += (
        [f"{count(conflicts)} records came under keys that exist with other values; `fiot extras conflicts` shows both."]
        if conflicts
        else []
    )
    if outside := reading.data.outside:
        named = ", ".join(f"{column} ({count(n)})" for column, n in outside.items())
        notes.append(f"Values outside of their range that were processed all the same in the last five minutes: {named}.")
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
