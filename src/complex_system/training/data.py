"""The one split of the labelled records, and the arrays that trainers train on."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import original_key
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
    """The part of every key, by CRC-32 of the key: the same on every machine, for every framework, for ever.

    A record that was sent again under another key (``domain.records.repeated``) is in the part of the first one.
    """
    buckets = np.fromiter((zlib.crc32(original_key(key).encode()) % 100 for key in ids), dtype=np.int8)
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


class _Rows:
    """The samples of one part while they come: one matrix that grows in its place, by a quarter at a time.

    With ``newest``, only so many of the last rows count, and twice as many are kept at most.
    """

    def __init__(self, width: int, newest: int = 0) -> None:
        self._newest = newest
        self.count = 0
        self._x = np.empty((0, width), dtype=np.float32)
        self._y = np.empty(0, dtype=np.float32)

    def add(
        self, columns: Sequence[npt.NDArray[np.float64]], target: npt.NDArray[np.float64], chosen: npt.NDArray[np.intp]
    ) -> None:
        """Takes the chosen rows of a page: one array a feature, and the target."""
        if self._newest and self.count >= 2 * self._newest:
            self._drop_oldest()
        begin, self.count = self.count, self.count + len(chosen)
        if self.count > len(self._y):
            self._resize(max(self.count, len(self._y) * 5 // 4))
        for i, column in enumerate(columns):
            self._x[begin : self.count, i] = column[chosen]
        self._y[begin : self.count] = target[chosen]

    def samples(self) -> Samples:
        """All rows that count, without a copy of them."""
        if self._newest and self.count > self._newest:
            self._drop_oldest()
        self._resize(self.count)
        return Samples(self._x, self._y)

    def _drop_oldest(self) -> None:
        # Copies, because somebody may have samples already.
        kept, self.count = slice(self.count - self._newest, self.count), self._newest
        self._x, self._y = self._x[kept].copy(), self._y[kept].copy()

    def _resize(self, rows: int) -> None:
        if rows == len(self._y):
            return
        shape = (rows, self._x.shape[1])
        try:
            self._x.resize(shape)
            self._y.resize(rows)
        except ValueError:  # somebody has samples already: these stay as they are
            x, y = np.empty(shape, dtype=np.float32), np.empty(rows, dtype=np.float32)
            kept = min(rows, len(self._x), len(self._y))
            x[:kept], y[:kept] = self._x[:kept], self._y[:kept]
            self._x, self._y = x, y


class SampleCollector:
    """Collects the samples of chosen parts from pages of processed records; of a page nothing is kept but its samples."""

    def __init__(self, dataset: Dataset, parts: Iterable[Part], newest: int = 0) -> None:
        """Makes a collector.

        Args:
            dataset: Whose records they are.
            parts: Which parts of the split are collected.
            newest: Samples of each part that are kept, those that were added last; 0 for all.
        """
        self._dataset = dataset
        self._rows = {part: _Rows(len(dataset.feature_names), newest) for part in parts}

    @property
    def columns(self) -> list[str]:
        """The columns that the pages must have, in this order: key, target, features."""
        return list(self._dataset.processed_names)

    def add(self, table: pa.Table) -> None:
        """Takes the rows of a page whose part is wanted."""
        parts = parts_of(table.column(ID).to_pylist())
        columns = [table.column(name).to_numpy() for name in self._dataset.feature_names]
        target = table.column(self._dataset.target).to_numpy()
        for part, rows in self._rows.items():
            rows.add(columns, target, np.flatnonzero(parts == part))

    def count(self) -> int:
        """How many samples were collected."""
        return sum(rows.count for rows in self._rows.values())

    def samples(self, part: Part) -> Samples:
        """All samples of a part.

        Raises:
            NotEnoughDataError: There are fewer than ``MIN_SAMPLES``.
        """
        size = self._rows[part].count
        if size < MIN_SAMPLES:
            raise NotEnoughDataError(
                f"The {part.name.lower()} part has {size} labelled records; at least {MIN_SAMPLES} are needed."
            )
        return self._rows[part].samples()

    def training_data(self) -> TrainingData:
        """Train and validation part, for a trainer."""
        return TrainingData(
            self._dataset.feature_names, self._dataset.target, self.samples(Part.TRAIN), self.samples(Part.VALIDATION)
        )


class KeySample:
    """An even sample of the keys of one part of the split, however many there are."""

    def __init__(self, part: Part, most: int, seed: int = 0) -> None:
        self._part = part
        self._most = most
        self._random = np.random.default_rng(seed)
        self._keys: npt.NDArray[np.object_] = np.empty(0, dtype=object)
        self._priorities: npt.NDArray[np.float64] = np.empty(0)

    def add(self, table: pa.Table) -> None:
        """Takes the keys of a page."""
        keys = np.array(table.column(ID).to_pylist(), dtype=object)
        keys = keys[parts_of(keys) == self._part]
        self._keys = np.concatenate([self._keys, keys])
        self._priorities = np.concatenate([self._priorities, self._random.random(len(keys))])
        if len(self._keys) > self._most:
            chosen = np.argpartition(self._priorities, self._most)[: self._most]
            self._keys, self._priorities = self._keys[chosen], self._priorities[chosen]

    def keys(self) -> list[str]:
        """The sample."""
        return [str(key) for key in self._keys]
