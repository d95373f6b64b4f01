"""The pipeline's steps as they are declared: the columns that each takes, and the features that it makes.

A new step also needs its arithmetic (``pipeline/arithmetic.py``) or its two forms (``pipeline/rows.py``, ``pipeline/expressions.py``),
and its check (``pipeline/checks.py``). The JSON Schema beside this module is generated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, root_validator, validator
from typing_extensions import override

from complex_system.domain.columns import NUMERIC, Column, Declared
from complex_system.domain.datetimes import PARTS

Interval = tuple[float, float]
"""The smallest and the largest value."""


class BaseStep(Declared):
    """What all steps have.

    Attributes:
        takes: Types of the columns that the step takes.
    """

    takes: ClassVar[tuple[str, ...]] = NUMERIC
    if TYPE_CHECKING:
        step: str
        column: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns, and results of earlier steps, that the step takes."""
        return (self.column,)

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """Return the names of the features, in the step's order."""
        raise NotImplementedError


class _SeveralFeatures(BaseStep):
    """A step whose features are named ``<prefix>_<ending>``."""

    if TYPE_CHECKING:
        prefix: str

    def endings(self, columns: Mapping[str, Column]) -> tuple[str, ...]:
        """Return what the features' names end with: the categories of the column."""
        return columns[self.column].categories

    @override
    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        return [f"{self.prefix or self.column}_{ending}" for ending in self.endings(columns)]


class OneHot(_SeveralFeatures):
    """One feature a category, named ``<prefix>_<category>``: 1.0 where it applies. A missing value without a fill gives all zeros."""

    takes: ClassVar[tuple[str, ...]] = ("category",)
    step: Literal["one_hot"]
    column: str = Field(description="A column of type category")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")


class MultiHot(_SeveralFeatures):
    """One feature a category, named ``<prefix>_<category>``: 1.0 where the list holds it. A missing list gives all zeros."""

    takes: ClassVar[tuple[str, ...]] = ("list of categories",)
    step: Literal["multi_hot"]
    column: str = Field(description="A column of type list of categories")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")


class Shares(_SeveralFeatures):
    """One feature a category, named ``<prefix>_<category>``: its share, 0.0 where the list does not hold it.

    The shares of a record add up to 1. Where they are missing, the list has one entry and its share is 1.
    """

    takes: ClassVar[tuple[str, ...]] = ("list of categories",)
    step: Literal["shares"]
    column: str = Field(description="A column of type list of categories: what there is a share of")
    shares: str = Field(description="A column of type list of shares, in the order of the other list")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")

    @property
    @override
    def inputs(self) -> tuple[str, ...]:
        return self.column, self.shares


class DateParts(_SeveralFeatures):
    """One feature a part of a time, named ``<prefix>_<part>``; the weekday is 1 on Monday."""

    takes: ClassVar[tuple[str, ...]] = ("datetime",)
    step: Literal["date_parts"]
    column: str = Field(description="A column of type datetime, with a format")
    parts: tuple[Literal["year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year"], ...] = Field(
        description=f"Some of {', '.join(PARTS)}"
    )
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")

    @validator("parts")
    def _some(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        if not parts:
            raise ValueError("needs at least one entry")
        return parts

    @override
    def endings(self, columns: Mapping[str, Column]) -> tuple[str, ...]:
        return self.parts


class Bins(_SeveralFeatures):
    """One feature a bin, named ``<prefix>_<label>``: intervals closed on the right, the first one on both sides."""

    step: Literal["bins"]
    column: str = Field(description="A number, or the name that an earlier step gave its result")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")
    edges: tuple[float, ...] = Field(description="Rising edges that cover the column's range")
    labels: tuple[str, ...] = Field(description="A name for each bin, one fewer than edges")

    @root_validator(skip_on_failure=True)
    def _consistent(cls, values: dict[str, Any]) -> dict[str, Any]:
        edges, labels = values["edges"], values["labels"]
        if len(edges) < 2 or not all(math.isfinite(edge) for edge in edges) or list(edges) != sorted(set(edges)):
            raise ValueError(f"the bin edges of '{values['column']}' must rise")
        if len(labels) != len(edges) - 1 or len(set(labels)) != len(labels):
            raise ValueError(f"'{values['column']}' needs {len(edges) - 1} different bin labels, one fewer than edges")
        return values

    @override
    def endings(self, columns: Mapping[str, Column]) -> tuple[str, ...]:
        return self.labels


class Drop(BaseStep):
    """Columns that are kept in the database and not used: nothing is made of them, and no step may take them."""

    step: Literal["drop"]
    columns: tuple[str, ...] = Field(description="Names of raw columns; none after the last has been taken out")

    @property
    @override
    def inputs(self) -> tuple[str, ...]:
        return ()

    @override
    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        return []


class Arithmetic(BaseStep):
    """A step that makes one number. ``as`` names it, for later steps too; ``feature: false`` keeps it from the models."""

    as_: str = Field(
        "", alias="as", description="Name of the result, which later steps may take; the column's name by default"
    )
    feature: bool = Field(True, description="Whether the result is a feature; false for one that only later steps need")

    @property
    def result(self) -> str:
        """What the result is called."""
        return self.as_ or self.inputs[0]

    @override
    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        return [self.result] if self.feature else []

    def interval(self, inputs: list[Interval]) -> Interval:
        """Return the smallest and the largest result for inputs within these.

        Raises:
            ValueError: Some inputs within these have no result.
        """
        raise NotImplementedError


class Scale(Arithmetic):
    """The range of the column is mapped linearly to ``to``."""

    step: Literal["scale"]
    column: str = Field(description="A number with a range, or the name that an earlier step gave its result")
    to: tuple[float, float] = Field((0.0, 1.0), description="What the ends of the range become")

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
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

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
        inverse = 1 / self.deviation  # as it is computed
        return (inputs[0][0] - self.mean) * inverse, (inputs[0][1] - self.mean) * inverse


class Keep(Arithmetic):
    """The number as it is; a boolean as 0 or 1; the column's fill where it is missing."""

    step: Literal["keep"]
    column: str = Field(description="A number or boolean, or the name that an earlier step gave its result")

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
        return inputs[0]


class Impute(Arithmetic):
    """The number as it is, and ``value`` where it is missing."""

    step: Literal["impute"]
    column: str = Field(description="A raw number or boolean")
    value: float = Field(description="What stands in for a missing value, in the column's own unit")

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
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

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
        low, high = self.to
        return min(max(inputs[0][0], low), high), min(max(inputs[0][1], low), high)


class Log(Arithmetic):
    """The natural logarithm of ``value + plus``."""

    step: Literal["log"]
    column: str = Field(description="A number above -plus, or the name that an earlier step gave its result")
    plus: float = Field(0.0, description="Added before; 1 lets a range begin at 0")

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
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

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
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
    @override
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
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
    @override
    def inputs(self) -> tuple[str, ...]:
        return self.column, self.by

    @override
    def interval(self, inputs: list[Interval]) -> Interval:
        low, high = inputs[1]
        if low <= 0 <= high:
            raise ValueError(f"'{self.by}' may be 0 (its range is {[low, high]}); nothing can be divided by it")
        ends = [a / b for a in inputs[0] for b in inputs[1]]
        return min(ends), max(ends)


_NumberStep = Scale | Standardise | Keep | Impute | Clip | Log | BoxCox | Product | Ratio
Step = Annotated[OneHot | MultiHot | Shares | DateParts | Bins | _NumberStep | Drop, Field(discriminator="step")]
"""Any of the steps, told apart by the key ``step``."""
STEPS: dict[str, type[BaseStep]] = {
    get_args(kind.__fields__["step"].outer_type_)[0]: kind for kind in get_args(get_args(Step)[0])
}
"""The steps by name."""
