"""The one split of the labelled records, and the arrays that trainers train on."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.errors import NotEnoughDataError

Matrix = npt.NDArray[np.float32]
MIN_SAMPLES = 5
"""Fewest samples that a part of the split must have."""


class Part(IntEnum):
    """Which part of the split a record belongs to: 70 % train, 15 % validation, 15 % hold-out."""

    TRAIN = 0
    VALIDATION = 1
    HOLDOUT = 2


def parts_of(ids: Iterable[str]) -> npt.NDArray[np.int8]:
    """The part of every key, by CRC-32 of the key: the same on every machine, for every framework, for ever."""
    buckets = np.fromiter((zlib.crc32(key.encode()) % 100 for key in ids), dtype=np.int8)
    return np.where(buckets < 70, 0, np.where(buckets < 85, 1, 2)).astype(np.int8)


@dataclass(frozen=True)
class Samples:
    """Features ``x`` of shape (n, features), float32, and targets ``y`` of shape (n,), float32, in the target's unit."""

    x: Matrix
    y: Matrix

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class TrainingData:
    """What a trainer sees: two parts of the split, and what their columns are called."""

    feature_names: tuple[str, ...]
    target: str
    train: Samples
    validation: Samples


class SampleCollector:
    """Collects the samples of chosen parts from pages of processed records; a page is not kept."""

    def __init__(self, dataset: Dataset, parts: Iterable[Part]) -> None:
        self._dataset = dataset
        self._chunks: dict[Part, list[tuple[Matrix, Matrix]]] = {part: [] for part in parts}

    @property
    def columns(self) -> list[str]:
        """The columns that the pages must have, in this order: key, target, features."""
        return list(self._dataset.processed_names)

    def add(self, table: pa.Table) -> None:
        """Takes the rows of a page whose part is wanted."""
        parts = parts_of(table.column(ID).to_pylist())
        names = self._dataset.feature_names
        x = np.empty((table.num_rows, len(names)), dtype=np.float32)
        for i, name in enumerate(names):
            x[:, i] = table.column(name).to_numpy()
        y = table.column(self._dataset.target).to_numpy().astype(np.float32)
        for part, chunks in self._chunks.items():
            chosen = parts == part
            chunks.append((x[chosen], y[chosen]))

    def count(self) -> int:
        """How many samples were collected."""
        return sum(len(y) for chunks in self._chunks.values() for _, y in chunks)

    def samples(self, part: Part) -> Samples:
        """All samples of a part.

        Raises:
            NotEnoughDataError: There are fewer than ``MIN_SAMPLES``.
        """
        chunks = self._chunks[part]
        size = sum(len(y) for _, y in chunks)
        if size < MIN_SAMPLES:
            raise NotEnoughDataError(
                f"The {part.name.lower()} part has {size} labelled records; at least {MIN_SAMPLES} are needed."
            )
        return Samples(np.concatenate([x for x, _ in chunks]), np.concatenate([y for _, y in chunks]))

    def training_data(self) -> TrainingData:
        """Train and validation part, for a trainer."""
        return TrainingData(
            self._dataset.feature_names, self._dataset.target, self.samples(Part.TRAIN), self.samples(Part.VALIDATION)
        )
