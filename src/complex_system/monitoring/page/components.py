"""What the views are built of: cards, tables, badges, plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from complex_system.monitoring.page.formatting import Clock, link
from complex_system.monitoring.page.reading import Reading

Child = Any
"""A component, a text, or a list of them."""

PLOT: Any = {
    "displaylogo": False, "responsive": True, "displayModeBar": False, "scrollZoom": False, "doubleClick": "reset",
    "showTips": False,
}  # fmt: skip
SIGNS = {"good": "✓", "warn": "!", "bad": "✕", "none": "…"}


@dataclass(frozen=True)
class Viewer:
    """Who looks: theme, zone and what they have chosen on the view."""

    theme: str = "light"
    clock: Clock = field(default_factory=Clock)
    choice: str = ""


def attributes(**named: str) -> dict[str, Any]:
    """HTML attributes with a hyphen in their name."""
    return {name.replace("_", "-"): value for name, value in named.items()}


@dataclass(frozen=True)
class View:
    """A view of the page: one module's content.

    Attributes:
        outputs: Ids and properties that are filled.
        skeleton: Makes the parts, empty.
        fill: Makes the values of ``outputs``, in their order.
        choice: Id of a choice that the view has of its own.
    """

    path: str
    title: str
    outputs: Sequence[tuple[str, str]]
    skeleton: Callable[[], Component]
    fill: Callable[[Reading, Viewer], list[Any]]
    choice: str = ""

    @property
    def name(self) -> str:
        """What its ids begin with."""
        return self.title.lower()


def card(title: str, *children: Child, note: Child = "", class_: str = "", aside: Child = None) -> Component:
    """A part of a view under a heading."""
    head: list[Any] = [html.H2(title)]
    if aside is not None:
        head.append(html.Div(aside, className="aside"))
    inner: list[Any] = [html.Div(head, className="card-head")]
    if note != "":
        inner.append(html.P(note, className="note"))
    return html.Section([*inner, *children], className=f"card {class_}".strip())


def plot(name: str, label: str, height: int = 300) -> Component:
    """Where a figure goes; ``label`` says what it shows."""
    graph = dcc.Graph(
        id=name, config=PLOT, figure={"data": [], "layout": {"height": height}}, style={"height": f"{height}px"}
    )
    # The height is kept free, so that nothing moves when the figure comes.
    return html.Div(
        graph, role="figure", className="plot", style={"minHeight": f"{height}px"}, **attributes(aria_label=label)
    )


def drawing(name: str) -> Component:
    """Where a picture goes, as markup; see ``page.js``. The markup itself is in a store."""
    return html.Div([dcc.Store(id=name), html.Div(id=f"{name}-at", className="drawing")])


def empty(text: str) -> Component:
    """Says what is awaited."""
    return html.P(text, className="empty")


def badge(kind: str, text: str) -> Component:
    """A word with a sign: ``good``, ``warn``, ``bad`` or ``none``."""
    return html.Span(
        [html.Span(SIGNS.get(kind, "•"), className="sign", **attributes(aria_hidden="true")), text],
        className=f"badge {kind}",
    )


def outside(text: str, url: Any) -> Child:
    """A link to another page, or the text alone where the address is none."""
    target = link(url)
    return html.A(text, href=target, target="_blank", rel="noopener noreferrer") if target else text


def table(
    heads: Sequence[str], rows: Sequence[Sequence[Child]], numbers: Sequence[int] = (), marked: int | None = None
) -> Component:
    """A table.

    Args:
        heads: Column names.
        rows: Cells.
        numbers: Columns that are set to the right.
        marked: Row that stands out.
    """

    def kind(i: int) -> str:
        return "number" if i in numbers else ""

    head = html.Thead(html.Tr([html.Th(name, className=kind(i), scope="col") for i, name in enumerate(heads)]))
    body = html.Tbody([
        html.Tr(
            [html.Td(cell, className=kind(i), **attributes(data_label=heads[i])) for i, cell in enumerate(row)],
            className="marked" if place == marked else "",
        )
        for place, row in enumerate(rows)
    ])  # fmt: skip
    return html.Div(html.Table([head, body]), className="table")


def figures(*pairs: tuple[str, Child]) -> Component:
    """Named figures in a row."""
    return html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in pairs], className="figures")
