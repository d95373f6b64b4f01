"""Does it run, is the model good, is the data as it was: everything at one look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import html
from dash.development.base_component import Component

from complex_system.monitoring.page import answers
from complex_system.monitoring.page.components import (
    View,
    Viewer,
    attributes,
    badge,
    card,
    drawing,
    empty,
    figures,
    outside,
    table,
)
from complex_system.monitoring.page.diagram import SHAPES, kind_of, pictures
from complex_system.monitoring.page.formatting import NONE, age, error, lasting, megabytes, number, share
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.views import alerts as alerts_view

OUTPUTS = (
    ("overview-answers", "children"),
    ("overview-flow", "data"),
    ("overview-services", "children"),
    ("overview-champion", "children"),
    ("overview-alerts", "children"),
)


def skeleton() -> Component:
    """The parts, empty."""
    return html.Div(
        [
            html.Div(id="overview-answers", className="answers"),
            card("Data flow", drawing("overview-flow"), class_="flow-card"),
            html.Div(
                [
                    html.Div(
                        [
                            card("Champion", html.Div(id="overview-champion")),
                            card("Open alerts", html.Div(id="overview-alerts")),
                        ],
                        className="stack",
                    ),
                    card("Services", html.Div(id="overview-services")),
                ],
                className="columns third",
            ),
        ]
    )


def fill(reading: Reading, viewer: Viewer) -> list[Any]:
    """The values of ``OUTPUTS``."""
    return [
        [_answer(each) for each in answers.all_answers(reading)],
        list(pictures(reading)),
        _services(reading),
        _champion(reading, viewer),
        _alerts(reading, viewer),
    ]


def _answer(answer: answers.Answer) -> Component:
    return html.A(
        [
            html.Div(answer.question, className="question"),
            html.Div([badge(answer.kind, answer.word)], className="word"),
            html.Div(answer.why, className="why"),
        ],
        href=answer.path,
        className=f"answer {answer.kind}",
    )


def _services(reading: Reading) -> Component:
    if not reading.services:
        return empty("Waiting for the first heartbeats; every service sends one every few seconds.")
    rows = [_service(each) for each in reading.services]
    return table(("Service", "State", "Replicas", "Heartbeat", "CPU", "Memory", "Restarts"), rows, numbers=(2, 3, 4, 5, 6))


def _service(service: Mapping[str, Any]) -> list[Any]:
    state = str(service.get("state", ""))
    replicas = service.get("replicas") or ()
    running = [each for each in replicas if each.get("state") not in ("stopped", "silent")]
    ages = [float(each["heartbeat_age"]) for each in replicas if each.get("heartbeat_age") is not None]
    kind = kind_of(state)
    details = "; ".join(sorted({str(each["detail"]) for each in replicas if each.get("detail")}))
    sign = html.Span(SHAPES[kind], className=f"sign {kind}", **attributes(aria_hidden="true"))
    urls = [each.get("url") for each in running if each.get("url")]
    name = str(service["service"])
    return [
        html.Div([outside(name, urls[0]) if urls else name, html.Div(details, className="detail", title=details)]),
        html.Span([sign, " ", state], className="nowrap"),
        str(service.get("running", len(running))),
        age(max(ages)) if ages else NONE,
        f"{number(float(service.get('cpu_percent') or 0.0), 0)} %",
        megabytes(float(service.get("memory_megabytes") or 0.0)),
        str(service.get("restarts", 0)),
    ]


def _champion(reading: Reading, viewer: Viewer) -> list[Any] | Component:
    champion = reading.champion
    if champion is None:
        return empty("No champion yet: the first training round starts when enough labelled records are there.")
    live = answers.live_errors(reading)
    best = reading.best_possible
    rmse = champion.get("rmse")
    pairs = [("RMSE at the comparison", error(rmse) if rmse is not None else NONE)]
    pairs.append((f"RMSE live, {reading.period.label}", error(live.get("rmse"))))
    if best is not None:
        pairs.append(("Best possible", number(best)))
    if live.get("r2") is not None:
        pairs.append(("R² live", number(live["r2"], 4)))
    since = float(champion.get("at") or reading.at)
    parts: list[Any] = [
        html.Div(
            [
                html.Span(f"{champion.get('model')}", className="model"),
                html.Span(f" version {champion.get('version')}", className="version"),
            ],
            className="champion",
        ),
        html.Div(
            f"{champion.get('framework') or 'unknown framework'}, since {viewer.clock.short(since)} "
            f"({lasting(reading.at - since)})",
            className="quiet",
        ),
        figures(*pairs),
    ]
    if best and live.get("rmse"):
        parts.append(_distance(best, float(live["rmse"])))
    return parts


def _distance(best: float, rmse: float) -> Component:
    """How far the error is from the least possible one, as a bar: the least possible part of it is filled."""
    reached = min(1.0, best / rmse)
    words = f"{share(max(0.0, rmse / best - 1))} above the best possible"
    return html.Div(
        [
            html.Div(html.Div(style={"width": f"{100 * reached:.0f}%"}), className="meter"),
            html.Div(words, className="quiet"),
        ],
        role="img",
        **attributes(aria_label=words),
    )


def _alerts(reading: Reading, viewer: Viewer) -> Any:
    found = reading.open_alerts
    if not found:
        return html.P([badge("good", "None"), " Nothing asks for attention."], className="calm")
    return [alerts_view.alert_card(alert, reading, viewer, short=True) for alert in found[:4]] + (
        [html.A(f"and {len(found) - 4} more", href="/alerts")] if len(found) > 4 else []
    )


VIEW = View("/", "Overview", OUTPUTS, skeleton, fill)
