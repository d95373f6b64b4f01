"""What a model does as a whole: which raw columns it depends on, and how."""

from __future__ import annotations

from typing import Literal

from complex_system.protocol.base import Message


class ColumnImportance(Message, frozen=True, kw_only=True):
    """How much a model depends on a raw column.

    Attributes:
        column: Its name; of a list of categories with shares, that of the list.
        increase: By how much the RMSE on the hold-out part grows where the column's values are exchanged among the records, in the
            target's unit; mean of the repeats.
        low: Least of the repeats.
        high: Most of the repeats.
    """

    column: str
    increase: float
    low: float
    high: float


class ColumnEffect(Message, frozen=True, kw_only=True):
    """How a model's prediction changes with a raw column.

    Attributes:
        column: Its name.
        unit: Its unit; empty where none is declared.
        method: ``accumulated``: accumulated local effects of a number. ``partial``: partial dependence on a category.
        values: Numbers, rising, or else categories.
        effects: One for each value, in the target's unit; their mean over the records is 0.
    """

    column: str
    unit: str = ""
    method: Literal["accumulated", "partial"]
    values: tuple[float | str, ...]
    effects: tuple[float, ...]


class ModelExplanation(Message, frozen=True, kw_only=True):
    """What a model does as a whole.

    Attributes:
        model: Registered name.
        version: Registered version.
        rmse: On the hold-out records that importance was measured on, as they are.
        records: Their number.
        repeats: How often each column's values were exchanged.
        importance: The most important columns first, at most 30.
        left_out: Number of further columns.
        effects: Of the most important numbers and categories, at most 6; none where the model carries no sample of its training
            records.
    """

    model: str
    version: str
    rmse: float
    records: int
    repeats: int
    importance: tuple[ColumnImportance, ...]
    left_out: int = 0
    effects: tuple[ColumnEffect, ...] = ()
