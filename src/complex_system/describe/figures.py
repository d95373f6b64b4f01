"""Figures of the report: numbers as a person writes them, distributions as SVG, and texts of the file as markup.

Labels are outside of the drawings, so that they keep their size when a drawing is scaled.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

import numpy as np

from complex_system.describe.quality import ColumnQuality, NumberSummary
from complex_system.monitoring.page.svg import safe as escaped
from complex_system.monitoring.page.svg import tag

_TEXTS = 4
_BINS = 72
_WIDTH, _HEIGHT = 200.0, 44.0
NONE = '<span class="none">–</span>'
"""In the place of what is not there."""


def safe(text: object) -> str:
    """Escape text of the file; characters that cannot be seen become dots."""
    return escaped(_visible(str(text)))


def _visible(text: str) -> str:
    return "".join("·" if unicodedata.category(each)[0] == "C" else each for each in text)


def name(text: str) -> str:
    """Return a name of the file, apart from the direction of the text around it."""
    return tag("bdi", safe(text) or "(no name)")


# Numbers


def figure(value: float, unit: str = "") -> str:
    """Return a number as a person writes it, with its unit."""
    value = float(value)
    if value == round(value) and abs(value) < 1e15:
        text = f"{value:,.0f}"
    elif abs(value) >= 10_000:
        text = f"{value:,.1f}" if abs(value) < 1e9 else f"{value:.4g}"
    else:
        text = f"{value:.4g}"
    text = text.replace("-", "−")
    return f"{text}\u00a0{unit}" if unit else text


def signed(value: float) -> str:
    """Return a correlation with its sign and two decimals, three where it is almost 1."""
    return f"{value:+.3f}".replace("-", "−") if 0.995 <= abs(value) < 1 else f"{value:+.2f}".replace("-", "−")


def percent(share: float) -> str:
    """Return a part in percent."""
    value = 100 * share
    digits = 0 if value in (0, 100) or 9.95 <= value < 99.5 else 1 if 99.5 <= value < 99.95 or value >= 0.95 else 2
    return f"{value:.{digits}f}\u00a0%"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def times(count: int) -> str:
    """Return a count of events."""
    return "once" if count == 1 else f"{count:,} times"


def lasting(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for size, noun in ((86400 * 365.25, "year"), (86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 1.5 * size or seconds == size:
            amount = seconds / size
            return (
                f"{amount:.0f} {noun}{'' if amount == 1 else 's'}"
                if amount >= 10 or amount == round(amount)
                else f"{amount:.1f} {noun}s"
            )
    return f"{seconds:.3g} s"


# Drawings


def _drawing(content: str, width: float, height: float, label: str) -> str:
    return tag(
        "svg", content, viewBox=f"0 0 {width:g} {height:g}", preserveAspectRatio="none", role="img", aria_label=_visible(label)
    )  # fmt: skip


def _rect(x: float, y: float, width: float, height: float, class_: str) -> str:
    return tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{height:.1f}", class_=class_)


def shape(made: ColumnQuality) -> str:
    """Return the distribution of a column: a histogram, or its most frequent texts."""
    if made.summary is not None:
        return _histogram(made, made.summary)
    if not made.top or made.different > 200:
        return tag("span", "different texts" if made.top else "no values", class_="none")
    items = ""
    for text, share in made.top[:_TEXTS]:
        bar = _rect(0, 0, 100, 9, "track") + _rect(0, 0, 100 * share, 9, "bar")
        svg = tag("svg", bar, viewBox="0 0 100 9", preserveAspectRatio="none", aria_hidden="true")
        items += tag("li", name(text) + svg + tag("span", percent(share)))
    more = made.different - _TEXTS
    return tag("ul", items, class_="texts") + (tag("div", f"{more:,} more", class_="scale") if more > 0 else "")


def _histogram(made: ColumnQuality, summary: NumberSummary) -> str:
    highest = max(summary.counts, default=0.0) or 1.0
    each = _WIDTH / len(summary.counts)
    bars = ""
    for i, count in enumerate(summary.counts):
        height = max(1.0, (_HEIGHT - 2) * count / highest) if count else 0.0
        bars += _rect(i * each + 0.4, _HEIGHT - height, max(0.6, each - 0.8), height, "bar") if height else ""
    bars += tag("line", x1=0, x2=_WIDTH, y1=_HEIGHT - 0.5, y2=_HEIGHT - 0.5, class_="axis")
    is_time = made.profile.kind == "time"
    low, high = ((day if is_time else figure)(value) for value in (summary.low, summary.high))
    unit = f"\u00a0{made.column.unit}" if made.column.unit and not is_time else ""
    outside = summary.below + summary.above
    label = f"Histogram of {made.column.name} from {low} to {high}{unit}" + (
        f"; {percent(outside)} outside" if outside else ""
    )
    ends = tag("div", tag("span", low) + tag("span", safe(high + unit)), class_="scale")
    return _drawing(bars, _WIDTH, _HEIGHT, label) + ends


def relation(made: ColumnQuality) -> str:
    """Return the correlation with the target as a figure and a bar from the middle."""
    if made.relation is None:
        return NONE
    value = max(-1.0, min(1.0, made.relation))
    bar = _rect(0, 0, 100, 8, "track") + _rect(
        50 + min(0.0, 50 * value), 0, abs(50 * value), 8, "bar" if value >= 0 else "minus"
    )
    bar += tag("line", x1=50, x2=50, y1=0, y2=8, class_="axis")
    svg = tag("svg", bar, viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true")
    return tag("div", signed(value) + svg)


def coverage(column: ColumnQuality, label: str) -> str:
    """Return how many records there are over time, with the gaps."""
    assert column.summary is not None
    low, high = column.summary.low, column.summary.high
    values = column.profile.sample
    counts, _ = np.histogram(values[~np.isnan(values)], _BINS, (low, high))
    width = 720 / _BINS
    parts = ""
    for gap in column.gaps:
        parts += _rect(720 * (gap.start - low) / (high - low), 0, max(2.0, 720 * gap.seconds / (high - low)), 72, "gap")
    for i, count in enumerate(counts.tolist()):
        height = 68 * count / max(1, int(counts.max()))
        parts += _rect(i * width + 0.5, 72 - height, width - 1, height, "bar") if count else ""
    return _drawing(parts + tag("line", x1=0, x2=720, y1=71.5, y2=71.5, class_="axis"), 720, 72, label)


def day(at: float) -> str:
    """Return the day of a time in seconds since 1970."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def moment(at: float) -> str:
    """Return the minute of such a time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
