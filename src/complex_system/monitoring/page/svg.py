"""Drawings as SVG text: elements, distributions, and curves for the report. Colours are CSS variables of the page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Points = Sequence[tuple[float, float | None]]
"""A curve: (x, y) in rising x; None for y makes a gap."""


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
    return svg(WIDTH, HEIGHT, parts + _number_axis(box, unit), label, "distribution")


def categories(names: Sequence[str], reference: Sequence[float], live: Sequence[float], label: str) -> str:
    """Return a category's live shares as bars beside the reference's."""
    box, parts = _shares([*reference, *live], (0.0, float(len(names))))
    each = (box.right - box.left) / max(1, len(names))
    thick = min(26.0, each * 0.34)
    for i, name in enumerate(names):
        middle = box.across(i + 0.5)
        parts += box.bar(middle - thick - 1, thick, reference[i], "reference-bar", f"{name}: reference {reference[i]:.1%}")
        parts += box.bar(middle + 1, thick, live[i], "live", f"{name}: live {live[i]:.1%}")
    return svg(WIDTH, HEIGHT, parts + _names(box, names), label, "distribution")


def effects(
    values: Sequence[float | str], found: Sequence[float], limits: tuple[float, float], unit: str, label: str
) -> str:
    """Return effects as a curve over numbers, or as points over categories, with a line at zero.

    Args:
        values: Numbers, rising, or categories.
        found: The effect of each.
        limits: Ends of the vertical axis; 0 lies between them.
        unit: Of the numbers.
        label: Describes the drawing.
    """
    numbers = [value for value in values if not isinstance(value, str)]
    over = (numbers[0], numbers[-1]) if numbers else (0.0, float(len(values)))
    box = Box(40.0, WIDTH - 8.0, 8.0, HEIGHT - 22.0, over, limits)
    parts = ""
    for at in nice_ticks(*limits, limit=4):
        parts += box.level(at, "grid" if at else "zero")
        parts += text(box.left - 5, box.up(at) + 3.5, _short(at), text_anchor="end", class_="tick")
    if numbers:
        places = " ".join(f"{_n(box.across(x))},{_n(box.up(y))}" for x, y in zip(numbers, found, strict=True))
        tips = zip(values, found, numbers, strict=True)
        parts += tag("polyline", points=places, class_="effect") + _number_axis(box, unit)
    else:
        middles = [i + 0.5 for i in range(len(values))]
        tips = zip(values, found, middles, strict=True)
        parts += _names(box, [str(value) for value in values])
    for value, each, x in tips:
        tip = tag("title", f"{safe(value if isinstance(value, str) else _short(value))}: {each:+.3g}")
        if not numbers:
            parts += tag(
                "line", x1=_n(box.across(x)), x2=_n(box.across(x)), y1=_n(box.up(0)), y2=_n(box.up(each)), class_="effect"
            )
        parts += tag("circle", tip, cx=_n(box.across(x)), cy=_n(box.up(each)), r=2 if numbers else 4, class_="effect-point")
    return svg(WIDTH, HEIGHT, parts, label, "distribution")


def chart(
    curves: Sequence[Points], span: tuple[float, float], ticks: Sequence[tuple[float, str]], y_title: str, label: str,
    levels: Mapping[str, float] | None = None,
) -> str:  # fmt: skip
    """Return curves over time, from zero upwards, without a script; ``levels`` are named lines across it."""
    named = levels or {}
    values = [y for points in curves for _, y in points if y is not None] + list(named.values())
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
    for name, value in named.items():
        parts += box.level(value, "mark") + text(box.right, box.up(value) - 4, name, text_anchor="end", class_="tick")
    for i, points in enumerate(curves):
        for piece in _pieces(points):
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


def _pieces(points: Points) -> list[list[tuple[float, float]]]:
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


def _number_axis(box: Box, unit: str) -> str:
    """Return the ends and the middle of the horizontal axis."""
    (low, high), parts = box.x, ""
    for at, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        suffix = f" {unit}" if unit and anchor == "end" else ""
        rough = round(at, 2 - math.floor(math.log10((high - low) or 1.0)))
        parts += text(box.across(at), HEIGHT - 8, f"{_short(rough)}{suffix}", text_anchor=anchor, class_="tick")
    return parts


def _names(box: Box, names: Sequence[str]) -> str:
    """Return names below the horizontal axis, cut to their room."""
    room, parts = max(2, int((box.right - box.left) / max(1, len(names)) / 6.4)), ""
    for i, name in enumerate(names):
        shown = name if len(name) <= room else f"{name[: room - 1]}…"
        parts += text(box.across(i + 0.5), HEIGHT - 8, shown, text_anchor="middle", class_="tick")
    return parts


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
