"""The declared steps as polars expressions.

Only additions, multiplications and comparisons with literals are used. polars divides a long column by a literal as a multiplication
with its reciprocal, but a column of one row truly, and the two differ in the last bit; a record must be processed alike
alone and in a batch.
"""

from __future__ import annotations

import polars as pl

from complex_system.domain.dataset import Bins, Column, OneHot, Scale, Step


def features(step: Step, column: Column) -> list[pl.Expr]:
    """The features that a step makes, float64, named and in the order of ``step.feature_names(column)``."""
    if isinstance(step, OneHot):
        made = _one_hot(column)
    elif isinstance(step, Bins):
        made = _bins(step, column)
    else:
        made = [_scale(step, column)]
    return [expression.alias(name) for name, expression in zip(step.feature_names(column), made, strict=True)]


def _one_hot(column: Column) -> list[pl.Expr]:
    return [pl.col(column.name).eq_missing(pl.lit(category)).cast(pl.Float64) for category in column.categories]


def _bins(step: Bins, column: Column) -> list[pl.Expr]:
    value, edges = _filled(column), step.edges
    inside = [value.is_between(edges[i], edges[i + 1], closed="right" if i else "both") for i in range(len(edges) - 1)]
    return [expression.cast(pl.Float64) for expression in inside]


def _scale(step: Scale, column: Column) -> pl.Expr:
    assert column.range is not None  # the declaration was checked
    low, high = column.range
    factor = (step.to[1] - step.to[0]) / (high - low)
    return (_filled(column) - low) * factor + step.to[0]


def _filled(column: Column) -> pl.Expr:
    value = pl.col(column.name)
    return value if column.fill is None else value.fill_null(column.fill)
