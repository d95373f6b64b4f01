"""The Dash application: one shell, six views, one clock. It only reads."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate
from plotly.utils import PlotlyJSONEncoder

from complex_system.monitoring.page import answers
from complex_system.monitoring.page.components import SIGNS, View, Viewer, attributes
from complex_system.monitoring.page.figures import theme_of
from complex_system.monitoring.page.formatting import Clock
from complex_system.monitoring.page.reading import PERIODS, USUAL, Facts, Period, Reading
from complex_system.monitoring.page.report import make_report
from complex_system.monitoring.page.views import alerts, data, models, overview, predictions, system

log = logging.getLogger(__name__)

VIEWS = (overview.VIEW, models.VIEW, predictions.VIEW, data.VIEW, system.VIEW, alerts.VIEW)
ASSETS = Path(__file__).parent / "assets"
REFRESH = 2.0
"""Seconds between two updates of an open page."""
_REUSED = 1.0
"""Seconds that a reading serves everybody who looks."""

Read = Callable[[Period], Reading]
"""Takes a reading; called in a thread."""


class Readings:
    """Hands out readings, each taken once for all who look at the same time."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._locks = {key: threading.Lock() for key in PERIODS}
        self._taken: dict[str, tuple[float, Reading]] = {}

    def of(self, key: Any) -> Reading:
        """A reading of a period, at most a second old; of the usual one where there is no such period."""
        period = PERIODS.get(str(key), USUAL)
        with self._locks[period.key]:
            taken = self._taken.get(period.key)
            if taken is None or time.monotonic() - taken[0] > _REUSED:
                taken = (time.monotonic(), self._read(period))
                # Other periods' readings would only fill the memory.
                self._taken = {key: each for key, each in self._taken.items() if time.monotonic() - each[0] < 30}
                self._taken[period.key] = taken
        return taken[1]


def make_page(read: Read, facts: Facts, refresh: float = REFRESH) -> flask.Flask:
    """Makes the page as a WSGI application.

    Args:
        read: Takes a reading; it may block.
        facts: What stands in the title.
        refresh: Seconds between two updates of an open page.
    """
    server = flask.Flask("complex_system.monitoring.page")
    app = Dash(
        __name__, server=server, assets_folder=str(ASSETS), serve_locally=True, title=f"{facts.dataset.name} · monitoring",
        update_title="", suppress_callback_exceptions=True, compress=False, include_assets_files=True, add_log_handler=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"},
                   {"name": "color-scheme", "content": "light dark"}],
    )  # fmt: skip
    app.layout = shell(facts, refresh)
    readings = Readings(read)
    _route(app)
    _status(app, readings)
    for view in VIEWS:
        _fill(app, view, readings)
    _clientside(app)

    @server.route("/report")
    def report() -> flask.Response:
        reading = readings.of(flask.request.args.get("period"))
        clock = Clock.of({"zone": flask.request.args.get("zone", "")})
        answer = flask.Response(make_report(reading, clock), mimetype="text/html")
        name = f"monitoring-{facts.dataset.name}-{clock.local(reading.at):%Y-%m-%d-%H%M}.html"
        answer.headers["Content-Disposition"] = f'inline; filename="{name}"'
        return answer

    return server


def shell(facts: Facts, refresh: float) -> Component:
    """What stands around every view."""
    links = [
        dcc.Link(
            [html.Span(className=f"icon {view.name}", **attributes(aria_hidden="true")), html.Span(view.title)],
            href=view.path,
            id=f"link-{view.name}",
        )
        for view in VIEWS
    ]
    periods = dcc.RadioItems(
        id="period", value=USUAL.key, inline=True, className="choice", persistence=True, persistence_type="local",
        options={each.key: each.key.replace("h", " h").replace("d", " d") for each in PERIODS.values()},
    )  # fmt: skip
    return html.Div(
        [
            dcc.Location(id="place"),
            dcc.Store(id="client"),
            dcc.Store(id="wake", data=0),
            dcc.Store(id="shell-go"),
            dcc.Store(id="shell-done"),
            dcc.Interval(id="tick", interval=round(refresh * 1000)),
            html.A("Skip to the content", href="#view", className="skip"),
            html.Header(
                [
                    html.Div([html.Strong(facts.dataset.name), html.Span("monitoring")], className="brand"),
                    html.Div(id="status", className="status", role="status"),
                    html.Div(
                        [
                            html.Div(periods, className="period", role="group", **attributes(aria_label="Period")),
                            html.A("Report", id="report-link", href="/report", target="_blank", className="button"),
                            html.Button(
                                html.Span(className="icon theme"), id="theme", className="button square", title="Light or dark",
                                **attributes(aria_label="Switch between light and dark"),
                            ),
                        ],
                        className="controls",
                    ),
                ]
            ),
            html.Div("ml_monitoring does not answer. What is shown is old.", className="lost", role="alert"),
            html.Nav(links, **attributes(aria_label="Views")),
            html.Main(id="view", tabIndex=-1),
            html.Footer([html.Span(id="updated"), html.Span(f"complex-system {facts.version}")]),
            html.Div(id="sink", hidden=True),
        ],
        id="shell",
    )  # fmt: skip


def _route(app: Dash) -> None:
    by_path = {view.path: view for view in VIEWS}

    @app.callback(
        Output("view", "children"),
        *(Output(f"link-{view.name}", "className") for view in VIEWS),
        Input("place", "pathname"),
    )
    def show(path: str | None) -> list[Any]:
        view = by_path.get((path or "/").rstrip("/") or "/", overview.VIEW)
        name = view.name
        # The stores belong to the view: it is filled when it is there, and one that is built anew starts with nothing seen.
        stores = [dcc.Store(id=f"{name}-go"), dcc.Store(id=f"{name}-done"), dcc.Store(id=f"{name}-seen", data={})]
        content = html.Div([html.H1(view.title), view.skeleton(), *stores], key=name, **attributes(data_view=name))
        return [content, *("here" if each is view else "" for each in VIEWS)]


def _status(app: Dash, readings: Readings) -> None:
    @app.callback(
        Output("status", "children"), Output("status", "className"), Output("updated", "children"), Output("report-link", "href"),
        Output("shell-done", "data"), Input("shell-go", "data"), State("client", "data"), State("period", "value"),
    )  # fmt: skip
    def tell(go: Any, client: Any, period: Any) -> list[Any]:
        if not client:
            raise PreventUpdate
        reading = readings.of(period)
        kinds = [answer.kind for answer in answers.all_answers(reading)]
        worst = next((kind for kind in ("bad", "warn", "none") if kind in kinds), "good")
        words = {"bad": "Needs attention", "warn": "Worth a look", "none": "Getting ready", "good": "All is well"}
        sign = html.Span(SIGNS[worst], className="sign", **attributes(aria_hidden="true"))
        clock = Clock.of(client)
        updated = f"Updated {clock.local(reading.at):%H:%M:%S} ({clock.name})"
        zone = str(client.get("zone", "")) if isinstance(client, dict) else ""
        href = (
            f"/report?period={reading.period.key}&zone={zone if zone.replace('/', '').replace('_', '').isalnum() else 'UTC'}"
        )
        return [[sign, words[worst]], f"status {worst}", updated, href, go]


def _fill(app: Dash, view: View, readings: Readings) -> None:
    name = view.name
    choice = [Input(view.choice, "value")] if view.choice else []

    @app.callback(
        [
            *(Output(where, what) for where, what in view.outputs),
            Output(f"{name}-seen", "data"),
            Output(f"{name}-done", "data"),
        ],
        [Input(f"{name}-go", "data"), *choice],
        [State("client", "data"), State("period", "value"), State(f"{name}-seen", "data")],
    )
    def fill(*given: Any) -> list[Any]:
        client, period, seen = given[-3:]
        if not client:
            raise PreventUpdate
        viewer = Viewer(theme_of(client), Clock.of(client), str(given[1]) if choice else "")
        return [*only_changed(view.fill(readings.of(period), viewer), seen), given[0]]


def only_changed(values: list[Any], seen: Any) -> list[Any]:
    """Leaves out what the browser shows already, and adds the digests of what it shows then."""
    digests = [digest(value) for value in values]
    before = seen if isinstance(seen, dict) else {}
    changed = [no_update if before.get(str(i)) == digests[i] else value for i, value in enumerate(values)]
    if all(value is no_update for value in changed):
        return [*changed, no_update]
    return [*changed, {str(i): each for i, each in enumerate(digests)}]


def digest(value: Any) -> str:
    """Stands for a value that is sent to the browser."""
    return hashlib.blake2b(json.dumps(value, cls=PlotlyJSONEncoder).encode(), digest_size=9).hexdigest()


def _clientside(app: Dash) -> None:
    """What the browser does itself; see ``assets/page.js``."""
    in_browser: Any = app.clientside_callback  # it has no types
    in_browser(
        "window.dash_clientside.page.client", Output("client", "data"), Input("theme", "n_clicks"), Input("place", "search")
    )
    in_browser(
        "window.dash_clientside.page.go", Output("sink", "lang"),
        Input("tick", "n_intervals"), Input("wake", "data"), Input("client", "data"), Input("period", "value"),
    )  # fmt: skip
    for name in ("shell", *(view.name for view in VIEWS)):
        in_browser(
            "window.dash_clientside.page.done",
            Output("sink", "style", allow_duplicate=True),
            Input(f"{name}-done", "data"),
            prevent_initial_call=True,
        )
    for name, unused in (("overview-flow", "title"), ("data-pictures", "dir")):
        in_browser("window.dash_clientside.page.draw", Output("sink", unused), Input(name, "data"))
