"""The figures of one moment: a name and a subject each. MLflow, documents and alert rules use flat names made of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

_SUBJECT_BEFORE_FIGURE = ("services", "performance")
"""Groups whose flat names are ``<group>/<subject>/<figure>``; in all others the subject is at the end."""
_SUBJECT_AT_END = ("services/silent",)
_SHADOW = "performance/shadow"


class Figure(NamedTuple):
    """The name of something that is measured.

    Attributes:
        name: Group and figure, such as ``drift/psi``, ``services/cpu_percent`` or ``performance/shadow/rmse``.
        subject: The column, feature, service or model that it is about; empty for the whole system.
    """

    name: str
    subject: str = ""

    @property
    def group(self) -> str:
        """The first part of the name, such as ``drift``."""
        return self.name.partition("/")[0]

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its series in Prometheus."""
        return {"name": self.subject}

    @property
    def flat(self) -> str:
        """Name and subject as one text: ``drift/psi/<feature>``, ``services/<service>/cpu_percent``."""
        return _flat(self)

    @classmethod
    def parse(cls, flat: str) -> Figure:
        """Read a flat name, of a document or of a request."""
        return _parsed(flat)


class Figures(dict[Figure, float]):
    """The numbers of one moment by figure."""

    def add(self, group: str, numbers: Mapping[str, float], subject: str = "") -> None:
        """Add numbers by the second part of their names, all of one group and subject."""
        for name, number in numbers.items():
            self[Figure(f"{group}/{name}", subject)] = float(number)

    def number(self, name: str, subject: str = "") -> float | None:
        """Return a number; None where it was not measured."""
        return self.get(Figure(name, subject))

    def by_subject(self, name: str) -> dict[str, float]:
        """Return the numbers of a figure by subject."""
        return {figure.subject: number for figure, number in self.items() if figure.name == name and figure.subject}

    def of_group(self, group: str) -> dict[str, float]:
        """Return the numbers of a group that are about the whole system, by name without the group."""
        return {
            figure.name.partition("/")[2]: number
            for figure, number in self.items()
            if figure.group == group and not figure.subject
        }

    def finite(self) -> Figures:
        """Return those that are finite numbers."""
        return Figures({figure: float(number) for figure, number in self.items() if math.isfinite(number)})

    def flat(self) -> dict[str, float]:
        """Return the numbers by flat name."""
        return {figure.flat: number for figure, number in self.items()}

    @classmethod
    def of_flat(cls, numbers: Mapping[str, float] | Iterable[tuple[str, float]]) -> Figures:
        """Return figures from numbers by flat name."""
        return cls({Figure.parse(flat): number for flat, number in dict(numbers).items()})


@lru_cache(maxsize=32_768)
def _flat(figure: Figure) -> str:
    name, subject = figure
    if not subject:
        return name
    if figure.group in _SUBJECT_BEFORE_FIGURE and name not in _SUBJECT_AT_END:
        before, _, last = name.rpartition("/")
        return f"{before}/{subject}/{last}"
    return f"{name}/{subject}"


@lru_cache(maxsize=32_768)
def _parsed(flat: str) -> Figure:
    group, *rest = flat.split("/", 2)
    if len(rest) < 2:
        return Figure(flat)
    name, subject = f"{group}/{rest[0]}", rest[1]
    if name == _SHADOW:
        subject, _, last = subject.rpartition("/")
        return Figure(f"{_SHADOW}/{last}", subject)
    if group in _SUBJECT_BEFORE_FIGURE and name not in _SUBJECT_AT_END:
        return Figure(f"{group}/{rest[1]}", rest[0])
    return Figure(name, subject)
