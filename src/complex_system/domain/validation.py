"""What the parts of a declaration must be to each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from complex_system.domain.columns import ID, NUMERIC, Column
from complex_system.domain.datetimes import TimeFormat
from complex_system.domain.steps import Arithmetic, Bins, DateParts, Drop, Impute, Interval, Shares, Step
from complex_system.domain.yaml_reader import Fault

_SLACK = 1e-9
"""By which part of its width a computed range may go beyond bins: its ends are rounded, and people write rounded edges."""
_LARGEST = 3.4e38  # models take float32


def faults(
    columns: Mapping[str, Column],
    targets: Collection[str],
    pipeline: tuple[Step, ...],
    *,
    broken: Collection[str] = (),
    places: tuple[int, ...] | None = None,
    all_steps: bool = True,
) -> list[Fault]:
    """All contradictions between columns, targets and steps, with their places.

    Args:
        columns: The columns by name.
        targets: Names of the targets.
        pipeline: The steps.
        broken: Names of columns with faults of their own, of which nothing more is said.
        places: Positions of the steps in the file, where some of them have faults of their own.
        all_steps: Whether no step has faults of its own.
    """
    found: list[Fault] = []
    for target in targets:
        if target not in broken and (target not in columns or columns[target].type != "number"):
            numeric = ", ".join(f"'{name}'" for name, column in columns.items() if column.type == "number") or "none"
            found.append(
                (
                    ("target",),
                    f"the target '{target}' must be one of the columns, of type number; such columns are {numeric}",
                )
            )
    positions = places if places is not None else tuple(range(len(pipeline)))
    known, of_steps = intervals(pipeline, columns)
    by_step: list[tuple[int, str]] = list(of_steps)
    results: set[str] = set()
    dropped = {name for step in pipeline if isinstance(step, Drop) for name in step.columns}
    for place, step in enumerate(pipeline):
        by_step += ((place, problem) for problem in _of_step(step, columns, targets, known, results, {*broken, *dropped}))
        by_step += ((place, problem) for problem in _of_dropped(step, columns, targets, dropped, broken))
        if isinstance(step, Arithmetic) and step.as_:
            if step.as_ in results or (step.as_ in columns and step.as_ not in step.inputs):
                by_step.append((place, f"the result '{step.as_}' needs a name that no column and no other result has"))
            results.add(step.as_)
    found += ((("pipeline", positions[place]), problem) for place, problem in by_step)
    if not found and not broken and all_steps:
        found += _of_features(columns, targets, pipeline)
    return found


def _of_dropped(
    step: Step, columns: Mapping[str, Column], targets: Collection[str], dropped: set[str], broken: Collection[str]
) -> Iterator[str]:
    if isinstance(step, Drop):
        for name in step.columns:
            if name in targets:
                yield f"pipeline step drop must not name the target '{name}'"
            elif name not in columns and name not in broken:
                yield f"pipeline step drop names the unknown column '{name}'"
        return
    for name in step.inputs:
        if name in dropped:
            yield f"pipeline step {step.step} takes '{name}', which another step drops"


def _of_step(
    step: Step,
    columns: Mapping[str, Column],
    targets: Collection[str],
    known: Mapping[str, Interval],
    results: set[str],
    silent: set[str],
) -> Iterator[str]:
    for position, name in enumerate(step.inputs):
        if name in silent or (name in results and name not in columns):
            if step.takes is not NUMERIC and name in results:
                yield f"pipeline step {step.step} takes a column, not the result '{name}'"
            continue
        column = columns.get(name)
        if column is None:
            known_names = ", ".join(columns)
            yield f"pipeline step {step.step} names the unknown column '{name}'; there are {known_names}"
            continue
        if name in targets:
            yield f"pipeline step {step.step} must not use the target '{name}'"
            continue
        types = ("list of shares",) if isinstance(step, Shares) and position else step.takes
        if column.type not in types:
            yield f"pipeline step {step.step} does not fit '{name}' of type {column.type}; it takes {' or '.join(types)}"
        else:
            yield from _of_column(step, column)
    if isinstance(step, Bins) and step.column in known and step.column not in silent:
        low, high = known[step.column]
        slack = 0.0 if step.column in columns else _SLACK * (high - low)
        if not (step.edges[0] <= low + slack and high - slack <= step.edges[-1]):
            yield f"the bins of '{step.column}' must cover its range {[low, high]}"


def _of_column(step: Step, column: Column) -> Iterator[str]:
    if column.is_numeric and column.limits is None:
        yield f"column '{column.name}' needs a range for step {step.step}"
    if isinstance(step, Impute) and column.limits and not column.limits[0] <= step.value <= column.limits[1]:
        yield f"the value {step.value:g} for '{column.name}' is outside of its range {list(column.limits)}"
    if isinstance(step, Impute) and column.fill is not None:
        yield f"column '{column.name}' has a fill already; keep one of the two"
    needs_fill = (column.is_numeric and not isinstance(step, Impute)) or isinstance(step, DateParts)
    if needs_fill and column.optional and column.fill is None:
        yield f"column '{column.name}' is optional and needs a fill for step {step.step}"
    if isinstance(step, DateParts):
        try:
            form = TimeFormat(column.format)
        except ValueError as error:
            yield f"column '{column.name}': {error}"
            return
        if column.fill is not None and form.parts(str(column.fill)) is None:
            yield f"column '{column.name}' declares the fill '{column.fill}', which is no time of the format '{column.format}'"


def _of_features(columns: Mapping[str, Column], targets: Collection[str], pipeline: tuple[Step, ...]) -> list[Fault]:
    made = [(place, name) for place, step in enumerate(pipeline) for name in step.feature_names(columns)]
    if not made:
        return [(("pipeline",), "the pipeline must make features of different names, not nothing; add a step for a column")]
    names = [name for _, name in made]
    found: list[Fault] = []
    for place, name in made:
        if name in targets or name == ID:
            found.append((("pipeline", place), f"the feature '{name}' must not be called as the target or the key is"))
        elif "\0" in name:
            found.append((("pipeline", place), f"the feature {name!r} has a zero character, which no table takes"))
        elif names.count(name) > 1:
            found.append((("pipeline", place), f"the pipeline must make features of different names, not twice ['{name}']"))
    return found


def intervals(
    pipeline: tuple[Step, ...], columns: Mapping[str, Column]
) -> tuple[dict[str, Interval], list[tuple[int, str]]]:
    """Return the smallest and largest value of every number that steps take or make, by name, and faults by position of the step.

    A number is known by its column's range, a result by interval arithmetic.
    """
    known = {name: column.limits for name, column in columns.items() if column.limits}
    results: dict[str, Interval] = {}
    faults: list[tuple[int, str]] = []
    for place, step in enumerate(pipeline):
        if not isinstance(step, Arithmetic):
            continue
        found = [known.get(name) or results.get(name) for name in step.inputs]
        if any(each is None for each in found):
            continue  # said elsewhere
        try:
            low, high = step.interval([each for each in found if each is not None])
        except (ValueError, OverflowError) as error:
            faults.append((place, str(error)))
            continue
        if not -_LARGEST < low <= high < _LARGEST:
            faults.append((place, f"the step {step.step} makes numbers beyond what models take ({low:g} to {high:g})"))
        elif step.as_ and step.as_ not in columns:
            results[step.as_] = (low, high)
    return {**known, **results}, faults
