"""Parts of which the views are built: cards, tables, badges, plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from complex_system.monitoring.page.formatting import Level, Viewer, link
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.summaries import Table
from complex_system.monitoring.page.terms import TERMS

Child = Any
"""A component, a text, or a list of them."""

PLOT: Any = {
    "displaylogo": False, "responsive": True, "displayModeBar": False, "scrollZoom": False, "doubleClick": "reset",
    "showTips": False,
}  # fmt: skip
SIGNS: dict[Level, str] = {"good": "✓", "warn": "!", "bad": "✕", "none": "…"}


def attributes(**named: str) -> dict[str, Any]:
    """Return HTML attributes with hyphens in their names."""
    return {name.replace("_", "-"): value for name, value in named.items()}


Parts = Mapping[str, tuple[str, Callable[[Reading, Viewer], Any]]]
"""For the id of a component the property that is filled, and the function that makes its value."""


@dataclass(frozen=True)
class View:
    """A view of the page: the content of one module.

    Attributes:
        skeleton: Makes the view without content.
        parts: The content.
        choice: Id of a choice that the view has of its own.
    """

    path: str
    title: str
    skeleton: Callable[[], Component]
    parts: Parts
    choice: str = ""

    @property
    def name(self) -> str:
        """Prefix of its ids."""
        return self.title.lower().replace(" ", "-")

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """Ids and properties that are filled."""
        return [(name, what) for name, (what, _) in self.parts.items()]

    def fill(self, reading: Reading, viewer: Viewer) -> list[Any]:
        """Return the values of ``outputs``."""
        return [make(reading, viewer) for _, make in self.parts.values()]


def card(
    title: str, *children: Child, note: Child = "", class_: str = "", aside: Child = None, terms: Sequence[str] = ()
) -> Component:
    """Return a part of a view under a heading, with what its ``terms`` mean behind a question mark."""
    head: list[Any] = [html.H2(title)]
    if terms:
        head.append(explained(title, terms))
    if aside is not None:
        head.append(html.Div(aside, className="aside"))
    inner: list[Any] = [html.Div(head, className="card-head")]
    if note != "":
        inner.append(html.P(note, className="note"))
    return html.Section([*inner, *children], className=f"card {class_}".strip())


def explained(title: str, terms: Sequence[str]) -> Component:
    """Return a question mark that opens, by mouse, key or touch, what terms mean."""
    meanings = [html.Div([html.Dt(term), html.Dd(TERMS[term])]) for term in terms]
    mark = html.Summary("?", title="What do the terms mean?", **attributes(aria_label=f"Terms in: {title}"))
    return html.Details([mark, html.Dl(meanings)], className="terms")


def columns(*cards: Component, class_: str = "") -> Component:
    """Return cards side by side."""
    return html.Div(list(cards), className=f"columns {class_}".strip())


def plot(name: str, label: str, height: int = 300) -> Component:
    """Return the place of a figure. ``label`` describes it; the height is kept free so that nothing moves when the figure comes."""
    graph = dcc.Graph(
        id=name, config=PLOT, figure={"data": [], "layout": {"height": height}}, style={"height": f"{height}px"}
    )
    return html.Div(
        graph, role="figure", className="plot", style={"minHeight": f"{height}px"}, **attributes(aria_label=label)
    )


def drawing(name: str) -> Component:
    """Return the place of a drawing, whose markup is kept in a store; see ``page.js``."""
    return html.Div([dcc.Store(id=name), html.Div(id=f"{name}-at", className="drawing")])


def empty(text: str) -> Component:
    """Return a text in the place of content that is missing."""
    return html.P(text, className="empty")


def sign(symbol: str, class_: str = "") -> Component:
    """Return a symbol, which screen readers skip."""
    return html.Span(symbol, className=f"sign {class_}".strip(), **attributes(aria_hidden="true"))


def badge(level: Level, text: str) -> Component:
    """Return a text with the sign and the colour of its level."""
    return html.Span([sign(SIGNS[level]), text], className=f"badge {level}")


def outside(text: str, url: Any) -> Child:
    """Return a link to another page, or the text alone if the address is missing or unsafe."""
    target = link(url)
    return html.A(text, href=target, target="_blank", rel="noopener noreferrer") if target else text


def table(content: Table, marked: int | None = None) -> Component:
    """Return a table; the row with the number ``marked`` stands out."""

    def class_of(i: int) -> str:
        return "number" if i in content.numbers else ""

    head = html.Thead(html.Tr([html.Th(name, className=class_of(i), scope="col") for i, name in enumerate(content.heads)]))
    body = html.Tbody([
        html.Tr(
            [html.Td(cell, className=class_of(i), **attributes(data_label=content.heads[i])) for i, cell in enumerate(row)],
            className="marked" if place == marked else "",
        )
        for place, row in enumerate(content.rows)
    ])  # fmt: skip
    return html.Div(html.Table([head, body]), className="table")


def figures(*named: tuple[str, Child] | tuple[str, Child, str]) -> Component:
    """Return named figures in a row, each with what it is about, where that is given."""
    parts = [
        html.Div([html.Dt(name), html.Dd(value), *(html.Dd(about, className="about") for about in more)])
        for name, value, *more in named
    ]
    return html.Dl(parts, className="figures")
