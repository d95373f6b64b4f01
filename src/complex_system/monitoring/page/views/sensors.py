"""The sensors whose readings are collected, and which records and labels wait for what; as they are now, not over a period."""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.page.components import Parts, View, badge, card, columns, empty, figures, table
from complex_system.monitoring.page.formatting import NONE, Viewer, age, count, rate
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.summaries import Table
from complex_system.protocol.collection import OpenLabel, Sensor
from complex_system.protocol.database import Value

MAX_SENSORS = 300
_NO_ANSWER = "Waiting for thing_collection: it has not said how its sensors are."


def skeleton() -> Component:
    """Return the view without content."""
    return html.Div(
        [
            card("Collection", html.Div(id="sensors-figures")),
            card("Sensors", html.P(id="sensors-note", className="note"), html.Div(id="sensors-table")),
            columns(
                card(
                    "Open records",
                    html.Div(id="sensors-records"),
                    note="Records that are not complete yet, the oldest first.",
                ),
                card(
                    "Labels", html.Div(id="sensors-labels"), note="Values that came before their record, the oldest first."
                ),
            ),
            card(
                "Refused",
                html.Div(id="sensors-refused"),
                note="Labels without a record, and what could not be taken or predicted.",
            ),
        ]
    )


def _figures(reading: Reading, _: Viewer) -> Component:
    state = reading.collection
    if state is None:
        return empty(_NO_ANSWER)
    counts, silent = state.counts, sum(sensor.silent for sensor in state.sensors)
    return figures(
        ("Sensors", count(len(state.sensors)), f"{silent} silent" if silent else "none silent"),
        ("Readings now", rate(state.per_second), f"{count(state.behind)} not read yet" if state.behind else ""),
        ("Records", count(counts.records), f"{count(state.waiting_records)} open"),
        ("Predicted at once", count(counts.predicted)),
        ("Labels joined", count(counts.labels), f"{count(state.waiting_labels)} wait"),
        ("Labels without a record", count(counts.unmatched)),
        ("Refused", count(counts.refused + counts.malformed + counts.unusable)),
    )


def _note(reading: Reading, _: Viewer) -> list[Any]:
    state = reading.collection
    if state is None:
        return []
    parts: list[Any] = [html.Strong(f"{state.problem} ")] if state.problem else []
    if state.counts.dropped:
        parts.append(f"{count(state.counts.dropped)} messages were dropped by the stream before they were read. ")
    if len(state.sensors) > MAX_SENSORS:
        parts.append(f"The first {MAX_SENSORS} of {count(len(state.sensors))} sensors, silent ones first. ")
    return parts


def _sensors(reading: Reading, _: Viewer) -> Component:
    state = reading.collection
    if state is None or not state.sensors:
        return empty("No reading has come yet.")
    shown = sorted(state.sensors, key=lambda sensor: (not sensor.silent, sensor.name))[:MAX_SENSORS]
    rows = [[sensor.name, _value(sensor), _age(sensor), rate(sensor.per_second), _level(sensor)] for sensor in shown]
    return table(Table(("Sensor", "Newest value", "Age", "Rate", "State"), rows, (1, 2, 3)))


def _value(sensor: Sensor) -> str:
    return f"{_text(sensor.value)} {sensor.unit}".strip()


def _text(value: Value) -> str:
    return NONE if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _age(sensor: Sensor) -> str:
    return NONE if sensor.age is None else age(sensor.age)


def _level(sensor: Sensor) -> Component:
    if sensor.silent:
        return badge("bad", "silent")
    return badge("none", "no reading yet") if sensor.at is None else badge("good", "heard")


def _records(reading: Reading, viewer: Viewer) -> Component:
    state = reading.collection
    if state is None or not state.open_records:
        return empty("No record is open.")
    rows = [[each.key, viewer.clock.short(each.at), each.waits_for] for each in state.open_records]
    more = state.waiting_records - len(rows)
    note = [html.P(f"and {count(more)} more", className="note")] if more > 0 else []
    return html.Div([table(Table(("Record", "Began", "Waits for"), rows)), *note])


def _labels(reading: Reading, viewer: Viewer) -> Component:
    state = reading.collection
    if state is None or not state.open_labels:
        return empty("No label waits for its record.")
    more = state.waiting_labels - len(state.open_labels)
    note = [html.P(f"and {count(more)} more", className="note")] if more > 0 else []
    return html.Div([_label_table(state.open_labels, viewer), *note])


def _label_table(labels: tuple[OpenLabel, ...], viewer: Viewer) -> Component:
    rows = [[each.record, _text(each.value), viewer.clock.short(each.at)] for each in labels]
    return table(Table(("Record", "Label", "Measured"), rows, (1,)))


def _refused(reading: Reading, viewer: Viewer) -> Component:
    state = reading.collection
    if state is None or not (state.unmatched or state.notes):
        return empty("Nothing was refused.")
    unmatched = [_label_table(state.unmatched, viewer)] if state.unmatched else []
    notes = [html.Ul([html.Li(note) for note in reversed(state.notes)], className="sent")] if state.notes else []
    return html.Div([*unmatched, *notes])


PARTS: Parts = {
    "sensors-figures": ("children", _figures),
    "sensors-note": ("children", _note),
    "sensors-table": ("children", _sensors),
    "sensors-records": ("children", _records),
    "sensors-labels": ("children", _labels),
    "sensors-refused": ("children", _refused),
}
VIEW = View("/sensors", "Sensors", skeleton, PARTS)
