"""Pictures as SVG text: of the data flow, of distributions, of curves in a report. Colours are the page's CSS variables."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple


def safe(text: object) -> str:
    """Text for SVG and HTML, also within an attribute."""
    return html.escape(str(text), quote=True)


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element; ``content`` is markup. Underscores in attribute names become hyphens, a trailing one goes."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{safe(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>"


def text(x: float, y: float, content: object, **attributes: object) -> str:
    """A line of text."""
    return tag("text", safe(content), x=_n(x), y=_n(y), **attributes)


def svg(width: float, height: float, content: str, label: str, class_: str = "") -> str:
    """A picture that scales with its place; ``label`` says what it shows to those who do not see it."""
    return tag(
        "svg", tag("title", safe(label)) + content, viewBox=f"0 0 {_n(width)} {_n(height)}", role="img",
        aria_label=label, class_=class_, xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


class Bars(NamedTuple):
    """Two distributions over the same bins, in shares."""

    labels: Sequence[str]
    reference: Sequence[float]
    live: Sequence[float]


WIDTH, HEIGHT = 300.0, 118.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 6.0, 8.0, 22.0


def histogram(edges: Sequence[float], reference: Sequence[float], live: Sequence[float], unit: str, label: str) -> str:
    """A number's live distribution as bars, with the reference as a line over it."""
    low, high = float(edges[0]), float(edges[-1])
    top = _nice_share(max([*reference, *live, 1e-9]))
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    each = wide / max(1, len(reference))
    parts = _share_axis(top)
    outline = []
    for i, (before, now) in enumerate(zip(reference, live, strict=True)):
        x, h = _LEFT + i * each, tall * now / top
        tip = tag("title", safe(f"{_short(edges[i])} to {_short(edges[i + 1])}: live {now:.1%}, reference {before:.1%}"))
        parts += tag(
            "rect", tip, x=_n(x + 0.5), y=_n(HEIGHT - _BOTTOM - h), width=_n(max(0.5, each - 1)), height=_n(h), class_="live"
        )
        y = HEIGHT - _BOTTOM - tall * before / top
        outline += [f"{_n(x)},{_n(y)}", f"{_n(x + each)},{_n(y)}"]
    parts += tag("polyline", points=" ".join(outline), class_="reference")
    for at, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        x = _LEFT + wide * ((at - low) / ((high - low) or 1.0))
        suffix = f" {unit}" if unit and anchor == "end" else ""
        rough = round(at, 2 - math.floor(math.log10((high - low) or 1.0)))
        parts += text(x, HEIGHT - 8, f"{_short(rough)}{suffix}", text_anchor=anchor, class_="tick")
    return svg(WIDTH, HEIGHT, parts, label, "distribution")


def categories(bars: Bars, label: str) -> str:
    """A category's live shares as bars beside the reference's."""
    top = _nice_share(max([*bars.reference, *bars.live, 1e-9]))
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    each = wide / max(1, len(bars.labels))
    thick = min(26.0, each * 0.34)
    parts = _share_axis(top)
    for i, name in enumerate(bars.labels):
        middle = _LEFT + (i + 0.5) * each
        for value, x, kind in ((bars.reference[i], middle - thick - 1, "reference-bar"), (bars.live[i], middle + 1, "live")):
            h = tall * value / top
            tip = tag("title", safe(f"{name}: {'live' if kind == 'live' else 'reference'} {value:.1%}"))
            parts += tag("rect", tip, x=_n(x), y=_n(HEIGHT - _BOTTOM - h), width=_n(thick), height=_n(h), class_=kind)
        room = max(2, int(each / 6.4))
        parts += text(
            middle, HEIGHT - 8, name if len(name) <= room else f"{name[: room - 1]}…", text_anchor="middle", class_="tick"
        )
    return svg(WIDTH, HEIGHT, parts, label, "distribution")


class Line(NamedTuple):
    """A curve of a chart: points (x, y) in rising x; a gap where y is None."""

    name: str
    points: Sequence[tuple[float, float | None]]


class Mark(NamedTuple):
    """A level across a chart."""

    name: str
    value: float


def chart(
    lines: Sequence[Line], span: tuple[float, float], ticks: Sequence[tuple[float, str]], y_title: str, label: str,
    marks: Sequence[Mark] = (), from_zero: bool = True,
) -> str:  # fmt: skip
    """Curves over time, without a script; for the report."""
    width, height, left, right, top, bottom = 760.0, 230.0, 56.0, 12.0, 26.0, 28.0
    values = [y for line in lines for _, y in line.points if y is not None] + [mark.value for mark in marks]
    if not values:
        return text_picture(label)
    low, high = (0.0 if from_zero else min(values)), max(values)
    steps = nice_ticks(low, high if high > low else low + 1.0)
    low, high = min(low, steps[0]), max(high, steps[-1])
    start, end = span

    def place(x: float, y: float) -> str:
        across = left + (width - left - right) * (x - start) / ((end - start) or 1.0)
        return f"{_n(across)},{_n(height - bottom - (height - top - bottom) * (y - low) / (high - low))}"

    parts = text(0, 12, y_title, class_="axis-title")
    for step in steps:
        y = height - bottom - (height - top - bottom) * (step - low) / (high - low)
        parts += tag("line", x1=_n(left), x2=_n(width - right), y1=_n(y), y2=_n(y), class_="grid")
        parts += text(left - 6, y + 4, _short(step), text_anchor="end", class_="tick")
    for at, name in ticks:
        x = left + (width - left - right) * (at - start) / ((end - start) or 1.0)
        parts += text(x, height - 8, name, text_anchor="middle", class_="tick")
    for mark in marks:
        y = height - bottom - (height - top - bottom) * (mark.value - low) / (high - low)
        parts += tag("line", x1=_n(left), x2=_n(width - right), y1=_n(y), y2=_n(y), class_="mark")
        parts += text(width - right, y - 4, mark.name, text_anchor="end", class_="tick")
    for i, line in enumerate(lines):
        for piece in _pieces(line.points):
            if len(piece) == 1:
                across, up = place(*piece[0]).split(",")
                parts += tag("circle", cx=across, cy=up, r=2, class_=f"dot series-{i % 6}")
            parts += tag("polyline", points=" ".join(place(x, y) for x, y in piece), class_=f"curve series-{i % 6}")
    return svg(width, height, parts, label, "chart")


def text_picture(content: str) -> str:
    """Instead of a picture that has nothing to show."""
    return tag("p", safe(content), class_="empty")


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``."""
    raw = (high - low) / most or 1.0
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


def _share_axis(top: float) -> str:
    parts = ""
    for at in (0.0, top / 2, top):
        y = HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * at / top
        parts += tag("line", x1=_n(_LEFT), x2=_n(WIDTH - _RIGHT), y1=_n(y), y2=_n(y), class_="grid")
        parts += text(_LEFT - 4, y + 3.5, f"{100 * at:.3g} %", text_anchor="end", class_="tick")
    return parts


def _nice_share(top: float) -> float:
    return next((nice for nice in (0.01, 0.02, 0.04, 0.06, 0.1, 0.16, 0.2, 0.3, 0.4, 0.6, 0.8) if top <= nice), 1.0)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
