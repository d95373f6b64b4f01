"""Names of things, as FastIoT's subjects have them, and the patterns that declarations name them by."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from complex_system.domain.partition import gap_seconds

_THING = re.compile(r"""thing\s+("|'|)([^"'\s]+)\1""")
_SUBJECT = re.compile(r"""subject\s+("|'|)([^"'\s]+)\1""")
_EVERY = re.compile(r"every\s+(.+)")
_PATTERN = re.compile(r"[^\s.*>]+|\*")


class Trigger(NamedTuple):
    """What makes a record.

    Attributes:
        by: ``measurement_id``, ``every`` or ``thing``.
        seconds: Length of a period, with ``every``.
        thing: Pattern of the things that make a record each, with ``thing``.
    """

    by: Literal["measurement_id", "every", "thing"]
    seconds: float = 0.0
    thing: str = ""


def covers(pattern: str, other: str) -> bool:
    """Return whether a pattern names everything that another one, or a name, does."""
    mine, its = pattern.split("."), other.split(".")
    for place, part in enumerate(mine):
        if part == ">":
            return len(its) > place
        if place >= len(its) or its[place] == ">" or (part not in ("*", its[place])):
            return False
    return len(mine) == len(its)


def overlap(pattern: str, other: str) -> bool:
    """Return whether a thing exists that both patterns name."""
    mine, its = pattern.split("."), other.split(".")
    for one, two in zip(mine, its, strict=False):
        if ">" in (one, two):
            return True
        if one != two and "*" not in (one, two):
            return False
    return len(mine) == len(its)


def thing_name(machine: str, name: str) -> str:
    """Return what a pattern names a sensor by: the end of FastIoT's subject, which has no blanks."""
    return f"{machine}.{name}".replace(" ", "")


def is_pattern(text: str) -> bool:
    """Return whether a text names things: two parts or more, each a name, ``*``, or ``>`` at the end."""
    parts = text.split(".")
    last = parts.pop() if len(parts) > 1 and parts[-1] == ">" else ""
    return bool(parts) and (bool(last) or len(parts) > 1) and all(_PATTERN.fullmatch(part) for part in parts)


def trigger_of(on: str) -> Trigger:
    """Return what makes a record.

    Raises:
        ValueError: It is none of the three.
    """
    text = on.strip()
    if text == "measurement_id":
        return Trigger("measurement_id")
    if (found := _EVERY.fullmatch(text)) and (seconds := gap_seconds(found[1])):
        return Trigger("every", seconds=seconds)
    if (found := _THING.fullmatch(text)) and is_pattern(found[2]):
        return Trigger("thing", thing=found[2])
    raise ValueError(f"must be measurement_id, every 10s (any duration), or thing \"machine.name\", not '{on}'")


def source_of(text: str) -> tuple[Literal["thing", "subject"], str]:
    """Return where labels come from: ``thing`` or ``subject``, and its pattern.

    Raises:
        ValueError: It is neither.
    """
    text = text.strip()
    if (found := _THING.fullmatch(text)) and is_pattern(found[2]):
        return "thing", found[2]
    if (found := _SUBJECT.fullmatch(text)) and all(_PATTERN.fullmatch(part) or part == ">" for part in found[2].split(".")):
        return "subject", found[2]
    raise ValueError(f'must be thing "machine.name" or subject "a.subject", not \'{text}\'')
