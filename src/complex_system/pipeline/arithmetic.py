"""The arithmetic of the steps, written once for a number, for a column of polars and for a tensor of an ONNX graph.

Where ``Column.outside`` lets a number lie beyond its declared range, linear steps (scale, standardise, keep, product, a numerator) go
on as they are; a logarithm, Box-Cox and a denominator, which may have no result there, take the nearer end of the range.

Only what gives the same bits for one row and for a million is used: ``+``, ``*``, comparisons, a column divided by a column, and
``log`` and ``exp``, which both sides take from the C library. polars divides a long column by a literal by multiplying with its
reciprocal, but really divides a column of one row, and the two differ in the last bit; so a literal's reciprocal is computed before.
A power is ``exp(power * log(value))``, because each library has shortcuts of its own for some powers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import polars as pl

from complex_system.domain.intervals import Intervals
from complex_system.domain.steps import (
    Arithmetic,
    BoxCox,
    Clip,
    Impute,
    Interval,
    Keep,
    Log,
    Product,
    Ratio,
    Scale,
    Standardise,
)

Number = Any
"""A float, an expression of floats or a tensor of doubles."""


def clip_number(value: float, low: float, high: float) -> float:
    """Return a number, or the end of an interval that it is beyond."""
    return low if value < low else high if value > high else value


def clip_column(value: pl.Expr, low: float, high: float) -> pl.Expr:
    """Return a column of numbers, with the end of an interval for each that is beyond; null where it is null."""
    return pl.when(value < low).then(low).when(value > high).then(high).otherwise(value)


def for_numbers(step: Arithmetic, numbers: Intervals) -> Callable[..., float]:
    """Return the step as a function of floats; ``numbers`` are those that the pipeline knows."""
    return compiled(step, numbers, math.log, math.exp, clip_number)


def for_columns(step: Arithmetic, numbers: Intervals) -> Callable[..., pl.Expr]:
    """Return the step as a function of expressions; ``numbers`` are those that the pipeline knows."""
    return compiled(step, numbers, pl.Expr.log, pl.Expr.exp, clip_column)


def compiled(step: Arithmetic, numbers: Intervals, log: Any, exp: Any, clip: Any) -> Callable[..., Number]:
    """Return the step as a function of whatever has ``+``, ``-``, ``*`` and ``/``, and these three functions."""
    return _within(numbers.clipped(step), _function(step, numbers, log, exp, clip), clip)


def _within(ends: dict[int, Interval], function: Callable[..., Number], clip: Any) -> Callable[..., Number]:
    """Return the function with some of its arguments, by position, clipped."""
    if not ends:
        return function
    return lambda *values: function(*[clip(value, *ends[i]) if i in ends else value for i, value in enumerate(values)])


def _function(  # noqa: PLR0911 - one return a step
    step: Arithmetic, numbers: Intervals, log: Any, exp: Any, clip: Any
) -> Callable[..., Number]:
    if isinstance(step, Scale):
        (low, high), (begin, end) = numbers.known[step.column], step.to
        factor = (end - begin) / (high - low)
        return lambda value: (value - low) * factor + begin
    if isinstance(step, Standardise):
        mean, inverse = step.mean, 1 / step.deviation
        return lambda value: (value - mean) * inverse
    if isinstance(step, Clip):
        least, most = step.to
        return lambda value: clip(value, least, most)
    if isinstance(step, Log):
        plus = step.plus
        return lambda value: log(value + plus)
    if isinstance(step, BoxCox):
        power = step.power
        if not power:
            return log  # type: ignore[no-any-return]
        inverse = 1 / power
        return lambda value: (exp(log(value) * power) - 1.0) * inverse
    if isinstance(step, Product):
        return _product
    if isinstance(step, Ratio):
        return lambda value, by: value / by
    if isinstance(step, Keep | Impute):
        return lambda value: value
    raise TypeError(f"The step {type(step).__name__} has no arithmetic here.")


def _product(*factors: Number) -> Number:
    made = factors[0]
    for factor in factors[1:]:
        made = made * factor
    return made
