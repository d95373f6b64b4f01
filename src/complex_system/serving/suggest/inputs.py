"""What a model takes: its columns with ranges, and a typical record to begin with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.columns import Column
from complex_system.protocol.trial import ModelInput, ModelInputs
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.requests.examples import example_record
from complex_system.serving.suggest.space import FREE_TYPES, digits_of, known_range, used_columns
from complex_system.tracking.model_files import SAMPLE_FILE, decode_sample


def model_inputs(predictor: Predictor) -> ModelInputs:
    """Return the columns that a model's features are made of, with ranges by the declaration, else by its sample of records."""
    dataset = predictor.pipeline.dataset
    content = predictor.files.get(SAMPLE_FILE)
    sample = decode_sample(content) if content is not None else pa.table({})
    columns = used_columns(dataset)
    typical = {each.name: value for each in columns if (value := _typical(each, sample)) is not None}
    return ModelInputs(
        model=predictor.info.name,
        version=predictor.info.version,
        pipeline_version=dataset.version,
        target=dataset.target,
        unit=dataset.column(dataset.target).unit,
        columns=tuple(_input(each, sample) for each in columns),
        record=example_record(dataset) | typical,
    )


def _input(column: Column, sample: pa.Table) -> ModelInput:
    ends = (column.range or known_range(column, sample)) if column.type in ("number", "integer") else None
    low, high = ends or (None, None)
    step = None
    if ends and ends[0] < ends[1]:
        step = 1.0 if column.type == "integer" else 10.0 ** -digits_of(*ends)
    return ModelInput(
        name=column.name, type=column.type, unit=column.unit, description=column.description, optional=column.optional, low=low,
        high=high, step=step, categories=column.categories, format=column.format, free=column.type in FREE_TYPES,
    )  # fmt: skip


def _typical(column: Column, sample: pa.Table) -> Any:
    """Return the median of a number and the most frequent value of others; None where no value is known."""
    if column.name not in sample.column_names:
        return None
    known = sample.column(column.name).drop_null()
    if not len(known):
        return None
    if column.type in ("number", "integer"):
        middle = float(np.median(known.to_numpy()))
        low, high = known_range(column, sample) or (middle, middle)
        digits = 0 if column.type == "integer" else digits_of(low, high) if low < high else 6
        return round(middle) if column.type == "integer" else min(max(round(middle, digits), low), high)
    if pa.types.is_list(known.type):
        return known[0].as_py()
    counts = pc.value_counts(known)
    return counts.field("values")[int(np.argmax(counts.field("counts").to_numpy()))].as_py()
