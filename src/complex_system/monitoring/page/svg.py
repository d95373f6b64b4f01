"""Drawings as SVG text: elements, distributions, and curves for the report. Colours are CSS variables of the page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple


def safe(text: object) -> str:
    """Escape text for SVG and HTML, also within an attribute."""
    return html.escape(str(text), quote=True)


def tag(name: str, content: str = "", **attributes: object) -> str:
    """Return an element; ``content`` is markup. Underscores in attribute names become hyphens, a trailing one is dropped."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{safe(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>"


def text(x: float, y: float, content: object, **attributes: object) -> str:
    """Return a line of text."""
    return tag("text", safe(content), x=_n(x), y=_n(y), **attributes)


def svg(width: float, height: float, content: str, label: str, class_: str = "") -> str:
    """Return a drawing that scales with its place; ``label`` describes it to readers who cannot see it."""
    return tag(
        "svg", tag("title", safe(label)) + content, viewBox=f"0 0 {_n(width)} {_n(height)}", role="img",
        aria_label=label, class_=class_, xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


class Box(NamedTuple):
    """The area of a plot within a drawing, and its axes' limits."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        """Return the horizontal place of a value."""
        return self.left + (self.right - self.left) * (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)

    def up(self, y: float) -> float:
        """Return the vertical place of a value."""
        return self.bottom - (self.bottom - self.top) * (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)

    def level(self, y: float, class_: str) -> str:
        """Return a line across the area."""
        return tag("line", x1=_n(self.left), x2=_n(self.right), y1=_n(self.up(y)), y2=_n(self.up(y)), class_=class_)

    def bar(self, x: float, width: float, y: float, class_: str, tip: str) -> str:
        """Return a bar from zero, ``x`` and ``width`` being places, with a tip that is shown on it."""
        height = self.bottom - self.up(y)
        return tag(
            "rect", tag("title", safe(tip)), x=_n(x), y=_n(self.bottom - height), width=_n(width), height=_n(height), class_=class_
        )  # fmt: skip


WIDTH, HEIGHT = 300.0, 118.0


def histogram(edges: Sequence[float], reference: Sequence[float], live: Sequence[float], unit: str, label: str) -> str:
    """Return a number's live distribution as bars, with the reference as a line over it."""
    low, high = float(edges[0]), float(edges[-1])
    box, parts = _shares([*reference, *live], (low, high))
    each = (box.right - box.left) / max(1, len(reference))
    outline = []
    for i, (before, now) in enumerate(zip(reference, live, strict=True)):
        x = box.left + i * each
        tip = f"{_short(edges[i])} to {_short(edges[i + 1])}: live {now:.1%}, reference {before:.1%}"
        parts += box.bar(x + 0.5, max(0.5, each - 1), now, "live", tip)
        outline += [f"{_n(x)},{_n(box.up(before))}", f"{_n(x + each)},{_n(box.up(before))}"]
    parts += tag("polyline", points=" ".join(outline), class_="reference")
    for at, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        suffix = f" {unit}" if unit and anchor == "end" else ""
        rough = round(at, 2 - math.floor(math.log10((high - low) or 1.0)))
        parts += text(box.across(at), HEIGHT - 8, f"{_short(rough)}{suffix}", text_anchor=anchor, class_="tick")
    return svg(WIDTH, HEIGHT, parts, label, "distribution")


def categories(names: Sequence[str], reference: Sequence[float], live: Sequence[float], label: str) -> str:
    """Return a category's live shares as bars beside the reference's."""
    box, parts = _shares([*reference, *live], (0.0, float(len(names))))
    each = (box.right - box.left) / max(1, len(names))
    thick = min(26.0, each * 0.34)
    room = max(2, int(each / 6.4))
    for i, name in enumerate(names):
        middle = box.across(i + 0.5)
        parts += box.bar(middle - thick - 1, thick, reference[i], "reference-bar", f"{name}: reference {reference[i]:.1%}")
        parts += box.bar(middle + 1, thick, live[i], "live", f"{name}: live {live[i]:.1%}")
        shown = name if len(name) <= room else f"{name[: room - 1]}…"
        parts += text(middle, HEIGHT - 8, shown, text_anchor="middle", class_="tick")
    return svg(WIDTH, HEIGHT, parts, label, "distribution")


class Line(NamedTuple):
    """A curve of a chart: points (x, y) in rising x; None for y makes a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]


class Mark(NamedTuple):
    """A labelled level across a chart."""

    name: str
    value: float


def chart(
    lines: Sequence[Line], span: tuple[float, float], ticks: Sequence[tuple[float, str]], y_title: str, label: str,
    marks: Sequence[Mark] = (),
) -> str:  # fmt: skip
    """Return curves over time, from zero upwards, without a script."""
    values = [y for line in lines for _, y in line.points if y is not None] + [mark.value for mark in marks]
    if not values:
        return tag("p", safe(label), class_="empty")
    width, height = 760.0, 230.0
    low, high = min(0.0, *values), max(values)
    steps = nice_ticks(low, high if high > low else low + 1.0)
    box = Box(56.0, width - 12.0, 26.0, height - 28.0, span, (min(low, steps[0]), max(high, steps[-1])))
    parts = text(0, 12, y_title, class_="axis-title")
    for step in steps:
        parts += box.level(step, "grid") + text(
            box.left - 6, box.up(step) + 4, _short(step), text_anchor="end", class_="tick"
        )
    for at, name in ticks:
        parts += text(box.across(at), height - 8, name, text_anchor="middle", class_="tick")
    for mark in marks:
        parts += box.level(mark.value, "mark")
        parts += text(box.right, box.up(mark.value) - 4, mark.name, text_anchor="end", class_="tick")
    for i, line in enumerate(lines):
        for piece in _pieces(line.points):
            places = [(_n(box.across(x)), _n(box.up(y))) for x, y in piece]
            if len(places) == 1:
                parts += tag("circle", cx=places[0][0], cy=places[0][1], r=2, class_=f"dot series-{i % 6}")
            parts += tag("polyline", points=" ".join(",".join(place) for place in places), class_=f"curve series-{i % 6}")
    return svg(width, height, parts, label, "chart")


def nice_ticks(low: float, high: float, limit: int = 5) -> list[float]:
    """Return round numbers from ``low`` to ``high``."""
    raw = (high - low) / limit or 1.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _pieces(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]


def _shares(shares: Sequence[float], x: tuple[float, float]) -> tuple[Box, str]:
    """Return the area of a distribution, and its vertical axis."""
    highest = max(shares, default=0.0)
    top = next((nice for nice in (0.01, 0.02, 0.04, 0.06, 0.1, 0.16, 0.2, 0.3, 0.4, 0.6, 0.8) if highest <= nice), 1.0)
    box = Box(34.0, WIDTH - 6.0, 8.0, HEIGHT - 22.0, x, (0.0, top))
    axis = ""
    for at in (0.0, top / 2, top):
        axis += box.level(at, "grid")
        axis += text(box.left - 4, box.up(at) + 3.5, f"{100 * at:.3g} %", text_anchor="end", class_="tick")
    return box, axis


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
