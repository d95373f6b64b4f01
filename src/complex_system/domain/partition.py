"""The declared split: what the parts of the labelled records go by, and so which question the error of a model answers."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import Field, root_validator, validator

from complex_system.domain.columns import LISTS, Column, Declared
from complex_system.domain.yaml_reader import Fault

BY_CONTENT, BY_KEY = "content", "key"
"""Rules of a split by key, as models are marked with them. Models with no mark were trained when there was only that by key."""
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(_SECONDS)})\s*")
_WORDS = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
_LONGEST = 500
"""Characters of a rule; a tag in MLflow takes some thousands."""
_NAMED = 3
"""Columns that a sentence names."""


class Split(Declared):
    """How labelled records are divided into what models are trained on and what they are judged by."""

    by: Literal["key", "group", "time"] = Field(
        "key",
        description="key: every record for itself; group: records with the same values in the columns of 'group' stay together; time: "
        "the newest records are the hold-out part",
    )
    group: tuple[str, ...] = Field(
        (),
        description="Raw columns whose values together name a group, such as a batch, or settings that were measured several times",
    )
    gap: float | str = Field(
        0.0,
        description="With by: time, how much time lies between the records of two parts, which is left out: seconds, or a text such "
        "as 12 h, 7 d, 2 w",
    )
    copies: Literal["together", "apart"] | None = Field(
        None,
        description="Whether records with the same features and target are copies, which belong into one part, or measurements of "
        "their own; by default copies, unless every feature is a category, a boolean or a bin",
    )

    @validator("gap")
    def _in_seconds(cls, gap: float | str) -> float:
        seconds = gap_seconds(gap)
        if seconds is None:
            raise ValueError(
                f"must be seconds from 0 on, or a number with one of {', '.join(_SECONDS)}, such as 7 d; not '{gap}'"
            )
        return seconds

    @root_validator(skip_on_failure=True)
    def _consistent(cls, values: dict[str, object]) -> dict[str, object]:
        by, group = values["by"], values["group"]
        if by == "group" and not group:
            raise ValueError("by: group needs the columns that name a group, such as group: [batch]")
        if by == "key" and group:
            raise ValueError("group needs by: group (or by: time, which then leaves no group in two parts)")
        if by != "time" and values["gap"]:
            raise ValueError("gap needs by: time")
        return values

    @property
    def seconds(self) -> float:
        """The gap in seconds."""
        return float(self.gap)

    def rule(self, *, copies_together: bool, time: str) -> str:
        """Return what the records are divided by, as models are marked with it: different for splits that differ.

        Args:
            copies_together: Whether equal records are copies.
            time: Column of the declared time; empty for the time of arrival.
        """
        if self.by == "key":
            return BY_CONTENT if copies_together else BY_KEY
        parts = [f"time: {time or 'arrival'}", f"gap: {self.seconds:g} s"] if self.by == "time" else []
        if self.group:
            parts.append(f"group: {', '.join(sorted(self.group))}")
        rule = "; ".join([*parts, *([] if copies_together else ["copies: apart"])])
        digest = hashlib.sha256(rule.encode()).hexdigest()[:12]
        return rule if len(rule) <= _LONGEST else f"{rule[:_LONGEST]} ... ({digest})"

    @property
    def question(self) -> str:
        """What the error of a model is measured for: it completes "The error is that for ..."."""
        if self.by == "time":
            return f"what comes {f'at least {duration(self.seconds)} ' if self.gap else ''}after all that was trained on"
        if self.by == "group":
            named = ", ".join(self.group[:_NAMED])
            more = len(self.group) - _NAMED
            if len(self.group) == 1:
                return f"a new {named}"
            return f"a new combination of {named}" + (f" and {more} more columns" if more > 0 else "")
        return "a new sample of what is known: records of the same batch or settings may have been trained on"

    def faults(self, columns: Mapping[str, Column], targets: Collection[str], key: str) -> list[Fault]:
        """Return why the declared groups do not fit the columns."""
        found: list[Fault] = []
        for place, name in enumerate(self.group):
            problem = ""
            if name == key:
                problem = f"the key '{name}' is different in every record, so it names no group"
            elif name in targets:
                problem = f"the target '{name}' must not name a group"
            elif name not in columns:
                problem = f"names the unknown column '{name}'; the columns are {', '.join(columns)}"
            elif columns[name].type in LISTS:
                problem = f"column '{name}' is a {columns[name].type}; a group is named by single values"
            elif name in self.group[:place]:
                problem = f"names the column '{name}' twice"
            if problem:
                found.append((("split", "group", place), problem))
        return found


def gap_seconds(text: float | str) -> float | None:
    """Return a duration in seconds: ``7 d``, ``1.5 h``, ``90``; None for what is none."""
    if found := _DURATION.fullmatch(str(text)):
        return float(found[1]) * _SECONDS[found[2]]
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def duration(seconds: float) -> str:
    """Return seconds in the largest unit that they are whole of."""
    word, unit = next(each for each in _WORDS if seconds % each[1] == 0 or each[1] == 1)
    return f"{seconds / unit:g} {word}{'' if seconds == unit else 's'}"
