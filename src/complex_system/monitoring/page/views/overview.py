"""The four answers, the data flow, the champion, open alerts and services: everything at a glance."""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.page import answers
from complex_system.monitoring.page.components import (
    View,
    attributes,
    badge,
    card,
    columns,
    drawing,
    empty,
    explained,
    figures,
    outside,
    sign,
    table,
)
from complex_system.monitoring.page.diagram import STATE_SIGNS, diagrams
from complex_system.monitoring.page.formatting import (
    NONE,
    Viewer,
    age,
    count,
    error,
    lasting,
    level_of,
    megabytes,
    number,
    share,
)
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.summaries import Table
from complex_system.monitoring.page.terms import requests_of, short
from complex_system.monitoring.page.views.alerts import alert_card
from complex_system.monitoring.services import ServiceState

MAX_ALERTS = 4


def skeleton() -> Component:
    """Return the view without content."""
    terms = ("RMSE", "R²", "Hold-out", "Live predictions", "Own requests", "Probes", "Best possible")
    champion = card("Champion", html.Div(id="overview-champion"), terms=terms)
    alerts = card("Open alerts", html.Div(id="overview-alerts"))
    services = card("Services", html.Div(id="overview-services"), terms=("Heartbeat", "Restarts"))
    return html.Div(
        [
            html.Div(id="overview-answers", className="answers"),
            html.Div(
                [
                    explained("The four answers", ("RMSE", "Evidence", "PSI")),
                    html.Span("terms in the answers", className="quiet"),
                ],
                className="answers-terms card-head",
            ),
            card("Data flow", drawing("overview-flow"), class_="flow-card"),
            columns(html.Div([champion, alerts], className="stack"), services, class_="third"),
        ]
    )


def _answers(reading: Reading, _: Viewer) -> list[Component]:
    return [_answer(each) for each in answers.all_answers(reading)]


def _flow(reading: Reading, _: Viewer) -> list[str]:
    return list(diagrams(reading))


def _answer(answer: answers.Answer) -> Component:
    return html.A(
        [
            html.Div(answer.question, className="question"),
            html.Div([badge(answer.level, answer.text)], className="word"),
            html.Div(answer.why, className="why"),
        ],
        href=answer.path,
        className=f"answer {answer.level}",
    )


def _services(reading: Reading, _: Viewer) -> Component:
    if not reading.overview.services:
        return empty("Waiting for the first heartbeats; every service sends one every few seconds.")
    heads = ("Service", "State", "Replicas", "Heartbeat", "CPU", "Memory", "Restarts")
    return table(Table(heads, [_service(each) for each in reading.overview.services], (2, 3, 4, 5, 6)))


def _service(service: ServiceState) -> list[Any]:
    level = level_of(service.state)
    details = "; ".join(sorted({each.detail for each in service.replicas if each.detail}))
    whole = " whole" if level in ("warn", "bad") else ""  # what it waits for, or fails at, is read without pointing at it
    url = next((each.url for each in service.replicas if each.is_running and each.url), "")
    ages = [each.heartbeat_age for each in service.replicas]
    return [
        html.Div(
            [outside(service.service, url), html.Div(details, className=f"detail{whole}", title=details)],
            className="service",
        ),
        html.Span([sign(STATE_SIGNS[level], level), " ", service.state], className="nowrap"),
        str(service.running),
        age(max(ages)) if ages else NONE,
        f"{number(service.cpu_percent, 0)} %",
        megabytes(service.memory_megabytes),
        str(service.restarts),
    ]


def _champion(reading: Reading, viewer: Viewer) -> list[Any] | Component:
    champion, best = reading.champion, reading.best_possible
    if champion is None:
        return empty("No champion yet: the first training round starts when there are enough labelled records.")
    compared = reading.expected
    named = [("RMSE when compared", error(compared.rmse), compared.basis if compared.rmse else "")]
    for by, sums in reading.champion_errors.items():
        found = sums.metrics()
        about = f"on {count(sums.n)} {requests_of(by.origin)}, {reading.period.label}"
        about += f"; R² {number(found['r2'], 4)}" if "r2" in found else ""
        named.append((f"RMSE, {short(by.origin)}", error(found.get("rmse")), about))
    if not reading.champion_errors:
        named.append(("RMSE, live", NONE, f"no true value yet, {reading.period.label}"))
    if best is not None:
        named.append(("Best possible", number(best), "RMSE, simulated records"))
    since = champion.at or reading.at
    about = f"{champion.framework or 'unknown framework'}, since {viewer.clock.short(since)} ({lasting(reading.at - since)})"
    name = [html.Span(champion.model, className="model"), html.Span(f" version {champion.version}", className="version")]
    parts = [html.Div(name, className="champion"), html.Div(about, className="quiet"), figures(*named)]
    judged = reading.judged
    rmse = reading.champion_errors[judged].metrics().get("rmse") if judged else None
    return [*parts, _distance(best, rmse, short(judged.origin))] if best and rmse and judged else parts


def _distance(best: float, rmse: float, what: str) -> Component:
    """Return a bar for an error; the part that no model can avoid is filled."""
    text = f"RMSE, {what}: {share(max(0.0, rmse / best - 1))} above the best possible"
    filled = html.Div(style={"width": f"{100 * min(1.0, best / rmse):.0f}%"})
    parts = [html.Div(filled, className="meter"), html.Div(text, className="quiet")]
    return html.Div(parts, role="img", **attributes(aria_label=text))


def _alerts(reading: Reading, viewer: Viewer) -> Any:
    found = reading.open_alerts
    if not found:
        return html.P([badge("good", "None"), " Nothing needs attention."], className="calm")
    more = [html.A(f"and {len(found) - MAX_ALERTS} more", href="/alerts")] if len(found) > MAX_ALERTS else []
    return [*(alert_card(alert, reading, viewer, short=True) for alert in found[:MAX_ALERTS]), *more]


PARTS = {
    "overview-answers": ("children", _answers),
    "overview-flow": ("data", _flow),
    "overview-services": ("children", _services),
    "overview-champion": ("children", _champion),
    "overview-alerts": ("children", _alerts),
}
VIEW = View("/", "Overview", skeleton, PARTS)
