"""Try it: a field for every raw column, what the champion says about these values, and settings that reach a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from complex_system.domain.records import Record
from complex_system.monitoring.page.components import View, attributes, badge, card, empty, table
from complex_system.monitoring.page.summaries import Table
from complex_system.protocol.trial import ModelInput, ModelInputs, Suggestions, TriedRecord

FIELD, SLIDER, TAKE = "try-field", "try-slider", "try-take"
"""Types of the ids of fields, of their sliders, and of the buttons that take settings into the fields."""
_CHOICES, _CHARACTERS = 5, 40
"""Categories that are shown side by side at most, and their characters; more are a list that opens."""
MAX_BARS = 12
"""Contributions that are shown one by one."""
_MISSING = "missing"
GOALS = {"value": "a value", "maximum": "the maximum", "minimum": "the minimum"}
WAITING = "Waiting for the service that serves the champion."


def skeleton() -> Component:
    """Return the view without content."""
    fields = card(
        "Settings", html.Div(id="try-said", role="status"), html.Div(empty(WAITING), id="try-fields"), class_="try-settings",
        aside=html.Button("Typical record", id="try-typical", className="button", disabled=True),
    )  # fmt: skip
    answer = html.Section(
        html.Div(id="try-answer", role="status"), className="card try-says", **attributes(aria_label="Prediction")
    )
    why = card(
        "Why", html.Div(id="try-reasons"), class_="try-why", terms=("Contribution",),
        note="What each column adds to the mean prediction of known records, or takes from it.",
    )  # fmt: skip
    goal = dcc.RadioItems(id="try-goal", options=_listed(GOALS), value="value", inline=True, className="choice")
    search = [
        html.Fieldset([html.Legend("Find settings for"), goal]),
        html.Label(["Value", dcc.Input(id="try-wanted", type="number", step="any", debounce=False)], id="try-wanted-label"),
        html.Fieldset([html.Legend("Columns that may change"), dcc.Checklist(id="try-free", className="checks")], className="wide"),
        html.Div(html.Button("Find settings", id="try-find", className="button primary"), className="buttons"),
        html.Div(id="try-found-said", className="said", role="status"),
    ]  # fmt: skip
    find = card(
        "Find settings", html.Div(search, className="form try-search"), html.Div(id="try-found"), class_="try-find",
        note="The other columns keep the values above. What is near to known records is preferred.", terms=("Distance",),
    )  # fmt: skip
    return html.Div([dcc.Store(id="try-inputs"), dcc.Store(id="try-solutions"), answer, fields, why, find], className="try")


VIEW = View("/try", "Try it", skeleton, {})


def field_id(kind: str, place: Any) -> dict[str, Any]:
    """Return the id of a field, a slider or a button."""
    return {"type": kind, "index": place}


def fields(inputs: ModelInputs, values: Sequence[Any]) -> list[Component]:
    """Return a labelled field for each column, with these values."""
    return [
        html.Div(_field(place, column, value), className="field")
        for place, (column, value) in enumerate(zip(inputs.columns, values, strict=True))
    ]


def _field(place: int, column: ModelInput, value: Any) -> list[Component]:
    name: list[Any] = [html.Span(column.name, className="name", title=column.description)]
    if column.unit:
        name.append(html.Span(column.unit, className="quiet"))
    id_ = field_id(FIELD, place)
    empty_text = _MISSING if column.optional else ""
    if column.type in ("number", "integer"):
        box = dcc.Input(id=id_, type="number", step="any", value=value, placeholder=empty_text, autoComplete="off")
        made: list[Component] = [html.Label([*name, box])]
        if column.low is not None and column.high is not None and column.step:
            slider = dcc.Input(
                id=field_id(SLIDER, place), type="range", min=column.low, max=column.high, step=column.step,
                value=column.low if value is None else value,
            )  # fmt: skip
            ends = [html.Span(_plain(column.low)), slider, html.Span(_plain(column.high))]
            made.append(html.Label([html.Span(f"Slider of {column.name}", className="unseen"), *ends], className="slider"))
        return made
    if column.type == "list of categories":
        return [_group(name, dcc.Checklist(id=id_, options=list(column.categories), value=value or [], className="checks"))]
    options = _options(column)
    if not options:
        about = column.format or ("numbers, separated by spaces" if column.type == "list of shares" else empty_text)
        return [html.Label([*name, dcc.Input(id=id_, type="text", value=value, placeholder=about, autoComplete="off")])]
    if column.type == "boolean" and not column.optional:
        only: Any = [{"label": html.Span(name), "value": "true"}]
        return [dcc.Checklist(id=id_, options=only, value=value, className="checks")]
    if len(options) <= _CHOICES and sum(map(len, options.values())) <= _CHARACTERS:
        return [_group(name, dcc.RadioItems(id=id_, options=_listed(options), value=value, inline=True, className="choice"))]
    chosen = [html.Option(text, value=key, selected=key == value) for key, text in options.items()]
    # A list of the browser's own, for keyboards and phones; page.js passes the choice on to the field.
    return [
        html.Label([*name, html.Select(chosen, **attributes(data_field=str(place)))]),
        dcc.Input(id=id_, type="hidden", value=value),
    ]


def _group(name: list[Any], choice: Component) -> Component:
    return html.Fieldset([html.Legend(name), choice])


def _listed(options: Mapping[str, str]) -> Any:
    """Return options as a list: a browser sorts an object's keys that are numbers."""
    return [{"label": text, "value": key} for key, text in options.items()]


def _options(column: ModelInput) -> dict[str, str]:
    """Return what can be chosen, by the values of the field; empty for a text."""
    every = {"true": "yes", "false": "no"} if column.type == "boolean" else {each: each for each in column.categories}
    return every | ({"": _MISSING} if every and column.optional else {})


def _plain(value: float) -> str:
    return f"{value:,.6g}"


def field_values(inputs: ModelInputs, record: Mapping[str, Any]) -> list[Any]:
    """Return the values of the fields for a raw record."""
    return [_field_value(column, record.get(column.name)) for column in inputs.columns]


def _field_value(column: ModelInput, value: Any) -> Any:
    match column.type:
        case "number" | "integer":
            return value
        case "boolean":
            text = "" if value is None else "true" if value else "false"
            return text if column.optional else ["true"] if value else []
        case "list of categories":
            return list(value or ())
        case "list of shares":
            return " ".join(f"{each:g}" for each in value or ())
    return "" if value is None else value


def record_of(inputs: ModelInputs, values: Sequence[Any]) -> Record:
    """Return the raw record that the fields hold; columns without a field have the values of the typical record.

    What is not a value of its column stays as it is: the champion's service says what is wrong with it.
    """
    found = {column.name: _value(column, value) for column, value in zip(inputs.columns, values, strict=True)}
    return {name: value for name, value in (inputs.record | found).items() if value is not None}


def _value(column: ModelInput, value: Any) -> Any:
    if value is None or value == "":
        return None
    match column.type:
        case "boolean":
            return value == "true" if isinstance(value, str) else "true" in value
        case "list of categories":
            return list(value) or None
        case "list of shares":
            try:
                return [float(each) for each in str(value).split()]
            except ValueError:
                return value
    return value


def answer(inputs: ModelInputs, tried: TriedRecord) -> list[Component]:
    """Return what the champion says."""
    said = [
        html.H2(f"Prediction of {inputs.target}"),
        html.P([html.Strong(_prediction(tried.prediction)), f" {inputs.unit}"], className="try-value"),
    ]
    if tried.half_width is not None:
        said.append(html.P(f"90 % interval: {_ends(tried.prediction, tried.half_width)}"))
    said.append(html.P(f"{tried.model} v{tried.version}", className="quiet"))
    return [*said, *(html.P(badge("warn", text), className="warned") for text in tried.warnings)]


def _ends(prediction: float, half_width: float) -> str:
    return f"{_prediction(prediction - half_width)} to {_prediction(prediction + half_width)}"


def reasons(inputs: ModelInputs, tried: TriedRecord) -> list[Component]:
    """Return what each column contributes to the prediction, as bars; the largest first."""
    if tried.base is None:
        return [empty("No contributions: the model carries no known records to explain with, or too many ask for them now.")]
    ordered = sorted(tried.contributions.items(), key=lambda each: -abs(each[1]))
    shown, others = ordered[:MAX_BARS], ordered[MAX_BARS:]
    if others:
        shown.append((f"{len(others)} other columns", sum(value for _, value in others)))
    largest = max((abs(value) for _, value in shown), default=0.0) or 1.0
    rows = [
        html.Tr([html.Th(name, scope="row"), html.Td(_bar(value / largest)), html.Td(_signed(value), className="number")])
        for name, value in shown
    ]
    ends = [("Mean of known records", tried.base), ("This prediction", tried.prediction)]
    first, last = (
        html.Tr([html.Th(name, scope="row"), html.Td(), html.Td(_prediction(value), className="number")], className="end")
        for name, value in ends
    )
    return [html.Table(html.Tbody([first, *rows, last]), className="bars")]


def _signed(value: float) -> str:
    return f"{value:+,.4g}" if value else "0"


def _bar(share: float) -> Component:
    """Return a bar from the middle, to the right where it adds; screen readers have its number."""
    style = {"width": f"{50 * abs(share):.1f}%", "left": f"{50 + min(50 * share, 0):.1f}%"}
    return html.Div(html.Div(style=style, className="more" if share > 0 else "less"), **attributes(aria_hidden="true"))


def _prediction(value: float) -> str:
    """Format a prediction: two decimals, or four significant digits if it is small."""
    return f"{value:,.2f}" if abs(value) >= 10 or value == 0 else f"{value:.4g}"


def solutions(inputs: ModelInputs, found: Suggestions, free: Sequence[str]) -> Component:
    """Return the settings that were found as a table, each with a button that takes it into the fields."""
    numeric = {column.name for column in inputs.columns if column.type in ("number", "integer")}
    rows = []
    for place, each in enumerate(found.suggestions):
        near = badge("good", "known") if each.distance <= 1 else badge("warn", f"{each.distance:.1f} x as far as usual")
        missed: list[Any] = [] if each.reached else [" ", badge("warn", "nearest")]
        take = html.Button(
            "Use",
            id=field_id(TAKE, place),
            className="button",
            **attributes(aria_label=f"Use solution {place + 1}", data_take=""),
        )
        cells = [_shown(each.record.get(name)) for name in free]
        interval = "" if each.half_width is None else _ends(each.prediction, each.half_width)
        value = html.Span([_prediction(each.prediction), *missed, html.Div(interval, className="detail nowrap")])
        rows.append([value, *cells, near, take])
    numbers = [0, *(place for place, name in enumerate(free, start=1) if name in numeric)]
    return table(Table(("Prediction", *free, "Distance", ""), rows, numbers))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.6g}" if isinstance(value, int | float) else _MISSING if value is None else str(value)
