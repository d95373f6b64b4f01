"""Open and past alerts, with what the system did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.page.components import View, Viewer, badge, card, empty
from complex_system.monitoring.page.formatting import lasting, number
from complex_system.monitoring.page.reading import Alert, Reading

OUTPUTS = (("alerts-open", "children"), ("alerts-past", "children"))
MOST_PAST = 100
_KINDS = {"critical": "bad", "warning": "warn"}


def skeleton() -> Component:
    """The parts, empty."""
    return html.Div(
        [
            card("Open", html.Div(id="alerts-open")),
            card(
                "Past", html.Div(id="alerts-past"), note="Those that began or ended in the chosen period, the newest first."
            ),
        ]
    )


def fill(reading: Reading, viewer: Viewer) -> list[Any]:
    """The values of ``OUTPUTS``."""
    opened = reading.open_alerts
    past = [alert for alert in reading.alerts if alert.ended is not None and alert.ended >= reading.begin]
    return [
        [alert_card(alert, reading, viewer) for alert in opened]
        or empty("No open alert. One appears here when a rule of the deployment is broken for long enough."),
        [alert_card(alert, reading, viewer) for alert in past[:MOST_PAST]]
        or empty(f"No alert within {reading.period.label}."),
    ]


def alert_card(alert: Alert, reading: Reading, viewer: Viewer, *, short: bool = False) -> Component:
    """An alert with its time, its figures and what was done."""
    clock = viewer.clock
    ended = alert.ended
    if ended is None:
        time = f"since {clock.short(alert.began)}, {lasting(reading.at - alert.began)}"
    else:
        time = f"{clock.short(alert.began)} to {clock.short(ended)}, {lasting(ended - alert.began)}"
    kind = _KINDS.get(alert.severity, "none") if ended is None else "good"
    word = alert.severity if ended is None else "ended"
    head = [badge(kind, word), html.Span(alert.rule, className="rule"), html.Span(time, className="quiet")]
    if ended is not None:
        head.insert(1, html.Span(alert.severity, className="quiet"))
    parts: list[Any] = [html.Div(head, className="alert-head"), html.P(alert.sentence, className="sentence")]
    if ended is not None and alert.over:
        parts.append(html.P(alert.over, className="sentence"))
    if not short:
        parts.append(html.P(f"{alert.metric}, worst value {number(alert.value, 3)}", className="quiet metric"))
    if alert.actions:
        steps = alert.actions[-1:] if short else alert.actions
        parts.append(html.Ol([_step(each, viewer) for each in steps], className="steps"))
    elif not short:
        parts.append(html.P("The system took no action on this alert.", className="quiet"))
    return html.Article(parts, className=f"alert {kind}")


def _step(action: Mapping[str, Any], viewer: Viewer) -> Component:
    outcome = str(action.get("outcome", ""))
    what = str(action.get("what", "")) or {"training": "A training round runs."}.get(outcome, outcome)
    at = action.get("at")
    when = viewer.clock.short(float(at)) if isinstance(at, int | float) else ""
    shown: list[Any] = [html.Span(when, className="when"), html.Span(what)]
    if outcome and outcome not in what:
        shown.insert(1, html.Span(outcome, className="outcome"))
    return html.Li(shown)


VIEW = View("/alerts", "Alerts", OUTPUTS, skeleton, fill)
