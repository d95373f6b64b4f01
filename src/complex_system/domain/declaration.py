"""A declaration as text: where each key stands, and faults in words that say where and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from complex_system.domain.yaml_reader import Fault, Place, YamlFile

MOST_FAULTS = 30
_STEP = re.compile(r"pipeline step \d+ \((.+)\)")


class FaultsError(ValueError):
    """Faults with their places."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(problem for _, problem in faults))
        self.faults = list(faults)


def sentence(faults: Iterable[Fault], file: YamlFile) -> str:
    """All faults, a line each, in the order of the file."""
    lines = sorted({(file.line(place), _where(place, file.content), problem) for place, problem in faults})
    said = [
        f"line {line}{f', {where}' if where else ''}: {_once(where, problem)}"
        for line, where, problem in lines[:MOST_FAULTS]
    ]
    if len(lines) > MOST_FAULTS:
        said.append(f"and {len(lines) - MOST_FAULTS} more")
    if len(said) == 1:
        return f"{file.source}, {_ended(said[0])}"
    return f"{file.source} has {len(lines)} faults:\n  " + "\n  ".join(map(_ended, said))


def _once(where: str, problem: str) -> str:
    """The problem without its first words, where they say again what ``where`` says."""
    step = _STEP.fullmatch(where)
    return problem.removeprefix(f"pipeline step {step[1]} " if step else f"{where} ")


def _ended(text: str) -> str:
    return text if text.endswith(("?", ".")) else f"{text}."


def _where(place: Place, content: Any) -> str:
    """A place in words: ``column 'heat', range``."""
    words: list[str] = []
    rest = place
    if len(place) > 1 and isinstance(place[1], int) and isinstance(content, dict):
        items = content.get(str(place[0]))
        item = items[place[1]] if isinstance(items, list) and place[1] < len(items) else None
        name = item.get("name" if place[0] == "columns" else "step") if isinstance(item, dict) else None
        if place[0] == "columns":
            words.append(f"column '{name}'" if name else f"column {place[1] + 1}")
            rest = place[2:]
        elif place[0] == "pipeline":
            words.append(f"pipeline step {place[1] + 1}" + (f" ({name})" if name else ""))
            rest = place[2:]
    words += [f"entry {part + 1}" if isinstance(part, int) else str(part) for part in rest]
    return ", ".join(words)


_WORDS = {
    "type_error.float": "must be a number",
    "type_error.integer": "must be a whole number",
    "type_error.str": "must be a text: put it in quotes",
    "value_error.strictbool": "must be true or false",
    "value_error.bool": "must be true or false",
    "type_error.bool": "must be true or false",
    "type_error.tuple": "must be a list: [first, second, ...]",
    "type_error.list": "must be a list: [first, second, ...]",
    "type_error.dict": "must have keys, such as 'name: ...'",
    "value_error.missing": "is needed and missing",
    "value_error.any_str.min_length": "must not be empty",
    "value_error.list.min_items": "has too few entries",
    "value_error.missing_discriminator": "is needed and missing",
}


def faults_of(raw: Any, allowed: Sequence[str], at: Place = ()) -> list[Fault]:
    """The faults of one part that pydantic found, in our words.

    Args:
        raw: The ``ValidationError``.
        allowed: The keys that the part may have.
        at: Place of the part.
    """
    made: list[Fault] = []
    for error in raw.errors():
        place: Place = tuple(part for part in error["loc"] if part != "__root__")
        place = tuple("as" if part == "as_" else part for part in place)
        kind, context = error["type"], error.get("ctx", {})
        problem = _WORDS.get(kind, error["msg"])
        if kind == "value_error.extra":
            near = difflib.get_close_matches(str(place[-1]), allowed, 1, 0.75)
            problem = "is not a key that is known here" + (f"; do you mean '{near[0]}'?" if near else "")
            problem += f" Allowed are {', '.join(allowed)}" if near else f"; allowed are {', '.join(allowed)}"
        elif kind == "value_error.const":
            permitted = [str(each) for each in context["permitted"]]
            near = difflib.get_close_matches(str(context["given"]), permitted, 1)
            problem = f"must be one of {', '.join(permitted)}, not '{context['given']}'"
            problem += f"; do you mean '{near[0]}'?" if near else ""
        elif kind == "value_error.tuple.length":
            problem = f"needs {context['expected_length']} entries, not {context['actual_length']}"
            if context["expected_length"] == 2 and place[-1] in ("range", "to"):
                problem += ": write [smallest, largest], decimals with a point, such as [0.5, 20]"
        elif kind == "value_error.number.not_gt":
            problem = f"must be larger than {context['limit_value']}"
        elif kind == "value_error.str.regex":
            problem = "must be of small letters, digits and _, and begin with a letter"
        made.append(((*at, *place), problem))
    return made
