"""What is wrong with a declared collection: of its parts, each with its place, and beside the columns of the data set."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pydantic import ValidationError

from complex_system.domain.collecting import CollectedColumn, Collecting, LabelRule, RecordRule
from complex_system.domain.columns import LISTS, Column
from complex_system.domain.validation import faults_of, parsed, suggestion
from complex_system.domain.yaml_reader import Fault

_CHOOSES = ("last", "first", "min", "max")
"""Aggregates whose result is one of the values, so the column may be other than a number."""


def parse_collecting(content: object, found: list[Fault]) -> Collecting | None:
    """Return the part ``collect`` of a declaration; None where it has faults, which are added to ``found`` with their places."""
    if not isinstance(content, dict):
        return parsed(Collecting, content, ("collect",), found)  # type: ignore[no-any-return]
    before = len(found)
    made = dict(content)
    columns = content.get("columns")
    if isinstance(columns, dict):
        made["columns"] = {
            name: parsed(CollectedColumn, each, ("collect", "columns", str(name)), found) for name, each in columns.items()
        }
    for key, kind in (("record", RecordRule), ("label", LabelRule)):
        if content.get(key) is not None:
            made[key] = parsed(kind, content[key], ("collect", key), found)
    if len(found) > before:
        left = {
            name: each for name, each in made.items() if name not in ("columns", "record", "label") or name not in content
        }
        keys = tuple(Collecting.__fields__)
        try:
            Collecting.parse_obj({**left, "columns": {}, "record": {"on": "measurement_id"}})
        except ValidationError as error:
            found += faults_of(error, keys, ("collect",))
        return None
    return parsed(Collecting, made, ("collect",), found)  # type: ignore[no-any-return]


def faults_of_collecting(
    collecting: Collecting | None, columns: Mapping[str, Column], targets: Collection[str], *, key: str, time: str,
    broken: Collection[str] = (),
) -> list[Fault]:  # fmt: skip
    """Return what is wrong with a declared collection beside the columns of the data set, with places.

    Args:
        collecting: The declaration.
        columns: The columns of the data set by name.
        targets: Names of the targets.
        key: Name of the key's column, if it has one.
        time: Column of the declared time, which is filled with the time of the record where it is not collected.
        broken: Names of columns that have faults of their own.
    """
    if collecting is None:
        return []
    found: list[Fault] = []
    made = {name for name in collecting.columns if name in columns}
    for name, each in collecting.columns.items():
        at = ("collect", "columns", name)
        if name in columns:
            found += [(at, problem) for problem in _problems_of_column(each, columns[name], columns)]
        elif name not in broken:
            near = suggestion(name, columns)
            found.append((at, f"'{name}' is not a column of the data set{near}; declare it in 'columns', optional: true"))
    for name, column in columns.items():
        if not (name in made or column.optional or name in (key, time) or name in targets):
            found.append((("collect", "columns"), f"column '{name}' is not optional, and nothing collects it"))
    found += _different_units(collecting, columns)
    label = collecting.label
    if label and label.column not in targets and label.column not in broken:
        found.append((("collect", "label", "column"), f"'{label.column}' is not the target; it is {' or '.join(targets)}"))
    return found


def _different_units(collecting: Collecting, columns: Mapping[str, Column]) -> Iterator[Fault]:
    units: dict[tuple[str, str], tuple[str, str]] = {}
    for name, each in collecting.columns.items():
        unit = each.reading_unit(columns[name]) if each.name and name in columns else ""
        other, before = units.setdefault((each.machine, each.name), (name, unit)) if unit else (name, unit)
        if unit != before:
            problem = f"takes the readings in '{unit}', and column '{other}' in '{before}'; declare one unit for a sensor"
            yield ("collect", "columns", name), problem


def _problems_of_column(collected: CollectedColumn, column: Column, columns: Mapping[str, Column]) -> Iterator[str]:
    if column.type in LISTS:
        yield f"is a {column.type}, which readings cannot make"
    elif collected.take == "machine":
        if column.type not in ("category", "text"):
            yield f"take: machine makes a text, and the column is a {column.type}; declare it a category of all machines"
    elif collected.take not in _CHOOSES and column.type not in ("number", "integer"):
        yield f"take: {collected.take} makes a number, and the column is a {column.type}"
    elif collected.take not in (*_CHOOSES, "count") and column.type == "integer":
        yield f"take: {collected.take} makes fractions, and the column is an integer; declare it a number"
    elif collected.take in ("min", "max") and column.type not in ("number", "integer", "boolean"):
        yield f"take: {collected.take} compares numbers, and the column is a {column.type}"
    if collected.take != "count" and not column.optional:
        yield "must be optional: a sensor may be silent, and then the value is missing; declare optional: true and a fill"
    if (
        collected.unit
        and column.unit
        and collected.unit != column.unit
        and collected.take not in ("slope", "count", "share")
    ):
        yield f"the unit is '{collected.unit}' here and '{column.unit}' in the column; keep one of the two"
    source = columns.get(collected.column)
    if (
        source is not None
        and source.type not in ("number", "integer", "boolean")
        and collected.take not in ("last", "first", "count")
    ):
        yield f"take: {collected.take} needs numbers, and column '{collected.column}' is a {source.type}"
    elif source is not None and collected.take in ("last", "first") and source.type != column.type:
        yield f"takes values of column '{collected.column}', which is a {source.type}, and is a {column.type}"
