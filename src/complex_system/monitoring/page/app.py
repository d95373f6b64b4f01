"""The Dash application: one shell, its views, one clock.

It only reads: decisions about the champion, and questions to it, go to the services that answer them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import flask
from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate
from plotly.utils import PlotlyJSONEncoder

from complex_system import __version__
from complex_system.errors import ComplexSystemError
from complex_system.http.responses import status_of
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.page import answers
from complex_system.monitoring.page.components import SIGNS, View, attributes, sign
from complex_system.monitoring.page.formatting import Clock, Level, Viewer
from complex_system.monitoring.page.gateway import WsgiGateway
from complex_system.monitoring.page.period_report import make_report
from complex_system.monitoring.page.reading import DEFAULT_PERIOD, PERIODS, Facts, Period, Reading, take
from complex_system.monitoring.page.trial import Asking, Trials, try_models
from complex_system.monitoring.page.views import alerts, data, models, overview, predictions, sensors, system, trial
from complex_system.monitoring.page.views.promotion import Decide, take_decisions
from complex_system.protocol.promotion import ChampionRequest, Promotion

VIEWS = (overview.VIEW, models.VIEW, predictions.VIEW, trial.VIEW, data.VIEW, system.VIEW, alerts.VIEW)
ASSETS = Path(__file__).parent / "assets"
TIMEOUT = 10.0
"""Seconds that a request waits for the event loop to take a reading."""
_MAX_AGE = 1.0
"""Seconds that a reading is reused for other readers."""
_MEMORY = 30.0
"""Seconds that a reading is kept; those of periods that nobody looks at would only fill the memory."""
_STATUS: dict[Level, str] = {"bad": "Needs attention", "warn": "Worth a look", "none": "Starting up", "good": "All is well"}
"""The state of the whole system by the worst level of an answer, the worst first."""

Read = Callable[[Period], Reading]
"""Takes a reading; called in a thread."""
Card = Callable[[str, str], bytes | None]
"""Returns the HTML of the card of a model and version, None where it has none; called in a thread."""
CARD_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
"""A card comes from MLflow, where others may have put another document: it runs nothing, and is a page of no origin."""


def page_of(
    monitor: Monitor,
    loop: asyncio.AbstractEventLoop,
    *,
    mlflow_uri: str = "",
    api_key: str = "",
    decide: Callable[[ChampionRequest], Awaitable[Promotion]] | None = None,
    trials: Trials | None = None,
    card: Card | None = None,
    refresh: float = 2.0,
    now: Callable[[], float] = time.time,
) -> WsgiGateway:
    """Return the page as an ASGI application, to be mounted beside the REST interface.

    Importing this module and making the page takes a second or two: do it in a thread.

    Args:
        monitor: What is shown. It belongs to ``loop``; readings are taken there, everything else is done in threads.
        loop: The event loop of the service.
        mlflow_uri: The tracking server, whose user interface the page links to.
        api_key: As for the REST interface; empty for none, and then nobody may decide about the champion.
        decide: Has a decision about the champion carried out, in the event loop.
        trials: Asks the champion's service, in the event loop; without it, there is nothing to try.
        card: Returns the card of a model's version; without it, none is shown.
        refresh: Seconds between two updates of an open page.
        now: Seconds since 1970.
    """
    may_decide = bool(api_key) and decide is not None
    facts = Facts(monitor.dataset, mlflow_url=public_address(mlflow_uri), version=__version__, may_decide=may_decide)

    async def taken(period: Period) -> Reading:
        return take(monitor, facts, period, now())

    def read(period: Period) -> Reading:
        return asyncio.run_coroutine_threadsafe(taken(period), loop).result(TIMEOUT)

    async def decided(asked: ChampionRequest) -> Promotion:
        assert decide is not None
        return await decide(asked)

    def carry_out(asked: ChampionRequest) -> Promotion:
        return asyncio.run_coroutine_threadsafe(decided(asked), loop).result()

    asking = Asking(trials, loop) if trials is not None else None
    server = make_page(read, facts, refresh, carry_out if may_decide else None, asking)
    if card is not None:
        show_cards(server, card)
    return WsgiGateway(server, api_key)


def public_address(uri: str) -> str:
    """Return an address without user and password; empty if a browser could not open it."""
    try:
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def views_of(facts: Facts) -> tuple[View, ...]:
    """Return the views of a data set: where readings are collected, that of the sensors, too."""
    return (*VIEWS[:-2], sensors.VIEW, *VIEWS[-2:]) if facts.dataset.collect else VIEWS


class Readings:
    """Readings by period, each taken once for all who look at the same time."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._locks = {key: threading.Lock() for key in PERIODS}
        self._taken: dict[str, Reading] = {}
        self._times: dict[str, float] = {}

    def of(self, key: Any) -> Reading:
        """Return a reading of a period, at most a second old; of the default period if there is no such period."""
        period = PERIODS.get(str(key), DEFAULT_PERIOD)
        with self._locks[period.key]:
            now = time.monotonic()
            if now - self._times.get(period.key, -_MAX_AGE) > _MAX_AGE or period.key not in self._taken:
                reading = self._read(period)
                self._taken = {key: each for key, each in self._taken.items() if now - self._times[key] < _MEMORY}
                self._times[period.key], self._taken[period.key] = now, reading
            return self._taken[period.key]


def make_page(
    read: Read, facts: Facts, refresh: float, decide: Decide | None = None, asking: Asking | None = None
) -> flask.Flask:
    """Return the page as a WSGI application.

    Args:
        read: Takes a reading; it may block.
        facts: What does not change.
        refresh: Seconds between two updates of an open page.
        decide: Has a decision about the champion carried out; it may block. None refuses all decisions.
        asking: Asks the champion's service; without it, there is nothing to try.
    """
    server = flask.Flask("complex_system.monitoring.page")
    app = Dash(
        __name__, server=server, assets_folder=str(ASSETS), serve_locally=True, title=f"{facts.dataset.name} · monitoring",
        update_title="", suppress_callback_exceptions=True, compress=False, include_assets_files=True, add_log_handler=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"},
                   {"name": "color-scheme", "content": "light dark"}],
    )  # fmt: skip
    app.layout = shell(facts, refresh)
    readings, views = Readings(read), views_of(facts)
    _route(app, views)
    _status(app, readings)
    for view in views:
        _fill(app, view, readings)
    take_decisions(app, decide)
    if asking is not None:
        try_models(app, asking)
    _clientside(app, views)

    @server.route("/report")
    def report() -> flask.Response:
        reading = readings.of(flask.request.args.get("period"))
        clock = Clock.of({"zone": flask.request.args.get("zone", "")})
        answer = flask.Response(make_report(reading, clock), mimetype="text/html")
        name = f"monitoring-{facts.dataset.name}-{clock.local(reading.at):%Y-%m-%d-%H%M}.html"
        answer.headers["Content-Disposition"] = f'inline; filename="{name}"'
        return answer

    return server


def show_cards(server: flask.Flask, card: Card) -> None:
    """Register the path ``/card?model=...&version=...``."""

    @server.route("/card")
    def show() -> flask.Response:
        model, version = (flask.request.args.get(name, "") for name in ("model", "version"))
        try:
            content = card(model, version)
        except ComplexSystemError as error:
            return flask.Response(f"{error.message}\n", status_of(error), mimetype="text/plain")
        if content is None:
            return flask.Response(f"{model} {version} has no card.\n", 404, mimetype="text/plain")
        return flask.Response(content, mimetype="text/html", headers={"Content-Security-Policy": CARD_POLICY})


def shell(facts: Facts, refresh: float) -> Component:
    """Return the frame of every view."""
    links = [
        dcc.Link(
            [html.Span(className=f"icon {view.name}", **attributes(aria_hidden="true")), html.Span(view.title)],
            href=view.path,
            id=f"link-{view.name}",
        )
        for view in views_of(facts)
    ]
    periods = dcc.RadioItems(
        id="period", value=DEFAULT_PERIOD.key, inline=True, className="choice", persistence=True, persistence_type="local",
        options={each.key: each.key.replace("h", " h").replace("d", " d") for each in PERIODS.values()},
    )  # fmt: skip
    theme = html.Button(
        html.Span(className="icon theme"), id="theme", className="button square", title="Light or dark",
        **attributes(aria_label="Switch between light and dark"),
    )  # fmt: skip
    controls = [
        html.Div(periods, className="period", role="group", **attributes(aria_label="Period")),
        html.A("Report", id="report-link", href="/report", target="_blank", className="button"),
        theme,
    ]
    return html.Div(
        [
            dcc.Location(id="place"),
            dcc.Store(id="client"),
            dcc.Store(id="wake", data=0),
            dcc.Store(id="try-values"),  # the reader's, also after a look at another view
            dcc.Store(id="shell-go"),
            dcc.Store(id="shell-done"),
            dcc.Interval(id="tick", interval=round(refresh * 1000)),
            html.A("Skip to the content", href="#view", className="skip"),
            html.Header(
                [
                    html.Div([html.Strong(facts.dataset.name), html.Span("monitoring")], className="brand"),
                    html.Div(id="status", className="status", role="status"),
                    html.Div(controls, className="controls"),
                ]
            ),
            html.Div("No answer from ml_monitoring: this page is out of date.", className="lost", role="alert"),
            html.Nav(links, **attributes(aria_label="Views")),
            html.Main(id="view", tabIndex=-1),
            html.Footer([html.Span(id="updated"), html.Span(f"complex-system {facts.version}")]),
            html.Div(id="sink", hidden=True),
        ],
        id="shell",
    )


def _route(app: Dash, views: Sequence[View]) -> None:
    by_path = {view.path: view for view in views}

    @app.callback(
        Output("view", "children"),
        *(Output(f"link-{view.name}", "className") for view in views),
        Input("place", "pathname"),
    )
    def show(path: str | None) -> list[Any]:
        view = by_path.get((path or "/").rstrip("/") or "/", overview.VIEW)
        name = view.name
        # The stores belong to the view: it is filled once it is there, and a new one starts without anything seen.
        stores = [dcc.Store(id=f"{name}-go"), dcc.Store(id=f"{name}-done"), dcc.Store(id=f"{name}-seen", data={})]
        content = html.Div([html.H1(view.title), view.skeleton(), *stores], key=name, **attributes(data_view=name))
        return [content, *("here" if each is view else "" for each in views)]


def _status(app: Dash, readings: Readings) -> None:
    @app.callback(
        Output("status", "children"), Output("status", "className"), Output("updated", "children"), Output("report-link", "href"),
        Output("shell-done", "data"), Input("shell-go", "data"), State("client", "data"), State("period", "value"),
    )  # fmt: skip
    def tell(go: Any, client: Any, period: Any) -> list[Any]:
        if not isinstance(client, dict):
            raise PreventUpdate
        reading, clock = readings.of(period), Clock.of(client)
        levels = [answer.level for answer in answers.all_answers(reading)]
        worst = next(level for level in _STATUS if level in levels)
        updated = f"Updated {clock.local(reading.at):%H:%M:%S} ({clock.name})"
        report = urlencode({"period": reading.period.key, "zone": client.get("zone", "")}, safe="/")
        return [[sign(SIGNS[worst]), _STATUS[worst]], f"status {worst}", updated, f"/report?{report}", go]


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
        if not isinstance(client, dict):
            raise PreventUpdate
        viewer = Viewer.of(client, str(given[1]) if choice else "")
        return [*only_changed(view.fill(readings.of(period), viewer), seen), given[0]]


def only_changed(values: list[Any], seen: Any) -> list[Any]:
    """Leave out what the browser shows already, and add the digests of what it shows then."""
    digests = [_digest(value) for value in values]
    before = seen if isinstance(seen, dict) else {}
    changed = [no_update if before.get(str(i)) == digests[i] else value for i, value in enumerate(values)]
    if all(value is no_update for value in changed):
        return [*changed, no_update]
    return [*changed, {str(i): each for i, each in enumerate(digests)}]


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, cls=PlotlyJSONEncoder).encode(), digest_size=9).hexdigest()


def _clientside(app: Dash, views: Sequence[View]) -> None:
    """Register what the browser does itself; see ``assets/page.js``."""
    in_browser: Any = app.clientside_callback  # it has no types
    in_browser(
        "window.dash_clientside.page.client", Output("client", "data"), Input("theme", "n_clicks"), Input("place", "search")
    )
    in_browser(
        "window.dash_clientside.page.go", Output("sink", "lang"),
        Input("tick", "n_intervals"), Input("wake", "data"), Input("client", "data"), Input("period", "value"),
    )  # fmt: skip
    for name in ("shell", *(view.name for view in views)):
        in_browser(
            "window.dash_clientside.page.done",
            Output("sink", "style", allow_duplicate=True),
            Input(f"{name}-done", "data"),
            prevent_initial_call=True,
        )
    for name, unused in (("overview-flow", "title"), ("data-pictures", "dir"), ("models-effect-pictures", "draggable")):
        in_browser("window.dash_clientside.page.draw", Output("sink", unused), Input(name, "data"))
