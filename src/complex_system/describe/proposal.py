"""A first pipeline for what was found: one step a column, and what is left out with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from complex_system.describe.columns import Found
from complex_system.domain.columns import ID

Step = dict[str, Any]


@dataclass
class Proposal:
    """Steps in the order of the columns, and why some columns have none.

    Attributes:
        steps: As a declaration has them, and a comment for each.
        dropped: Columns that are left out, with the reason.
        used: Columns that have a step.
    """

    steps: list[tuple[Step, str]] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


def propose(columns: list[Found], target: str, leaking: Mapping[str, str]) -> Proposal:
    """Proposes a pipeline.

    What is suspicious is left out as long as something else is there.
    """
    made = Proposal()
    taken = {ID, target}
    second_best: list[Found] = []
    usable = [column for column in columns if column.name != target]
    shares = [column for column in usable if column.type == "list of shares" and column.different > 0]
    for column in usable:
        if column.type == "list of shares":
            continue
        reason = "; ".join(column.notes) or (f"{leaking[column.name]}: it may leak it" if column.name in leaking else "")
        if column.type == "text":
            made.dropped[column.name] = reason or "text"
        elif reason or column.type == "datetime":
            made.dropped[column.name] = reason or "a time; its parts can be features by the step below that is commented out"
            if column.different > 0 and not column.notes:
                second_best.append(column)
        elif partner := next((each for each in shares if _belong(column, each)), None):
            _with_shares(made, column, partner, taken)
            shares.remove(partner)
        else:
            _use(made, column, taken)
    for column in shares:
        made.dropped[column.name] = "; ".join(column.notes) or "shares without a list of what they are of"
    for column in usable:
        if column.type == "list of shares" and column.name not in made.used:
            made.dropped.setdefault(column.name, "always missing")
    if not made.steps:
        for column in second_best:
            _use(made, column, taken)
            del made.dropped[column.name]
    return made


def _belong(column: Found, shares: Found) -> bool:
    """Whether each record has as many shares as entries, and they add up to 1."""
    if column.type != "list of categories":
        return False
    for entries, parts in zip(column.lists, shares.lists, strict=True):
        if parts is None:
            if len(entries or ()) > 1:
                return False
        elif len(parts) != len(entries or ()) or not all(0 <= part <= 1 for part in parts) or abs(sum(parts) - 1) > 5e-7:
            return False
    return True


def _with_shares(made: Proposal, column: Found, shares: Found, taken: set[str]) -> None:
    step: Step = {"step": "shares", "column": column.name, "shares": shares.name}
    _prefix(step, column.name, column.categories, taken)
    made.steps.append((step, "one feature an entry: its share"))
    made.used |= {column.name, shares.name}


def _use(made: Proposal, column: Found, taken: set[str]) -> None:
    step, why = _step(column, taken)
    made.steps.append((step, why))
    made.used.add(column.name)


def _step(column: Found, taken: set[str]) -> tuple[Step, str]:
    step: Step = {"step": "", "column": column.name}
    match column.type:
        case "category":
            step["step"] = "one_hot"
            _prefix(step, column.name, column.categories, taken)
        case "list of categories":
            step["step"] = "multi_hot"
            _prefix(step, column.name, column.categories, taken)
        case "datetime":
            step |= {"step": "date_parts", "parts": date_parts(column)}
            _prefix(step, column.name, tuple(step["parts"]), taken)
        case kind:
            step["step"] = "keep" if kind == "boolean" else "scale"
            if column.name in taken:
                step["as"] = next(name for name in _others(column.name) if name not in taken)
            taken.add(step.get("as", column.name))
    return step, ""


def date_parts(column: Found) -> list[str]:
    """The parts of a time that come again, and so can say something about the future."""
    return ["month", "weekday", *(["hour"] if "%H" in column.format else [])]


def _prefix(step: Step, name: str, endings: tuple[str, ...], taken: set[str]) -> None:
    for prefix in chain((name,), _others(name)):
        names = {f"{prefix}_{ending}" for ending in endings}
        if not names & taken:
            break
    if prefix != name:
        step["prefix"] = prefix
    taken |= names


def _others(name: str) -> Iterator[str]:
    number = 2
    while True:
        yield f"{name} {number}"
        number += 1
