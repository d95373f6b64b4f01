"""The records that the suites work with: the lab's, and data sets with every type, every step and odd names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import REVISION, Page, processed_schema
from complex_system.pipeline.pipeline import Pipeline
from complex_system.training.data import SampleCollector, Samples, TrainingData
from complex_system.training.split import Part

EVERYTHING_TEXT = """
name: everything
id: Chargen-Nr.
target: quality
columns:
  - {name: "Temp. [°C]", type: number, range: [-40, 250], unit: °C}
  - {name: "temp. [°c]", type: number, range: [0.5, 80], optional: true, fill: 20.5}
  - {name: select, type: integer, range: [0, 1000], optional: true, fill: 7}
  - {name: "Größe", type: number, range: [0.001, 1000000], optional: true}
  - {name: an, type: boolean, optional: true, fill: true}
  - {name: Sorte, type: category, categories: [A, "b c", 007, NO], optional: true, fill: A}
  - {name: Ort, type: category, categories: [x, y], optional: true}
  - {name: Zeit, type: datetime, format: "%d.%m.%Y %H:%M", optional: true, fill: "31.12.2025 23:59"}
  - {name: Stoffe, type: list of categories, categories: [K1, K2, K3], optional: true}
  - {name: Anteile, type: list of shares, optional: true}
  - {name: Notiz, type: text, optional: true}
  - {name: Prüfer, type: text, optional: true}
  - {name: quality, type: number, range: [-1000, 1000], optional: true, unit: "%"}
pipeline:
  - {step: drop, columns: [Prüfer]}
  - {step: one_hot, column: Sorte}
  - {step: one_hot, column: Ort}
  - {step: multi_hot, column: Stoffe, prefix: has}
  - {step: shares, column: Stoffe, shares: Anteile, prefix: share}
  - {step: date_parts, column: Zeit, parts: [year, month, day, hour, minute, second, weekday, day_of_year]}
  - {step: bins, column: select, edges: [0, 10, 100, 1000], labels: [few, some, many]}
  - {step: scale, column: "Temp. [°C]", to: [-1, 1]}
  - {step: standardise, column: "temp. [°c]", mean: 33.3, deviation: 7.7}
  - {step: keep, column: an}
  - {step: impute, column: Größe, value: 2.5, as: size}
  - {step: log, column: size, as: size_log, feature: false}
  - {step: scale, column: size_log, as: size_scaled}
  - {step: log, column: select, plus: 1, as: select_log}
  - {step: box_cox, column: size, power: 0.3, as: size_cox}
  - {step: box_cox, column: size, power: 0, as: size_cox_0}
  - {step: clip, column: "Temp. [°C]", to: [0, 100], as: clipped}
  - {step: bins, column: clipped, edges: [0, 50, 100], labels: [low, high]}
  - {step: product, columns: ["temp. [°c]", "Temp. [°C]", select], as: energy}
  - {step: ratio, column: select, by: "temp. [°c]", as: per_degree}
  - {step: standardise, column: per_degree, mean: 1.1, deviation: 0.3, as: per_degree_standard}
"""
EVERYTHING = Dataset.parse(EVERYTHING_TEXT)
"""A data set with every type and every step."""

ODD_NAMES = Dataset.parse("""
name: odd
target: "back`tick"
columns:
  - {name: "back`tick", type: number, optional: true}
  - {name: "width in mm. (50 % of ?)", type: number, range: [0, 1]}
  - {name: "$price", type: category, categories: ["1.5", "a.b", "%s", "%(x)s", ":name", "x'y"]}
  - {name: Temp, type: number, range: [0, 1]}
  - {name: temp, type: number, range: [0, 1]}
  - {name: _pipeline, type: number, range: [0, 1]}
  - {name: "Größe ", type: number, range: [0, 1]}
  - {name: "a long name that goes on and on until it is longer than any identifier may be in a table", type: text, optional: true}
  - {name: "\\U0001F600", type: text, optional: true}
  - {name: order, type: text, optional: true}
pipeline:
  - {step: one_hot, column: "$price"}
  - {step: scale, column: "width in mm. (50 % of ?)"}
  - {step: scale, column: Temp}
  - {step: scale, column: temp}
  - {step: scale, column: _pipeline}
  - {step: scale, column: "Größe "}
""")
"""A data set whose columns have names that databases find difficult."""

_ALIKE = (
    "a",
    "A",
    "ä",
    "Ä",
    "ß",
    "ss",
    "SS",
    "İ",
    "i",
    "ı",
    "I",
    "\u212a",
    "k",
    "é",
    "e\u0301",
    "º",
    "o",
    "_ID",
    "Select",
    "select",
)
ALIKE_NAMES = Dataset.parse_obj(
    {
        "name": "alike",
        "target": "y",
        "columns": [
            *({"name": name, "type": "number", "range": (0, 99)} for name in _ALIKE),
            {"name": "y", "type": "number"},
        ],
        "pipeline": [{"step": "keep", "column": name} for name in _ALIKE],
    }
)
"""A data set whose columns have names that some servers take for one."""


def processed_table(dataset: Dataset, keys: Sequence[str], target: float | None = 1.5, base: float = 0.0) -> pa.Table:
    """Return processed records with these keys, all with the same values: ``base``, ``base + 1/7``, ..."""
    features = {name: base + i / 7 for i, name in enumerate(dataset.feature_names)}
    rows = [{ID: key, dataset.target: target, **features} for key in keys]
    return pa.Table.from_pylist(rows, schema=processed_schema(dataset))


def with_revisions(table: pa.Table, revisions: Sequence[int]) -> pa.Table:
    """Return processed records with the revisions of the raw records that they were made of."""
    return table.append_column(REVISION, pa.array(revisions, pa.int64()))


def keys_of(page: Page) -> list[str]:
    """Return the keys of a page."""
    return list(page.table.column(ID).to_pylist())


@cache
def lab_samples(seed: int, records: int) -> tuple[TrainingData, Samples]:
    """Return train and validation part of so many lab records, and the hold-out part, by the real pipeline and the real split."""
    collector = SampleCollector(Dataset.shipped("lab"), list(Part))
    collector.add(lab_table(seed, records))
    return collector.training_data(), collector.samples(Part.HOLDOUT)


def lab_table(seed: int, records: int) -> pa.Table:
    """Return the processed records of so many lab records that have a label."""
    dataset = Dataset.shipped("lab")
    labelled = [record for record in Laboratory(seed=seed).records(records) if record[dataset.target] is not None]
    return Pipeline(dataset).process(labelled).to_arrow().cast(processed_schema(dataset))
