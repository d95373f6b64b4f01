"""What features are made of, and from what to what one has moved, in the unit of its column."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from complex_system.domain.dataset import Dataset
from complex_system.domain.steps import Arithmetic, DateParts
from complex_system.monitoring.reference import ColumnValues, NumberReference, Reference, Values
from complex_system.protocol.base import Message

PERCENTILES = (10, 50, 90)
"""Of a number that has moved."""


class Move(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What has moved, from what to what.

    Attributes:
        column: The raw column with whose unit it is told; empty for a feature of several columns.
        before: ``PERCENTILES`` of the training data; of an indicator its share.
        after: The same of the live records since it moved, at most those of the window.
        missing: Share of these without a value in the column: the declared fill stands for them in the feature.
        records: How many these are; 0 from an earlier release.
    """

    column: str = ""
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()
    missing: float = 0.0
    records: int = 0


def clock_features(dataset: Dataset) -> Collection[str]:
    """Return the features that are parts of a time: they go on with the clock."""
    return {name for step in dataset.pipeline if isinstance(step, DateParts) for name in dataset.features_of(step)}


def columns_of_features(dataset: Dataset) -> dict[str, str]:
    """Return the raw column that each feature is made of; features of several columns are left out."""
    made_of: dict[str, set[str]] = {name: {name} for name in dataset.raw_names}
    columns: dict[str, str] = {}
    for step in dataset.pipeline:
        names = set().union(*(made_of[name] for name in step.inputs))
        if isinstance(step, Arithmetic):
            made_of.setdefault(step.result, names)
        if len(names) == 1:
            columns |= dict.fromkeys(dataset.features_of(step), *names)
    return columns


def move_of(
    feature: str, column: str, reference: Reference, values: Values, live: Mapping[str, ColumnValues], records: int
) -> Move | None:
    """Return from what to what a feature has moved in the newest records: in its column where that is a number."""
    known, raw = reference.processed[feature], reference.raw.get(column)
    if isinstance(raw, NumberReference) and not raw.indicator:
        known, values = raw, np.asarray(live[column], dtype=np.float64)
    elif not isinstance(known, NumberReference):
        return None
    newest = values[-max(1, records) :]
    found, missing = len(newest), float(np.mean(~np.isfinite(newest)))
    newest = newest[np.isfinite(newest)]
    if not len(newest):
        return None
    if known.indicator:
        before, after = (float(known.counts[1] / known.counts.sum()),), (float(newest.mean()),)
        return Move(column=column, before=before, after=after, records=found)
    places = [round(each * (len(known.quantiles) - 1) / 100) for each in PERCENTILES]
    percentiles = tuple(np.percentile(newest, PERCENTILES).tolist())
    before = tuple(known.quantiles[places].tolist())
    column = column if known is raw else ""
    return Move(column=column, before=before, after=percentiles, missing=missing, records=found)
