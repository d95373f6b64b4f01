"""What a model does as a whole: permutation importance of raw columns, and the effects of the most important ones.

Importance (Breiman, "Random Forests", Mach. Learn. 45, 2001; for any model: Fisher, Rudin and Dominici, J. Mach. Learn. Res. 20,
2019) needs no raw records: the features of one raw column are exchanged together. A feature of several columns is exchanged with each
of them. Columns that say the same share their importance: each looks less important than it is.

Effects are of raw values, so they are made of raw records, by the pipeline. Numbers have accumulated local effects (Apley and Zhu,
J. R. Stat. Soc. B 82, 2020): differences between the ends of small intervals, for the records within, so that no record is made
that is far from all others. Categories have no order to accumulate along, so they have partial dependence (Friedman, Ann. Stat. 29,
2001).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from complex_system.domain.columns import Column
from complex_system.explanation.columns import raw_columns
from complex_system.pipeline.expressions import filled
from complex_system.pipeline.pipeline import Pipeline
from complex_system.pipeline.rows import Matrix
from complex_system.protocol.explanation import ColumnEffect, ColumnImportance, ModelExplanation

Predict = Callable[[Matrix], Sequence[float]]
Floats = npt.NDArray[np.float64]

MAX_RECORDS = 2000
MAX_PREDICTIONS = 100_000
"""Records that importance is measured on, and predictions for it, at most about: with many columns there are fewer records."""
MIN_RECORDS = 100
REPEATS = 5
MAX_COLUMNS = 30
MAX_EFFECTS = 6
MAX_CATEGORIES = 12
EFFECT_RECORDS = 1000
INTERVALS = 20
_SEED = 15


def explain_model(
    label: tuple[str, str],
    pipeline: Pipeline,
    predict: Predict,
    x: Matrix,
    y: Floats | Matrix,
    sample: pa.Table | None = None,
) -> ModelExplanation:
    """Return importance and effects of the raw columns of a model.

    Args:
        label: Its registered name and version.
        pipeline: Makes its features.
        predict: Returns one prediction for each row of features.
        x: Features of records that it was not trained on, shape (n, F).
        y: Their targets, shape (n,).
        sample: Raw records for the effects; None for no effects.
    """
    columns = raw_columns(pipeline.dataset)
    count = len(columns.names)
    size = min(len(x), MAX_RECORDS, max(MIN_RECORDS, MAX_PREDICTIONS // (REPEATS * count)))
    chosen = np.linspace(0, len(x) - 1, size).astype(np.intp)
    x, y = x[chosen], y[chosen]
    rmse = _rmse(predict(x), y)
    draw = np.random.default_rng(_SEED)
    orders = [draw.permutation(size) for _ in range(REPEATS)]
    found = []
    for place, name in enumerate(columns.names):
        increases = [_rmse(predict(np.where(columns.uses[:, place], x[order], x)), y) - rmse for order in orders]
        mean = float(np.mean(increases))
        found.append(ColumnImportance(column=name, increase=mean, low=min(increases), high=max(increases)))
    found.sort(key=lambda each: -each.increase)
    effects = () if sample is None else _effects(pipeline, predict, sample, [each.column for each in found])
    return ModelExplanation(
        model=label[0], version=label[1], rmse=rmse, records=size, repeats=REPEATS, importance=tuple(found[:MAX_COLUMNS]),
        left_out=max(0, count - MAX_COLUMNS), effects=effects,
    )  # fmt: skip


def _rmse(predicted: Sequence[float], y: Floats | Matrix) -> float:
    return float(np.sqrt(np.mean((np.asarray(predicted, dtype=np.float64) - y) ** 2)))


def _effects(pipeline: Pipeline, predict: Predict, sample: pa.Table, names: Sequence[str]) -> tuple[ColumnEffect, ...]:
    chosen = np.linspace(0, sample.num_rows - 1, min(sample.num_rows, EFFECT_RECORDS)).astype(np.int64)
    frame = pipeline.typed(sample.take(pa.array(chosen)))

    def predicted(rows: pl.DataFrame, name: str, values: pl.Series | pl.Expr) -> Floats:
        return np.asarray(predict(pipeline.features_of(rows.with_columns(values.alias(name)))), dtype=np.float64)

    found: list[ColumnEffect] = []
    for name in names:
        column = pipeline.dataset.column(name)
        effect = _accumulated if column.type in ("number", "integer") else _partial
        if column.type in ("number", "integer", "category", "boolean") and (made := effect(frame, column, predicted)):
            found.append(made)
        if len(found) == MAX_EFFECTS:
            break
    return tuple(found)


_Predicted = Callable[[pl.DataFrame, str, pl.Series | pl.Expr], Floats]
"""Predictions of raw records in which a column has other values."""


def _accumulated(frame: pl.DataFrame, column: Column, predicted: _Predicted) -> ColumnEffect | None:
    """Return accumulated local effects at the ends of intervals with about as many records each; None for a constant column."""
    name = column.name
    known = frame.filter(pl.col(name).is_finite() & ~pl.col(name).is_in(list(column.missing_values)))
    values = known.select(filled(column)).to_series().to_numpy()
    if not len(values):
        return None
    # Ends are values that occur, because the mean of two whole numbers may be no value.
    ends = np.unique(np.quantile(values, np.linspace(0, 1, INTERVALS + 1), method="inverted_cdf"))
    if len(ends) < 2:
        return None
    place = np.clip(np.searchsorted(ends, values, side="left"), 1, len(ends) - 1)
    change = predicted(known, name, pl.Series(ends[place])) - predicted(known, name, pl.Series(ends[place - 1]))
    counts = np.bincount(place, minlength=len(ends))[1:]
    steps = np.bincount(place, change, minlength=len(ends))[1:] / np.maximum(counts, 1)
    effects = np.concatenate([[0.0], np.cumsum(steps)])
    effects -= np.average((effects[:-1] + effects[1:]) / 2, weights=counts)
    return ColumnEffect(
        column=name, unit=column.unit, method="accumulated", values=tuple(ends.tolist()), effects=tuple(effects.tolist())
    )


def _partial(frame: pl.DataFrame, column: Column, predicted: _Predicted) -> ColumnEffect | None:
    """Return the mean prediction where all records have a category, for the most frequent ones; None where there is only one."""
    name = column.name
    counted = frame.select(pl.col(name).cast(pl.String)).drop_nulls().to_series().value_counts(sort=True)
    there = dict(counted.iter_rows())
    options = ("false", "true") if column.type == "boolean" else column.categories
    frequent = [each for each in there if each in options][:MAX_CATEGORIES]
    shown = [each for each in options if each in frequent]
    if len(shown) < 2:
        return None
    means = [
        float(predicted(frame, name, pl.lit(each == "true" if column.type == "boolean" else each)).mean()) for each in shown
    ]
    mean = np.average(means, weights=[there[each] for each in shown])
    return ColumnEffect(
        column=name,
        unit=column.unit,
        method="partial",
        values=tuple(shown),
        effects=tuple(float(each - mean) for each in means),
    )
