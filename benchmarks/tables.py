"""What a program measured, as a table and as bars; every way in turn, round after round, so that other load falls on all."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Bar:
    """One way in a plot: the median and the spread around it."""

    name: str
    value: float
    least: float
    most: float

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> Bar:
        """The bar of several rounds."""
        return cls(name, median(values), min(values), max(values))


@dataclass
class Table:
    """What one program measured.

    Attributes:
        note: What is needed to read the figures.
        unit: What the bars show.
        missed: Aims that are missed, each as a sentence.
    """

    title: str
    note: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    unit: str = ""
    missed: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """It as Markdown."""
        lines = [
            f"### {self.title}",
            "",
            self.note,
            "",
            "| " + " | ".join(self.head) + " |",
            "|" + " --- |" * len(self.head),
        ]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in self.rows)]) + "\n"


def rounds_of(ways: Mapping[str, Callable[[], T]], rounds: int, *, warm_up: bool = True) -> dict[str, list[T]]:
    """Carries every way out once a round, and returns what each gave; the first round warms up and is not counted."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds + warm_up):
        for name, way in ways.items():
            gc.collect()
            result = way()
            if number or not warm_up:
                found[name].append(result)
    return found


def compared(
    title: str,
    note: str,
    seconds: Mapping[str, Sequence[float]],
    *,
    count: int,
    unit: str,
    per: Literal["second", "each"] = "second",
    aims: Mapping[str, str] | None = None,
) -> Table:
    """A table of ways to do the same; the first is ours, and the ratio is ours to each of the others.

    Args:
        title: Heading.
        note: What is needed to read the figures.
        seconds: Seconds of every round, by way.
        count: How many records or requests a round had.
        unit: What is counted, e.g. ``records/s`` or ``ms a request``.
        per: Whether the figures are counts a second (more is better), or milliseconds each (less is better).
        aims: The aim of the ratio of ours to a way, for those that have one.
    """
    rate = per == "second"
    figures = {name: [count / s if rate else s / count * 1000 for s in found] for name, found in seconds.items()}
    table = Table(title, note, ["way", unit, "spread", "ours is", "aim"], unit=unit)
    own = median(next(iter(figures.values())))
    for place, (name, values) in enumerate(figures.items()):
        bar = Bar.of(name, values)
        ratio, aim = f"{own / bar.value:.2f} x" if place else "", (aims or {}).get(name, "")
        if place and aim and _is_missed(own / bar.value, aim, rate=rate):
            aim += ", missed"
        if rate and "time" in aim:
            ratio += f", {bar.value / own:.2f} x the time"
        row = [name, _shown(bar.value), f"{_shown(bar.least)} to {_shown(bar.most)}", ratio, aim]
        table.rows.append(row)
        table.bars.append(bar)
    return table


def _is_missed(ratio: float, aim: str, *, rate: bool) -> bool:
    """Whether a ratio of ours misses an aim such as ``>= 0.7 x`` or, of the time, ``<= 1.3 x``; other aims are not looked at."""
    if not (found := re.match(r"(>=|<=) ([\d.]+) x", aim)):
        return False
    value = 1 / ratio if rate and "time" in aim else ratio
    return value < float(found[2]) if found[1] == ">=" else value > float(found[2])


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
