"""The declaration of the pipeline's steps: what each takes, and the features that it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, root_validator, validator

from complex_system.domain.columns import NUMERIC, Column, Declared
from complex_system.domain.times import LIMITS, PARTS

Interval = tuple[float, float]
_LARGEST = 3.4e38  # models take float32


def _at_least_one(entries: tuple[str, ...]) -> tuple[str, ...]:
    if not entries:
        raise ValueError("needs at least one entry")
    return entries


class OneHot(Declared):
    """One feature a category, named ``<prefix>_<category>``: 1.0 where it applies. A missing value without a fill gives all zeros."""

    step: Literal["one_hot"]
    column: str = Field(description="A column of type category")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """Names of the features, in the order of the categories."""
        return [f"{self.prefix or self.column}_{category}" for category in columns[self.column].categories]


class MultiHot(Declared):
    """One feature a category, named ``<prefix>_<category>``: 1.0 where the list holds it. A missing list gives all zeros."""

    step: Literal["multi_hot"]
    column: str = Field(description="A column of type list of categories")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """Names of the features, in the order of the categories."""
        return [f"{self.prefix or self.column}_{category}" for category in columns[self.column].categories]


class Shares(Declared):
    """One feature a category, named ``<prefix>_<category>``: its share, 0.0 where the list does not hold it.

    The shares of a record add up to 1. Where they are missing, the list has one entry and its share is 1.
    """

    step: Literal["shares"]
    column: str = Field(description="A column of type list of categories: what there is a share of")
    shares: str = Field(description="A column of type list of shares, in the order of the other list")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """Names of the features, in the order of the categories."""
        return [f"{self.prefix or self.column}_{category}" for category in columns[self.column].categories]


class DateParts(Declared):
    """One feature a part of a time, named ``<prefix>_<part>``; the weekday is 1 on Monday."""

    step: Literal["date_parts"]
    column: str = Field(description="A column of type datetime, with a format")
    parts: tuple[Literal["year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year"], ...] = Field(
        description=f"Some of {', '.join(PARTS)}"
    )
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")

    _some = validator("parts", allow_reuse=True)(_at_least_one)

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """Names of the features, in the order of the parts."""
        return [f"{self.prefix or self.column}_{part}" for part in self.parts]


class Bins(Declared):
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

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """Names of the features, in the order of the edges."""
        return [f"{self.prefix or self.column}_{label}" for label in self.labels]


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


class Drop(Declared):
    """Columns that are kept in the database and not used: nothing is made of them, and no step may take them."""

    step: Literal["drop"]
    columns: tuple[str, ...] = Field(description="Names of raw columns; none after the last has been taken out")

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """None."""
        return []


Step = Annotated[
    OneHot
    | MultiHot
    | Shares
    | DateParts
    | Bins
    | Scale
    | Standardise
    | Keep
    | Impute
    | Clip
    | Log
    | BoxCox
    | Product
    | Ratio
    | Drop,
    Field(discriminator="step"),
]
STEPS: dict[str, type[Declared]] = {
    "one_hot": OneHot, "multi_hot": MultiHot, "shares": Shares, "date_parts": DateParts, "bins": Bins, "scale": Scale,
    "standardise": Standardise, "keep": Keep, "impute": Impute, "clip": Clip, "log": Log, "box_cox": BoxCox,
    "product": Product, "ratio": Ratio, "drop": Drop,
}  # fmt: skip
"""The steps by name."""
WANTED: dict[str, tuple[str, ...]] = {
    "one_hot": ("category",), "multi_hot": ("list of categories",), "shares": ("list of categories",), "date_parts": ("datetime",),
}  # fmt: skip
"""Types of column that a step takes; the others take numbers."""


def inputs_of(step: Any) -> tuple[str, ...]:
    """Names that a step takes: raw columns, and results of earlier steps."""
    if isinstance(step, Drop):
        return ()
    if isinstance(step, Arithmetic):
        return step.inputs
    return (step.column, step.shares) if isinstance(step, Shares) else (step.column,)


def raw_inputs(pipeline: tuple[Any, ...], columns: Mapping[str, Column]) -> list[str]:
    """Raw columns that the steps take, each once, in the order in which they are first taken."""
    names = [name for step in pipeline for name in inputs_of(step) if name in columns]
    return list(dict.fromkeys(names))


def intervals(pipeline: tuple[Any, ...], columns: Mapping[str, Column]) -> tuple[dict[str, Interval], list[tuple[int, str]]]:
    """The smallest and largest value of every number that steps take or make, by name; and what is wrong, by step.

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
            faults.append((place, f"the step {step.step} makes numbers beyond what models take ({low:g} to {high:g})"))  # type: ignore[attr-defined]
        elif step.as_ and step.as_ not in columns:
            results[step.as_] = (low, high)
    return {**known, **results}, faults


def is_numeric(column: Column) -> bool:
    """Whether arithmetic steps take the column."""
    return column.type in NUMERIC


__all__ = ["LIMITS", "STEPS", "WANTED", "Arithmetic", "Step", "inputs_of", "intervals", "is_numeric", "raw_inputs"]
