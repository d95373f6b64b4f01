"""What the view "Try it" does: it asks the champion's service, and never counts as a client of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import msgspec
from dash import ALL, Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from complex_system.errors import ComplexSystemError, InvalidRecordError, NobodyListensError, ReplyTimeoutError
from complex_system.monitoring.page.components import badge
from complex_system.monitoring.page.views import trial
from complex_system.protocol.trial import ModelInputs, Suggestions, SuggestRequest, TriedRecord, TryRequest

T = TypeVar("T")

_SECONDS = 3.0
"""How long a search from the page takes at most."""
_LONGEST = 30.0
"""Seconds after which nothing is waited for any more: the service is ending."""
_MAX_AGE = 2.0
"""Seconds that what the champion takes is reused for other readers."""
_PATIENCE = 0.5
"""Seconds that a reader waits for what another one has asked."""
_AWAY = "No service that serves the champion answers: start ml_serving_mlflow."
_SLOW = "The service that serves the champion did not answer in time."


class Trials(Protocol):
    """The champion's service, asked in the event loop; a failure is a ``ComplexSystemError``."""

    async def inputs(self) -> ModelInputs:
        """Return what the champion takes."""

    async def attempt(self, asked: TryRequest) -> TriedRecord:
        """Return what the champion says about a record."""

    async def suggest(self, asked: SuggestRequest) -> Suggestions:
        """Return settings that reach a value or an extreme."""


class Asking:
    """Asks from a thread of the page."""

    def __init__(self, trials: Trials, loop: asyncio.AbstractEventLoop) -> None:
        self._trials, self._loop = trials, loop
        self._lock = threading.Lock()
        self._known: tuple[float, ModelInputs] | None = None

    def inputs(self) -> ModelInputs:
        """Return what the champion takes, asked at most every ``_MAX_AGE`` seconds."""
        # While the service does not answer, one thread of the page waits for it, and not all of them.
        if not self._lock.acquire(timeout=_PATIENCE):
            raise ReplyTimeoutError(_SLOW)
        try:
            if self._known is None or time.monotonic() - self._known[0] > _MAX_AGE:
                self._known = None
                self._known = (time.monotonic(), self._wait(self._trials.inputs()))
            return self._known[1]
        finally:
            self._lock.release()

    def attempt(self, asked: TryRequest) -> TriedRecord:
        """Return what the champion says about a record."""
        return self._wait(self._trials.attempt(asked))

    def suggest(self, asked: SuggestRequest) -> Suggestions:
        """Return settings."""
        return self._wait(self._trials.suggest(asked))

    def _wait(self, asked: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(_LONGEST)


def try_models(app: Dash, asking: Asking) -> None:
    """Register what the view does."""
    _offer(app, asking)
    _predict(app, asking)
    _take(app)
    _find(app, asking)


def _offer(app: Dash, asking: Asking) -> None:
    """Keep the fields as the champion takes them; they are made again only when its columns change."""

    @app.callback(
        Output("try-fields", "children"), Output("try-inputs", "data"), Output("try-said", "children"), Output("try-free", "options"),
        Output("try-free", "value"), Output("try-typical", "disabled"), Input("try-it-go", "data"), State("try-inputs", "data"),
        State("try-values", "data"),
    )  # fmt: skip
    def offer(_: Any, known: Any, kept: Any) -> list[Any]:
        try:
            inputs = asking.inputs()
        except ComplexSystemError as error:
            return [no_update, no_update, badge("warn", said(error)), *[no_update] * 3]
        before = _inputs(known)
        if before == inputs:
            return [no_update, no_update, "", *[no_update] * 3]
        if before is not None and before.columns == inputs.columns:
            return [no_update, msgspec.to_builtins(inputs), "", *[no_update] * 3]
        values = trial.field_values(inputs, inputs.record)
        if isinstance(kept, dict) and kept.get("of") == inputs.pipeline_version and len(kept["values"]) == len(values):
            values = kept["values"]
        free = [column.name for column in inputs.columns if column.free]
        numbers = [column.name for column in inputs.columns if column.type == "number"]
        return [trial.fields(inputs, values), msgspec.to_builtins(inputs), "", free, numbers or free, False]


def _predict(app: Dash, asking: Asking) -> None:
    in_browser: Any = app.clientside_callback  # it has no types
    in_browser(
        "window.dash_clientside.trial.collect", Output("try-values", "data"), Input(trial.field_id(trial.FIELD, ALL), "value"),
        Input("try-inputs", "data"),
    )  # fmt: skip

    @app.callback(
        Output("try-answer", "children"),
        Output("try-reasons", "children"),
        Input("try-values", "data"),
        State("try-inputs", "data"),
    )
    def predict(values: Any, known: Any) -> list[Any]:
        inputs = _inputs(known)
        if inputs is None or not isinstance(values, dict) or len(values["values"]) != len(inputs.columns):
            raise PreventUpdate
        try:
            tried = asking.attempt(TryRequest(record=trial.record_of(inputs, values["values"])))
        except ComplexSystemError as error:
            return [badge("warn", said(error)), []]
        return [trial.answer(inputs, tried), trial.reasons(inputs, tried)]


def _take(app: Dash) -> None:
    """Put settings that were found, or the typical record, into the fields."""

    @app.callback(
        Output(trial.field_id(trial.FIELD, ALL), "value"), Input(trial.field_id(trial.TAKE, ALL), "n_clicks"),
        Input("try-typical", "n_clicks"), State("try-solutions", "data"), State("try-inputs", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def take(_: Any, __: Any, solutions: Any, known: Any) -> list[Any]:
        inputs = _inputs(known)
        if (
            inputs is None or not ctx.triggered or not ctx.triggered[0]["value"]
        ):  # the buttons are there, and none was pressed
            raise PreventUpdate
        pressed = ctx.triggered_id
        record = inputs.record if isinstance(pressed, str) else solutions[pressed["index"]]
        return trial.field_values(inputs, record)


def _find(app: Dash, asking: Asking) -> None:
    @app.callback(Output("try-wanted-label", "hidden"), Input("try-goal", "value"))
    def ask_for_value(goal: Any) -> bool:
        return bool(goal != "value")

    @app.callback(
        Output("try-found", "children"), Output("try-found-said", "children"), Output("try-solutions", "data"),
        Input("try-find", "n_clicks"), State("try-goal", "value"), State("try-wanted", "value"), State("try-free", "value"),
        State("try-values", "data"), State("try-inputs", "data"), prevent_initial_call=True,
        running=[(Output("try-find", "disabled"), True, False), (Output("try-find", "children"), "Searching …", "Find settings")],
    )  # fmt: skip
    def find(clicks: Any, goal: Any, wanted: Any, free: Any, values: Any, known: Any) -> list[Any]:
        inputs = _inputs(known)
        if not clicks or inputs is None or not isinstance(values, dict):
            raise PreventUpdate
        if goal == "value" and not isinstance(wanted, int | float):
            return [no_update, badge("warn", "Enter the value to reach first."), no_update]
        if not free:
            return [no_update, badge("warn", "Choose a column that may change first."), no_update]
        record = trial.record_of(inputs, values["values"])
        fixed = {name: value for name, value in record.items() if name not in free}
        try:
            asked = SuggestRequest(
                goal=goal, value=float(wanted) if goal == "value" else None, free=list(free), record=fixed, seconds=_SECONDS
            )
            found = asking.suggest(asked)
        except ComplexSystemError as error:
            return [no_update, badge("warn", said(error)), no_update]
        message: Any = ""
        if not any(each.reached for each in found.suggestions):
            message = badge("warn", "No setting reaches the value; these are the nearest.")
        elif not found.complete:
            message = badge("none", f"The search ended after {_SECONDS:g} s; fewer free columns are searched better.")
        return [trial.solutions(inputs, found, list(free)), message, [each.record for each in found.suggestions]]


def _inputs(known: Any) -> ModelInputs | None:
    """Return what a store of the browser holds; None where that is nothing, or not ours."""
    try:
        return msgspec.convert(known, ModelInputs)
    except msgspec.ValidationError:
        return None


def said(error: ComplexSystemError) -> str:
    """Return what a reader is told about an error."""
    match error:
        case NobodyListensError():
            return _AWAY
        case ReplyTimeoutError():
            return _SLOW
        case InvalidRecordError() if error.faults:
            return "; ".join(f"{fault['field'] or 'record'}: {fault['problem']}" for fault in error.faults)
    return error.message
