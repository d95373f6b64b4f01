"""What is wrong with a declaration: faults of its parts, contradictions between them, and the message that names them all."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.error_wrappers import ErrorWrapper

from complex_system.domain.columns import ID, NUMERIC, Column, Declared
from complex_system.domain.datetimes import TimeFormat
from complex_system.domain.intervals import intervals
from complex_system.domain.steps import Arithmetic, Bins, DateParts, Drop, Impute, Interval, Shares, Step
from complex_system.domain.yaml_reader import Fault, Place, YamlFile

MAX_FAULTS = 30
"""Faults of a declaration that one message names."""
_SLACK = 1e-9
"""By which part of its width a computed range may go beyond bins: its ends are rounded, and people write rounded edges."""


class FaultsError(ValueError):
    """Faults with their places."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(problem for _, problem in faults))
        self.faults = list(faults)


def choose_target(content: dict[str, Any], chosen: str) -> list[Fault]:
    """Leave one target in ``content`` and put the others beside it; return why that cannot be done."""
    declared = content.get("target")
    if not declared or not isinstance(declared, list | str):
        return []  # the check of the keys names it
    targets = [str(each) for each in declared] if isinstance(declared, list) else [declared]
    content["target"] = chosen if chosen in targets else targets[0]
    content["other_targets"] = [each for each in targets if each != content["target"]]
    if chosen and chosen not in targets:
        return [
            (
                ("target",),
                f"'{chosen}' was chosen as the target and is not declared as one; declared are {', '.join(targets)}",
            )
        ]
    if not chosen and len(targets) > 1:
        problem = (
            f"there are {len(targets)} targets ({', '.join(targets)}), and a model is trained for one: choose it (--target "
            f"{targets[0]} on the command line, COMPLEX_SYSTEM_TARGET={targets[0]} in the deployment's .env) or declare only one"
        )
        return [(("target",), problem)]
    return []


def doubles(names: Sequence[object]) -> list[Fault]:
    """Return a fault for each column whose name an earlier one has."""
    return [
        (("columns", place, "name"), f"column '{name}' is declared more than once")
        for place, name in enumerate(names)
        if name is not None and name in names[:place]
    ]


# Contradictions between the parts


def contradictions(
    columns: Mapping[str, Column],
    targets: Collection[str],
    steps: Mapping[int, Step],
    *,
    key: str = "",
    broken: Collection[str] = (),
    complete: bool = True,
) -> list[Fault]:
    """Return all contradictions between columns, targets and steps, with their places.

    Args:
        columns: The columns by name.
        targets: Names of the targets.
        steps: The steps by position in the file.
        key: Name of the key, which may be declared and dropped like a column, and which no other step takes.
        broken: Names of columns that have faults of their own and are not looked at again.
        complete: Whether no step is left out because of faults of its own; a result of such a step is not unknown.
    """
    numeric = ", ".join(f"'{name}'" for name, column in columns.items() if column.type == "number") or "none"
    found: list[Fault] = [
        (("target",), f"the target '{target}' must be one of the columns, of type number; such columns are {numeric}")
        for target in targets
        if target not in broken and (target not in columns or columns[target].type != "number")
    ]
    if key and key in targets:
        found.append((("id",), f"the key '{key}' must not be the target"))
    known, _, of_steps = intervals(steps.values(), columns)
    check = _StepCheck(columns, targets, steps.values(), known, broken, key=key, complete=complete)
    positions = list(steps)
    found += [(("pipeline", positions[place]), problem) for place, problem in of_steps]
    found += [
        (("target",), f"the target '{name}' cannot be clipped: models are judged by its values; declare 'outside: warn'")
        for name in targets
        if name in columns and columns[name].outside == "clip"
    ]
    found += [(("pipeline", position), problem) for position, step in steps.items() for problem in check.problems(step)]
    return found or ([] if broken or not complete else _faults_of_features(columns, targets, steps))


_LAWS = {
    "laboratory": (
        "material_id",
        "datum",
        "laborant",
        *(f"rohwert_{i}_labormessung" for i in (1, 2, 3)),
        "aufbereiteter_wert",
    )
}


def faults_of_law(law: str | None, names: Collection[str]) -> list[Fault]:
    """Return a fault where a data set is declared to follow a known function whose columns it does not have."""
    if law not in _LAWS or set(_LAWS[law]) <= {*names}:
        return []
    lab = ", ".join(_LAWS[law])
    return [(("law",), f"is for the demonstration, whose columns are {lab}; leave it out for data of your own")]


class _StepCheck:
    """Checks the steps one after another."""

    def __init__(
        self, columns: Mapping[str, Column], targets: Collection[str], steps: Iterable[Step],
        known: Mapping[str, Interval], broken: Collection[str], *, key: str, complete: bool,
    ) -> None:  # fmt: skip
        self._key = key
        self._columns, self._targets, self._known, self._broken = columns, targets, known, broken
        self._complete = complete
        self._dropped = {name for step in steps if isinstance(step, Drop) for name in step.columns}
        self._results: set[str] = set()

    def problems(self, step: Step) -> Iterator[str]:
        """Yield the problems of the next step."""
        if isinstance(step, Drop):
            for name in step.columns:
                if name in self._targets:
                    yield f"pipeline step drop must not name the target '{name}'"
                elif name not in self._columns and name not in self._broken and name != self._key:
                    yield f"pipeline step drop names the unknown column '{name}'"
            return
        for position, name in enumerate(step.inputs):
            if name not in self._broken:
                yield from self._of_input(step, position, name)
        if isinstance(step, Bins) and step.column in self._known and step.column not in {*self._dropped, *self._broken}:
            low, high = self._known[step.column]
            slack = 0.0 if step.column in self._columns else _SLACK * (high - low)
            if not (step.edges[0] <= low + slack and high - slack <= step.edges[-1]):
                yield f"the bins of '{step.column}' must cover its range {[low, high]}"
        if isinstance(step, Arithmetic) and step.as_:
            if step.as_ in self._results or (step.as_ in self._columns and step.as_ not in step.inputs):
                yield f"the result '{step.as_}' needs a name that no column and no other result has"
            self._results.add(step.as_)

    def _of_input(self, step: Step, position: int, name: str) -> Iterator[str]:
        column = self._columns.get(name)
        types = ("list of shares",) if isinstance(step, Shares) and position else step.takes
        if name == self._key and column is not None:
            yield f"pipeline step {step.step} must not use the key '{name}'"
        elif name in self._dropped:
            yield f"pipeline step {step.step} takes '{name}', which another step drops"
        elif column is None and name in self._results:
            if step.takes is not NUMERIC:
                yield f"pipeline step {step.step} takes a column, not the result '{name}'"
        elif column is None:
            if self._complete:
                known = ", ".join(self._columns)
                yield f"pipeline step {step.step} names the unknown column '{name}'; the columns are {known}"
        elif name in self._targets:
            yield f"pipeline step {step.step} must not use the target '{name}'"
        elif column.type not in types:
            yield f"pipeline step {step.step} does not fit '{name}' of type {column.type}; it takes {' or '.join(types)}"
        else:
            yield from _problems_of_column(step, column)


def _problems_of_column(step: Step, column: Column) -> Iterator[str]:
    name, limits = column.name, column.limits
    if column.is_numeric and limits is None:
        yield f"column '{name}' needs a range for step {step.step}"
    if isinstance(step, Impute):
        if limits and not limits[0] <= step.value <= limits[1]:
            yield f"the value {step.value:g} for '{name}' is outside of its range {list(limits)}"
        if column.fill is not None:
            yield f"column '{name}' already has a fill; keep one of the two"
    elif (column.is_numeric or isinstance(step, DateParts)) and column.optional and column.fill is None:
        yield f"column '{name}' is optional and needs a fill for step {step.step}"
    if isinstance(step, DateParts):
        try:
            time_format = TimeFormat(column.format)
        except ValueError as error:
            yield f"column '{name}': {error}"
            return
        if column.fill is not None and time_format.parts(str(column.fill)) is None:
            yield f"column '{name}' declares the fill '{column.fill}', which is not a time of the format '{column.format}'"


def _faults_of_features(columns: Mapping[str, Column], targets: Collection[str], steps: Mapping[int, Step]) -> list[Fault]:
    made = [(position, name) for position, step in steps.items() for name in step.feature_names(columns)]
    if not made:
        return [(("pipeline",), "the pipeline makes no features; add a step for a column")]
    names = Counter(name for _, name in made)
    found: list[Fault] = []
    for position, name in made:
        if name in targets or name == ID:
            found.append(
                (("pipeline", position), f"the feature '{name}' must not have the name of the target or of the key")
            )
        elif "\0" in name:
            found.append((("pipeline", position), f"the feature {name!r} has a zero character, which tables cannot store"))
        elif names[name] > 1:
            found.append(
                (
                    ("pipeline", position),
                    f"the feature '{name}' is made twice; give one of the steps another 'prefix' or 'as'",
                )
            )
    return found


# Faults of one part


def faults_of(raw: ValidationError, allowed: Sequence[str], at: Place = ()) -> list[Fault]:
    """Return the faults of one part that pydantic found, with messages that say what is allowed.

    Args:
        raw: What pydantic raised.
        allowed: The keys that the part may have.
        at: Place of the part.
    """
    made: list[Fault] = []
    for error in raw.errors():
        place = tuple("as" if part == "as_" else part for part in error["loc"] if part != "__root__")
        made.append(((*at, *place), _problem(error["type"], error.get("ctx", {}), place, allowed) or error["msg"]))
    return made


def parsed(kind: type[Declared], content: Any, at: Place, found: list[Fault]) -> Any:
    """Return a part of a declaration; None where it has faults, which are added to ``found``."""
    keys = [field.alias for field in kind.__fields__.values()]
    if not isinstance(content, dict):
        found.append((at, f"must have keys: {', '.join(keys)}"))
        return None
    try:
        return kind.parse_obj(content)
    except ValidationError as error:
        raised = [raw.exc for raw in error.raw_errors if isinstance(raw, ErrorWrapper) and isinstance(raw.exc, FaultsError)]
        placed = [((*at, *place), problem) for each in raised for place, problem in each.faults]
        found += placed or faults_of(error, keys, at)
        return None


def suggestion(given: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return `` (did you mean 'x'?)`` for what is nearly a known name, else an empty text."""
    near = difflib.get_close_matches(str(given), list(known), 1, cutoff)
    return f" (did you mean '{near[0]}'?)" if near else ""


_PROBLEMS = {
    "type_error.float": "must be a number",
    "type_error.integer": "must be a whole number",
    "type_error.str": "must be a text: put it in quotes",
    "value_error.strictbool": "must be true or false",
    "value_error.bool": "must be true or false",
    "type_error.bool": "must be true or false",
    "type_error.tuple": "must be a list: [first, second, ...]",
    "type_error.list": "must be a list: [first, second, ...]",
    "type_error.dict": "must have keys, such as 'name: ...'",
    "value_error.missing": "is required and missing",
    "value_error.any_str.min_length": "must not be empty",
    "value_error.list.min_items": "has too few entries",
    "value_error.missing_discriminator": "is required and missing",
    "value_error.str.regex": "must consist of small letters, digits and _, and start with a letter",
}


def _problem(kind: str, context: Mapping[str, Any], place: Place, allowed: Sequence[str]) -> str:
    match kind:
        case "value_error.extra":
            return f"is not a known key{suggestion(place[-1], allowed, 0.75)}; allowed are {', '.join(allowed)}"
        case "value_error.const":
            permitted = [str(each) for each in context["permitted"]]
            given = context["given"]
            return f"must be one of {', '.join(permitted)}, not '{given}'{suggestion(given, permitted)}"
        case "value_error.tuple.length":
            problem = f"needs {context['expected_length']} entries, not {context['actual_length']}"
            if context["expected_length"] == 2 and place[-1] in ("range", "to"):
                problem += ": write [smallest, largest], decimals with a point, such as [0.5, 20]"
            return problem
        case "value_error.number.not_gt":
            return f"must be larger than {context['limit_value']}"
    return _PROBLEMS.get(kind, "")


# The message


def faults_message(faults: Iterable[Fault], file: YamlFile) -> str:
    """Return all faults as one message, a line each, in the order of the file."""
    found = sorted({(file.line(place), _where(place, file.content), problem) for place, problem in faults})
    lines = [
        f"line {line}{where and f', {where}'}: {_shortened(problem, where)}." for line, where, problem in found[:MAX_FAULTS]
    ]
    if len(found) > MAX_FAULTS:
        lines.append(f"and {len(found) - MAX_FAULTS} more.")
    return (
        f"{file.source}, {lines[0]}"
        if len(lines) == 1
        else f"{file.source} has {len(found)} faults:\n  " + "\n  ".join(lines)
    )


def _shortened(problem: str, where: str) -> str:
    """Return the problem without its first words where these only repeat the place."""
    step = re.fullmatch(r"pipeline step \d+ \((.+)\)", where)
    return problem.removeprefix(f"pipeline step {step[1]} " if step else f"{where} ")


def _where(place: Place, content: Any) -> str:
    """Return a place as text: ``column 'heat', range``."""
    words: list[str] = []
    part, position = (*place, "", "")[:2]
    if part in ("columns", "pipeline") and isinstance(position, int):
        place = place[2:]
        item = content[part][position]
        name = item.get("name" if part == "columns" else "step") if isinstance(item, dict) else None
        if part == "columns":
            words.append(f"column '{name}'" if name else f"column {position + 1}")
        else:
            words.append(f"pipeline step {position + 1}" + (f" ({name})" if name else ""))
    return ", ".join([*words, *(f"entry {part + 1}" if isinstance(part, int) else part for part in place)])
