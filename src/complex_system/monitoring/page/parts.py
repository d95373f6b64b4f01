"""What the views are built of: cards, tables, badges, plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dash import dcc, html
from dash.development.base_component import Component

from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.wording import Clock, link

Child = Any
"""A component, a text, or a list of them."""

PLOT = {
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


class View(Protocol):
    """A view of the page: one module."""

    PATH: str
    TITLE: str
    OUTPUTS: Sequence[tuple[str, str]]

    def skeleton(self) -> Component:
        """The parts, empty."""

    def fill(self, reading: Reading, viewer: Viewer) -> list[Any]:
        """The values of ``OUTPUTS``, in their order."""


def card(title: str, *children: Child, note: Child = "", class_: str = "", aside: Child = None) -> Component:
    """A part of a view under a heading."""
    head = [html.H2(title)]
    if aside is not None:
        head.append(html.Div(aside, className="aside"))
    inner = [html.Div(head, className="card-head")]
    if note != "":
        inner.append(html.P(note, className="note"))
    return html.Section([*inner, *children], className=f"card {class_}".strip())


def plot(name: str, label: str, height: int = 300) -> Component:
    """Where a figure goes; ``label`` says what it shows."""
    graph = dcc.Graph(id=name, config=PLOT, figure={"data": [], "layout": {"height": height}}, style={"height": f"{height}px"})
    return html.Div(graph, role="figure", className="plot", **{"aria-label": label})


def drawing(name: str) -> Component:
    """Where a picture goes, as markup; see ``page.js``. The markup itself is in a store."""
    return html.Div([dcc.Store(id=name), html.Div(id=f"{name}-at", className="drawing")])


def empty(text: str) -> Component:
    """Says what is awaited."""
    return html.P(text, className="empty")


def badge(kind: str, text: str) -> Component:
    """A word with a sign: ``good``, ``warn``, ``bad`` or ``none``."""
    return html.Span(
        [html.Span(SIGNS.get(kind, "•"), className="sign", **{"aria-hidden": "true"}), text], className=f"badge {kind}"
    )


def outside(text: str, url: Any) -> Child:
    """A link to another page, or the text alone where the address is none."""
    target = link(url)
    return html.A(text, href=target, target="_blank", rel="noopener noreferrer") if target else text


def table(heads: Sequence[str], rows: Sequence[Sequence[Child]], numbers: Sequence[int] = (), marked: int | None = None) -> Component:
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
            [html.Td(cell, className=kind(i), **{"data-label": heads[i]}) for i, cell in enumerate(row)],
            className="marked" if place == marked else "",
        )
        for place, row in enumerate(rows)
    ])  # fmt: skip
    return html.Div(html.Table([head, body]), className="table")


def figures(*pairs: tuple[str, Child]) -> Component:
    """Named figures in a row."""
    return html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in pairs], className="figures")
