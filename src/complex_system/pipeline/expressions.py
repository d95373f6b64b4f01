"""The declared steps as polars expressions over raw columns, float64. ``arithmetic`` says which operations may be used."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import polars as pl

from complex_system.domain.columns import Column
from complex_system.domain.dataset import Dataset
from complex_system.domain.datetimes import DAYS_BEFORE, FIRST_OF_1900, TimeFormat
from complex_system.domain.intervals import Intervals
from complex_system.domain.steps import Arithmetic, Bins, DateParts, Drop, Impute, MultiHot, OneHot, Shares, Step
from complex_system.pipeline.arithmetic import clip_column, for_columns

FrameType = pl.DataType | type[pl.DataType]

_TYPES: dict[str, FrameType] = {
    "number": pl.Float64,
    "integer": pl.Float64,
    "boolean": pl.Boolean,
    "list of categories": pl.List(pl.String),
    "list of shares": pl.List(pl.Float64),
}


def frame_type(column: Column) -> FrameType:
    """Return the polars type of a raw column in the pipeline's frames."""
    return _TYPES.get(column.type, pl.String)


def feature_expressions(dataset: Dataset) -> dict[str, pl.Expr]:
    """Return the features by name, as expressions over raw columns that passed the checks."""
    numbers = dataset.intervals
    results: dict[str, pl.Expr] = {}
    made: dict[str, pl.Expr] = {}
    for step in dataset.pipeline:
        expressions = _expressions(step, dataset, results, numbers)
        made |= {name: each.alias(name) for name, each in zip(dataset.features_of(step), expressions, strict=False)}
    return made


def _expressions(  # noqa: PLR0911 - one return a step
    step: Step, dataset: Dataset, results: dict[str, pl.Expr], numbers: Intervals
) -> list[pl.Expr]:
    columns = dataset.by_name

    def number(name: str) -> pl.Expr:
        return filled(columns[name]) if name in columns else results[name]

    match step:
        case Drop():
            return []
        case OneHot():
            return _one_hot(columns[step.column])
        case MultiHot():
            return multi_hot(columns[step.column])
        case Shares():
            return shares(columns[step.column], step.shares)
        case DateParts():
            parts = date_parts(columns[step.column])
            return [parts[part].cast(pl.Float64) for part in step.parts]
        case Bins():
            return _bins(step, number(step.column))
        case Impute():
            result = _as_number(columns[step.column]).fill_null(step.value)
        case _:
            assert isinstance(step, Arithmetic)
            result = for_columns(step, numbers)(*map(number, step.inputs))
    if step.as_ and step.as_ not in columns:
        results[step.as_] = result
    return [result]


def _one_hot(column: Column) -> list[pl.Expr]:
    value = pl.col(column.name)
    if column.fill is not None:
        value = value.fill_null(str(column.fill))
    return [value.eq_missing(pl.lit(category)).cast(pl.Float64) for category in column.categories]


def multi_hot(column: Column) -> list[pl.Expr]:
    """Return one expression per category: 1.0 where the list holds it."""
    entries = pl.col(column.name)
    return [entries.list.contains(pl.lit(category)).fill_null(False).cast(pl.Float64) for category in column.categories]


def shares(column: Column, of: str) -> list[pl.Expr]:
    """Return one expression per category: its share, 0.0 where the list lacks it, 1.0 for the only entry of a list without shares."""
    entries, parts = pl.col(column.name), pl.col(of)
    made = []
    for category, held in zip(column.categories, multi_hot(column), strict=True):
        place = entries.list.eval(pl.element() == pl.lit(category)).list.arg_max()
        share = pl.when(parts.is_null()).then(1.0).otherwise(parts.list.get(place, null_on_oob=True))
        made.append(pl.when(held == 1.0).then(share).otherwise(0.0))
    return made


def _bins(step: Bins, value: pl.Expr) -> list[pl.Expr]:
    # Only the inner edges count: values lie within the outer ones, but for the last bit of a computed value and for what is taken
    # outside of its range, which belongs into the outer bin.
    if not (inner := step.edges[1:-1]):
        return [value.is_not_null().cast(pl.Float64)]
    above = [value > edge for edge in inner]
    inside = [~above[0], *(low & ~high for low, high in pairwise(above)), above[-1]]
    return [expression.cast(pl.Float64) for expression in inside]


def filled(column: Column) -> pl.Expr:
    """Return a number, with the column's fill where it is missing."""
    value = _as_number(column)
    return value if column.fill is None else value.fill_null(float(column.fill))


def _as_number(column: Column) -> pl.Expr:
    value = pl.col(column.name)
    if column.outside == "clip" and column.range:
        return clip_column(value, *column.range)
    return value.cast(pl.Float64) if column.type == "boolean" else value


def date_parts(column: Column) -> dict[str, pl.Expr]:
    """Return the parts of a time as whole numbers, null where the text is not a time, and ``valid``, whether it is one."""
    time_format = TimeFormat(column.format)
    value = pl.col(column.name)
    if column.fill is not None:
        value = value.fill_null(str(column.fill))
    groups = value.str.extract_groups(time_format.pattern)

    def digits(name: str) -> pl.Expr:
        return groups.struct.field(name).cast(pl.Int64) if name in time_format.groups else pl.lit(0, pl.Int64)

    year, month, day, hour, minute, second = map(digits, ("year", "month", "day", "hour", "minute", "second"))
    if time_format.two_digits:
        year = year + pl.when(year >= FIRST_OF_1900).then(1900).otherwise(2000)
    leap = ((year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))).cast(pl.Int64)
    longest = pl.when(month == 2).then(28 + leap).otherwise(30 + (month + month // 8) % 2)
    before = reduce(
        lambda made, m: made + (month > m).cast(pl.Int64) * (DAYS_BEFORE[m] - DAYS_BEFORE[m - 1]),
        range(1, 12),
        pl.lit(0, pl.Int64),
    )
    day_of_year = before + day + pl.when(month > 2).then(leap).otherwise(0)
    past = year - 1
    weekday = (past * 365 + past // 4 - past // 100 + past // 400 + day_of_year - 1) % 7 + 1
    in_day = (hour < 24) & (minute < 60) & (second < 60)
    valid = (year >= 1) & month.is_between(1, 12) & (day >= 1) & (day <= longest) & in_day
    return {
        "year": year, "month": month, "day": day, "hour": hour, "minute": minute, "second": second,
        "weekday": weekday, "day_of_year": day_of_year, "valid": valid.fill_null(False),
    }  # fmt: skip
