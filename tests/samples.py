"""Training data from the laboratory, by the real pipeline and the real split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from complex_system.domain.columns import ARRIVED, raw_name
from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import Page, raw_schema
from complex_system.domain.records import Record, raw_check
from complex_system.pipeline.pipeline import Pipeline
from complex_system.testing.data import lab_samples, lab_table
from complex_system.training.data import SampleCollector
from complex_system.training.linear import PENALTIES
from complex_system.training.split import Part, groups_of, parts_of

__all__ = ["collected", "lab_samples", "parts_of_records", "processed_page", "ridge"]


def processed_page(seed: int, records: int) -> Page:
    """Labelled processed records of the laboratory, as the database keeps them."""
    return Page(lab_table(seed, records), notes={"version": Dataset.load().version})


def parts_of_records(pipeline: Pipeline, records: Sequence[Record]) -> list[Part]:
    """The part of the split of each of some labelled raw records."""
    processed = pipeline.process(raw_check(pipeline.dataset)(list(records))).to_arrow()
    return [Part(part) for part in parts_of(groups_of(pipeline.dataset, processed))]


def collected(dataset: Dataset, records: Sequence[Record]) -> SampleCollector:
    """Labelled raw records in a collector of all parts; they arrived one after the other."""
    collector = SampleCollector(dataset, list(Part))
    table = Pipeline(dataset).process(list(records)).to_arrow()
    if collector.raw is not None:
        raw = pa.Table.from_pylist(list(records), schema=raw_schema(dataset))
        for name in collector.raw:
            table = table.append_column(raw_name(name), raw.column(name))
        table = table.append_column(ARRIVED, pa.array(range(len(records)), pa.float64()))
    collector.add(table)
    return collector


def ridge(records: int) -> Any:
    """scikit-learn's model of as many records that is the linear model's oracle."""
    return make_pipeline(StandardScaler(), RidgeCV(records * PENALTIES))
