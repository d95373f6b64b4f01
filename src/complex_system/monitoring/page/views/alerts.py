"""Open and past alerts, with what the system did and who was told."""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.page.components import View, badge, card, empty
from complex_system.monitoring.page.formatting import Level, Viewer, lasting, number
from complex_system.monitoring.page.reading import Reading
from complex_system.protocol.operations import Action, Alert, SentMessage

MAX_PAST = 100
_LEVELS: dict[str, Level] = {"critical": "bad", "warning": "warn"}


def skeleton() -> Component:
    """Return the view without content."""
    note = "Alerts that ended in the chosen period, newest first."
    terms = ("Evidence", "RMSE", "PSI", "Out of range")
    past = card("Past", html.Div(id="alerts-past"), note=note, terms=terms)
    return html.Div([card("Open", html.Div(id="alerts-open"), terms=terms), past])


def alert_card(alert: Alert, reading: Reading, viewer: Viewer, *, short: bool = False) -> Component:
    """Return an alert with its time, its worst value and what was done."""
    began, ended = viewer.clock.short(alert.began), alert.ended
    level: Level = "good" if ended is not None else _LEVELS.get(alert.severity, "none")
    rule = html.Span(alert.rule, className="rule")
    if ended is None:
        time = f"since {began}, {lasting(reading.at - alert.began)}"
        head = [badge(level, alert.severity), rule, html.Span(time, className="quiet")]
    else:
        time = f"{began} to {viewer.clock.short(ended)}, {lasting(ended - alert.began)}"
        head = [
            badge(level, "ended"),
            html.Span(alert.severity, className="quiet"),
            rule,
            html.Span(time, className="quiet"),
        ]
    parts: list[Any] = [html.Div(head, className="alert-head"), html.P(alert.sentence, className="sentence")]
    if ended is not None and alert.over:
        parts.append(html.P(alert.over, className="sentence"))
    if not short:
        parts.append(html.P(f"{alert.metric}, worst value {number(alert.value, 3)}", className="quiet metric"))
    if alert.actions:
        steps = alert.actions[-1:] if short else alert.actions
        parts.append(html.Ol([_step(each, viewer) for each in steps], className="steps"))
    elif not short:
        parts.append(html.P("The system took no action.", className="quiet"))
    if alert.messages and not short:
        parts.append(html.Ul(_sent(alert, viewer), className="sent quiet"))
    return html.Article(parts, className=f"alert {level}")


def _sent(alert: Alert, viewer: Viewer) -> list[Component]:
    """Return a line for the beginning and one for the end of an alert: where it was sent, and how that went."""
    lines: list[Component] = []
    for event, what in (("raised", "Beginning"), ("ended", "End")):
        told = [f"{each.channel} {_went(each, viewer)}" for each in alert.messages if each.event == event]
        if told:
            lines.append(html.Li(f"{what}: {'; '.join(told)}"))
    return lines


def _went(message: SentMessage, viewer: Viewer) -> str:
    at, due = viewer.clock.short(message.finished or message.at), viewer.clock.short(message.due)
    if message.outcome == "delivered":
        return f"delivered {at}"
    if message.outcome != "waiting":
        return f"{message.outcome} {at} ({message.problem or 'without an answer'})"
    if message.attempts:
        return f"not delivered yet ({message.problem}), {message.attempts} attempt(s), the next {due}"
    return f"held back in quiet hours until {due}" if message.quiet else f"goes out {due}"


def _open(reading: Reading, viewer: Viewer) -> Any:
    text = "No open alerts. An alert opens when a value breaks a rule of the deployment for long enough."
    return [alert_card(alert, reading, viewer) for alert in reading.open_alerts] or empty(text)


def _past(reading: Reading, viewer: Viewer) -> Any:
    text = f"No alerts ended in the last {reading.period.label}."
    return [alert_card(alert, reading, viewer) for alert in reading.past_alerts[:MAX_PAST]] or empty(text)


def _step(action: Action, viewer: Viewer) -> Component:
    what = action.what or {"training": "A training round is running."}.get(action.outcome, action.outcome)
    outcome = [] if action.outcome in what else [html.Span(action.outcome, className="outcome")]
    return html.Li([html.Span(viewer.clock.short(action.at), className="when"), *outcome, html.Span(what)])


PARTS = {"alerts-open": ("children", _open), "alerts-past": ("children", _past)}
VIEW = View("/alerts", "Alerts", skeleton, PARTS)
