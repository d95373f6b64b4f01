"""The cards of models, from MLflow, beside the page."""

from __future__ import annotations

from collections.abc import Callable

import flask

from complex_system.errors import ComplexSystemError
from complex_system.http.responses import status_of

Card = Callable[[str, str], bytes | None]
"""Returns the HTML of the card of a model and version, None where it has none; called in a thread."""
POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
"""A card comes from MLflow, where others may have put another document: it runs nothing, and is a page of no origin."""


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
        return flask.Response(content, mimetype="text/html", headers={"Content-Security-Policy": POLICY})
