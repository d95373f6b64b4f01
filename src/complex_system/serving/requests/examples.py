"""Example records of a data set: for the documentation, the warm-up of models, and checks of a running service."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from complex_system.domain.dataset import Column, Dataset
from complex_system.domain.records import Record

_TIME = datetime(2025, 1, 31, 13, 45)  # noqa: DTZ001 - the declared formats carry no zone


def example_record(dataset: Dataset, position: int = 0) -> Record:
    """Return a raw record that the pipeline accepts, without targets that may be missing; each position gives another one."""
    return {
        column.name: example_value(column, position)
        for column in dataset.columns
        if column.name != dataset.target and not (column.name in dataset.other_targets and column.optional)
    }


def example_columns(dataset: Dataset, count: int) -> dict[str, list[Any]]:
    """Return the columns of ``count`` example records."""
    records = [example_record(dataset, position) for position in range(count)]
    return {name: [record[name] for record in records] for name in records[0]}


def example_value(column: Column, position: int = 0) -> Any:
    """Return a value of a raw column."""
    if column.categories:
        category = column.categories[position % len(column.categories)]
        return [category] if column.type == "list of categories" else category
    match column.type:
        case "list of shares":
            return [1.0]
        case "boolean":
            return position % 2 == 0
        case "number" | "integer":
            return _example_number(column, position)
        case "datetime":
            return _TIME.strftime(column.format) if column.format else _TIME.isoformat()
    return "text"


def _example_number(column: Column, position: int) -> float:
    low, high = column.range or (0.0, 1.0)
    middle = low + (high - low) * (0.5 + 0.25 * (position % 2))
    if column.type == "integer":
        return min(max(math.floor(middle), math.ceil(low)), math.floor(high))
    rounded = round(middle, 6)
    return rounded if low <= rounded <= high else middle
