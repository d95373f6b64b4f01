"""The declaration of the steps that make one number, and the interval that it lies in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, validator

from complex_system.domain.columns import Column, Declared

Interval = tuple[float, float]
"""The smallest and the largest value."""


class Arithmetic(Declared):
    """A step that makes one number. ``as`` names it, for later steps too; ``feature: false`` keeps it from the models."""

    as_: str = Field(
        "", alias="as", description="Name of the result, which later steps may take; the column's name by default"
    )
    feature: bool = Field(True, description="Whether the result is a feature; false for one that only later steps need")

    @property
    def result(self) -> str:
        """What the result is called."""
        return self.as_ or self.inputs[0]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns and results that the step takes."""
        column: str = self.column  # type: ignore[attr-defined]
        return (column,)

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """The result's name, or nothing when it is no feature."""
        return [self.result] if self.feature else []

    def interval(self, inputs: list[Interval]) -> Interval:
        """The smallest and the largest result for inputs within these.

        Raises:
            ValueError: Some inputs within these have no result.
        """
        raise NotImplementedError


class Scale(Arithmetic):
    """The range of the column is mapped linearly to ``to``."""

    step: Literal["scale"]
    column: str = Field(description="A number with a range, or the name that an earlier step gave its result")
    to: tuple[float, float] = Field((0.0, 1.0), description="What the ends of the range become")

    def interval(self, inputs: list[Interval]) -> Interval:
        """The ends of ``to``."""
        low, high = inputs[0]
        if low == high:
            raise ValueError(f"'{self.column}' has only one possible value and cannot be scaled")
        begin, end = self.to
        # As it is computed, the end may be missed by its last bit; a step that takes no 0 has to know.
        reached = (high - low) * ((end - begin) / (high - low)) + begin
        return min(begin, end, reached), max(begin, end, reached)


class Standardise(Arithmetic):
    """``(value - mean) / deviation``, both declared."""

    step: Literal["standardise"]
    column: str = Field(description="A number, or the name that an earlier step gave its result")
    mean: float = Field(description="Mean of the column, in its own unit")
    deviation: float = Field(gt=0, description="Standard deviation of the column, in its own unit")

    def interval(self, inputs: list[Interval]) -> Interval:
        """The standardised ends."""
        inverse = 1 / self.deviation  # as it is computed
        return (inputs[0][0] - self.mean) * inverse, (inputs[0][1] - self.mean) * inverse


class Keep(Arithmetic):
    """The number as it is; a boolean as 0 or 1; the column's fill where it is missing."""

    step: Literal["keep"]
    column: str = Field(description="A number or boolean, or the name that an earlier step gave its result")

    def interval(self, inputs: list[Interval]) -> Interval:
        """The same."""
        return inputs[0]


class Impute(Arithmetic):
    """The number as it is, and ``value`` where it is missing."""

    step: Literal["impute"]
    column: str = Field(description="A raw number or boolean")
    value: float = Field(description="What stands in for a missing value, in the column's own unit")

    def interval(self, inputs: list[Interval]) -> Interval:
        """The column's, and the value."""
        return min(inputs[0][0], self.value), max(inputs[0][1], self.value)


class Clip(Arithmetic):
    """What lies outside of ``to`` becomes the nearer end."""

    step: Literal["clip"]
    column: str = Field(description="A number, or the name that an earlier step gave its result")
    to: tuple[float, float] = Field(description="Smallest and largest result")

    @validator("to")
    def _rising(cls, to: Interval) -> Interval:
        if not -math.inf < to[0] < to[1] < math.inf:
            raise ValueError(f"the ends to clip to must rise, not {list(to)}")
        return to

    def interval(self, inputs: list[Interval]) -> Interval:
        """The clipped ends."""
        low, high = self.to
        return min(max(inputs[0][0], low), high), min(max(inputs[0][1], low), high)


class Log(Arithmetic):
    """The natural logarithm of ``value + plus``."""

    step: Literal["log"]
    column: str = Field(description="A number above -plus, or the name that an earlier step gave its result")
    plus: float = Field(0.0, description="Added before; 1 lets a range begin at 0")

    def interval(self, inputs: list[Interval]) -> Interval:
        """Logarithms of the ends."""
        low, high = (end + self.plus for end in inputs[0])
        if low <= 0:
            raise ValueError(
                f"'{self.column}' may be {inputs[0][0]:g}, which has no logarithm; 'plus' must be larger than {0 - inputs[0][0]:g}"
            )
        return math.log(low), math.log(high)


class BoxCox(Arithmetic):
    """``(value^power - 1) / power``, and the logarithm for the power 0. Source: Box and Cox, J. R. Stat. Soc. B 26 (1964)."""

    step: Literal["box_cox"]
    column: str = Field(description="A positive number, or the name that an earlier step gave its result")
    power: float = Field(description="The parameter lambda")

    def interval(self, inputs: list[Interval]) -> Interval:
        """Transformed ends."""
        low, high = inputs[0]
        if low <= 0:
            raise ValueError(f"'{self.column}' may be {low:g}; Box-Cox takes positive values only")
        if not self.power:
            return math.log(low), math.log(high)
        return (low**self.power - 1) / self.power, (high**self.power - 1) / self.power


class Product(Arithmetic):
    """The product of two or more numbers."""

    step: Literal["product"]
    columns: tuple[str, ...] = Field(description="Numbers, or names that earlier steps gave their results")
    as_: str = Field(alias="as", min_length=1, description="Name of the result, which later steps may take")

    @validator("columns")
    def _factors(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(columns) < 2:
            raise ValueError("needs two columns or more")
        return columns

    @property
    def inputs(self) -> tuple[str, ...]:
        """The factors."""
        return self.columns

    def interval(self, inputs: list[Interval]) -> Interval:
        """The widest of the ends' products."""
        low, high = inputs[0]
        for other in inputs[1:]:
            ends = [a * b for a in (low, high) for b in other]
            low, high = min(ends), max(ends)
        return low, high


class Ratio(Arithmetic):
    """One number divided by another, whose range must not hold 0."""

    step: Literal["ratio"]
    column: str = Field(description="The numerator: a number, or the name that an earlier step gave its result")
    by: str = Field(
        description="The denominator, which is never 0: a number, or the name that an earlier step gave its result"
    )
    as_: str = Field(alias="as", min_length=1, description="Name of the result, which later steps may take")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Numerator and denominator."""
        return self.column, self.by

    def interval(self, inputs: list[Interval]) -> Interval:
        """The widest of the ends' ratios."""
        low, high = inputs[1]
        if low <= 0 <= high:
            raise ValueError(f"'{self.by}' may be 0 (its range is {[low, high]}); nothing can be divided by it")
        ends = [a / b for a in inputs[0] for b in inputs[1]]
        return min(ends), max(ends)
