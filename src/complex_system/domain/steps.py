"""The declaration of the pipeline's steps: what each takes, and the features that it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, root_validator, validator

from complex_system.domain.columns import NUMERIC, Column, Declared
from complex_system.domain.datetimes import PARTS
from complex_system.domain.number_steps import (
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

_LARGEST = 3.4e38  # models take float32


def _at_least_one(entries: tuple[str, ...]) -> tuple[str, ...]:
    if not entries:
        raise ValueError("needs at least one entry")
    return entries


class _OfCategories(Declared):
    """A step that makes one feature a category of its column."""

    def feature_names(self, columns: Mapping[str, Column]) -> list[str]:
        """Names of the features, in the order of the categories."""
        column: str = self.column  # type: ignore[attr-defined]
        prefix: str = self.prefix or column  # type: ignore[attr-defined]
        return [f"{prefix}_{category}" for category in columns[column].categories]


class OneHot(_OfCategories):
    """One feature a category, named ``<prefix>_<category>``: 1.0 where it applies. A missing value without a fill gives all zeros."""

    step: Literal["one_hot"]
    column: str = Field(description="A column of type category")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")


class MultiHot(_OfCategories):
    """One feature a category, named ``<prefix>_<category>``: 1.0 where the list holds it. A missing list gives all zeros."""

    step: Literal["multi_hot"]
    column: str = Field(description="A column of type list of categories")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")


class Shares(_OfCategories):
    """One feature a category, named ``<prefix>_<category>``: its share, 0.0 where the list does not hold it.

    The shares of a record add up to 1. Where they are missing, the list has one entry and its share is 1.
    """

    step: Literal["shares"]
    column: str = Field(description="A column of type list of categories: what there is a share of")
    shares: str = Field(description="A column of type list of shares, in the order of the other list")
    prefix: str = Field("", description="Begin of the features' names; the column's name by default")


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
