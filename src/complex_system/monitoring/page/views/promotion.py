"""Champion and candidate, what people decided about them, and the form for a decision; a part of the view of the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from complex_system.errors import ComplexSystemError
from complex_system.monitoring.page.components import Parts, badge, card, empty, table
from complex_system.monitoring.page.formatting import NONE, Viewer, error
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.summaries import decisions
from complex_system.protocol.promotion import Action, ChampionRequest, KnownVersion, Promotion

Decide = Callable[[ChampionRequest], Promotion]
"""Has a decision carried out; called in a thread."""

BUTTONS: dict[Action, str] = {"approve": "Approve", "pin": "Pin", "unpin": "Unpin", "roll-back": "Roll back to"}
NO_LOGIN = "Decisions on this page need a login: set COMPLEX_SYSTEM_API_KEY, or use `fiot extras champion`."


def promotion_card() -> Component:
    """Return the card without content."""
    who = dcc.Input(id="decide-who", type="text", maxLength=100, persistence=True, persistence_type="local")
    why = dcc.Input(id="decide-why", type="text", maxLength=500, autoComplete="off")
    form = [
        html.Label(["Your name", who]),
        html.Label(["Reason", why]),
        html.Div(_buttons({}), id="promotion-buttons", className="buttons"),
        html.Div(id="decide-said", className="said", role="status"),
    ]
    return card(
        "Decisions about the champion",
        html.Div(id="promotion-now"),
        html.Div(form, id="promotion-form", className="form", hidden=True),
        html.P(id="promotion-login", className="note"),
        dcc.Store(id="decide-about"),
        html.Div(id="promotion-decisions"),
        terms=("Candidate", "Pin", "Roll back"),
    )


def _about(reading: Reading) -> dict[Action, KnownVersion]:
    """Return the version that each decision would be about; decisions that cannot be made now are left out."""
    found = reading.models.promotion
    if found is None:
        return {}
    offered: dict[Action, KnownVersion | None] = {
        "approve": None if found.pinned else found.candidate,
        "pin": None if found.pinned else found.champion,
        "unpin": found.champion if found.pinned else None,
        "roll-back": None if found.pinned else found.previous,
    }
    return {action: version for action, version in offered.items() if version is not None}


def _now(reading: Reading, _: Viewer) -> Any:
    found = reading.models.promotion
    if found is None:
        return empty("Not known yet: ml_consumer has not answered.")
    mode = "A person approves every new champion." if found.mode == "approved" else "The winner of a round becomes champion."
    lines = [html.P([mode, f" Champion: {found.champion.label if found.champion else NONE}."])]
    if found.candidate is not None:
        known = "" if found.candidate.rmse is None else f", hold-out RMSE {error(found.candidate.rmse)}"
        lines.append(
            html.P([badge("warn", "candidate"), f" {found.candidate.label}{known}, waits for a person's approval."])
        )
    if found.pinned is not None:
        lines.append(html.P([badge("warn", "pinned"), f" by {found.pinned.who}: {found.pinned.why}"]))
    return lines


def _decisions(reading: Reading, viewer: Viewer) -> Component:
    found = reading.models.promotion
    content = decisions(found.decisions if found else (), viewer.clock)
    return table(content) if content.rows else empty("Nobody has decided anything about a champion yet.")


def _buttons(about: Mapping[Action, KnownVersion]) -> list[Component]:
    """Return all buttons; those of decisions that cannot be made are disabled."""
    named = {action: f"{text} {about[action].label}" if action in about else text for action, text in BUTTONS.items()}
    return [
        html.Button(text, id=f"decide-{action}", className="button", disabled=action not in about)
        for action, text in named.items()
    ]


PROMOTION_PARTS: Parts = {
    "promotion-now": ("children", _now),
    "promotion-form": ("hidden", lambda reading, _: not reading.facts.may_decide),
    "promotion-login": ("children", lambda reading, _: "" if reading.facts.may_decide else NO_LOGIN),
    "promotion-buttons": ("children", lambda reading, _: _buttons(_about(reading))),
    "promotion-decisions": ("children", _decisions),
    "decide-about": (
        "data",
        lambda reading, _: {action: [known.model, known.version] for action, known in _about(reading).items()},
    ),
}


def take_decisions(app: Dash, decide: Decide | None) -> None:
    """Register what the buttons do.

    Args:
        app: The page.
        decide: Has a decision carried out; None refuses all of them, because nobody has to log in.
    """
    inputs = [Input(f"decide-{action}", "n_clicks") for action in BUTTONS]
    states = [State("decide-who", "value"), State("decide-why", "value"), State("decide-about", "data")]

    @app.callback(Output("decide-said", "children"), inputs, states, prevent_initial_call=True)
    def decided(*given: Any) -> Component:
        if not ctx.triggered or not ctx.triggered[0]["value"]:  # the buttons are there, and nobody has pressed one
            raise PreventUpdate
        action = str(ctx.triggered_id).removeprefix("decide-")
        who, why, about = given[-3:]
        if decide is None:
            return badge("bad", NO_LOGIN)
        if action not in BUTTONS or action not in (about or {}):
            return badge("warn", "There is nothing to decide at the moment.")
        if not str(who or "").strip() or not str(why or "").strip():
            return badge("warn", "Enter your name and the reason first.")
        model, version = about[action]
        try:
            done = decide(ChampionRequest(action=action, who=str(who), why=str(why), model=model, version=version))
        except ComplexSystemError as refused:
            return badge("bad", refused.message)
        return badge("good", done.message)
