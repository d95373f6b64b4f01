"""The split of the labelled records, and the arrays that trainers train on."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import original_key
from complex_system.errors import NotEnoughDataError

Matrix = npt.NDArray[np.float32]
MIN_SAMPLES = 5
"""Samples that a part of the split must have at least."""


class Part(IntEnum):
    """Part of the split: 70 % train, 15 % validation, 15 % hold-out."""

    TRAIN = 0
    VALIDATION = 1
    HOLDOUT = 2


def groups_of(dataset: Dataset, table: pa.Table) -> list[str]:
    """Return the group of every labelled processed record: records of one group are in one part of the split and in one fold.

    Copies are a group, because a model that has seen one of them knows the others: records with the same features and the same target,
    as models see them. Where the declared split keeps copies apart, a group is a key; a record that was sent again under another key
    (``domain.keys.repeated_key``) belongs to the first one.

    Args:
        dataset: Declares the split.
        table: Columns ``dataset.processed_names``, in any order.
    """
    if not dataset.copies_together:
        return [original_key(key) for key in table.column(ID).to_pylist()]
    columns = [table.column(name).to_numpy() for name in (*dataset.feature_names, dataset.target)]
    return [f"{content:016x}" for content in contents_of(columns, table.num_rows).tolist()]


def contents_of(columns: Iterable[npt.NDArray[Any]], rows: int) -> npt.NDArray[np.uint64]:
    """Return a hash of every row of some columns, as float32: the same on every machine.

    Value by value with the finaliser of SplitMix64 (G. Steele, D. Lea and C. Flood, Fast Splittable Pseudorandom Number Generators,
    OOPSLA 2014).
    """
    found = np.zeros(rows, dtype=np.uint64)
    for column in columns:
        bits = (np.asarray(column, dtype="<f4") + np.float32(0)).view("<u4")  # -0.0 becomes 0.0
        found = (found ^ bits) + np.uint64(0x9E3779B97F4A7C15)
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found ^= found >> np.uint64(31)
    return found


def parts_of(groups: Iterable[str]) -> npt.NDArray[np.int8]:
    """Return the part of every group (:func:`groups_of`), by its CRC-32: the same on every machine and for every framework."""
    buckets = np.fromiter((zlib.crc32(group.encode()) % 100 for group in groups), dtype=np.int8)
    return np.where(buckets < 70, 0, np.where(buckets < 85, 1, 2)).astype(np.int8)


class CopyCount:
    """Counts labelled records that are copies of another one, among the first ``LIMIT``.

    Attributes:
        records: Records that were looked at.
    """

    LIMIT = 5_000_000

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._contents: list[npt.NDArray[np.uint64]] = []
        self.records = 0

    def add(self, table: pa.Table) -> None:
        """Take a page of labelled processed records."""
        if self.records >= self.LIMIT:
            return
        self.records += table.num_rows
        columns = [table.column(name).to_numpy() for name in (*self._dataset.feature_names, self._dataset.target)]
        self._contents.append(contents_of(columns, table.num_rows))

    @property
    def copies(self) -> int:
        """Records whose features and target are those of an earlier one."""
        return self.records - len(np.unique(np.concatenate(self._contents))) if self._contents else 0


@dataclass(frozen=True)
class Samples:
    """Features ``x`` of shape (n, features), float32, and targets ``y`` of shape (n,), float32, in the target's unit."""

    x: Matrix
    y: Matrix

    def __len__(self) -> int:
        return len(self.y)

    def without_copies(self) -> Samples:
        """Return one sample of each group of equal ones: a score that counts copies looks surer than it is."""
        contents = contents_of([*self.x.T, self.y], len(self))
        _, first = np.unique(contents, return_index=True)
        kept = np.sort(first)
        return self if len(kept) == len(self) else Samples(self.x[kept], self.y[kept])


@dataclass(frozen=True)
class TrainingData:
    """The data of a trainer: two parts of the split, and the names of their columns.

    Attributes:
        copies: Labelled records, of all parts, whose features and target are those of an earlier one.
    """

    feature_names: tuple[str, ...]
    target: str
    train: Samples
    validation: Samples
    copies: int = 0


class _Rows:
    """The samples of one part while they are collected: one matrix that grows in place, by a quarter at a time.

    With ``newest``, only that many of the last rows count, and at most twice as many are kept.
    """

    def __init__(self, width: int, newest: int = 0) -> None:
        self._newest = newest
        self.count = 0
        self._x = np.empty((0, width), dtype=np.float32)
        self._y = np.empty(0, dtype=np.float32)

    def add(
        self, columns: Sequence[npt.NDArray[np.float64]], target: npt.NDArray[np.float64], chosen: npt.NDArray[np.intp]
    ) -> None:
        """Take the chosen rows of a page: one array per feature, and the target."""
        if self._newest and self.count >= 2 * self._newest:
            self._drop_oldest()
        begin, self.count = self.count, self.count + len(chosen)
        if self.count > len(self._y):
            self._resize(max(self.count, len(self._y) * 5 // 4))
        for i, column in enumerate(columns):
            self._x[begin : self.count, i] = column[chosen]
        self._y[begin : self.count] = target[chosen]

    def samples(self) -> Samples:
        """Return all rows that count, without a copy."""
        if self._newest and self.count > self._newest:
            self._drop_oldest()
        self._resize(self.count)
        return Samples(self._x, self._y)

    def _drop_oldest(self) -> None:
        # Copies, because samples may have been returned before.
        kept, self.count = slice(self.count - self._newest, self.count), self._newest
        self._x, self._y = self._x[kept].copy(), self._y[kept].copy()

    def _resize(self, rows: int) -> None:
        if rows == len(self._y):
            return
        shape = (rows, self._x.shape[1])
        try:
            self._x.resize(shape)
            self._y.resize(rows)
        except ValueError:  # samples were returned before and share the memory
            x, y = np.empty(shape, dtype=np.float32), np.empty(rows, dtype=np.float32)
            kept = min(rows, len(self._x), len(self._y))
            x[:kept], y[:kept] = self._x[:kept], self._y[:kept]
            self._x, self._y = x, y


class SampleCollector:
    """Collects the samples of chosen parts from pages of processed records; keeps nothing else of a page.

    Attributes:
        copies: Counts the copies among all records.
    """

    def __init__(self, dataset: Dataset, parts: Iterable[Part], newest: int = 0) -> None:
        """Make a collector.

        Args:
            dataset: Whose records they are.
            parts: Which parts of the split are collected.
            newest: Samples of each part that are kept, those that were added last; 0 for all.
        """
        self._dataset = dataset
        self._rows = {part: _Rows(len(dataset.feature_names), newest) for part in parts}
        self.copies = CopyCount(dataset)

    @property
    def columns(self) -> list[str]:
        """Columns that the pages must have, in this order: key, target, features."""
        return list(self._dataset.processed_names)

    def add(self, table: pa.Table) -> None:
        """Take the rows of a page whose part is wanted."""
        self.copies.add(table)
        parts = parts_of(groups_of(self._dataset, table))
        columns = [table.column(name).to_numpy() for name in self._dataset.feature_names]
        target = table.column(self._dataset.target).to_numpy()
        for part, rows in self._rows.items():
            rows.add(columns, target, np.flatnonzero(parts == part))

    def count(self) -> int:
        """Return the number of collected samples."""
        return sum(rows.count for rows in self._rows.values())

    def samples(self, part: Part) -> Samples:
        """Return all samples of a part.

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
        """Return train and validation part, for a trainer."""
        return TrainingData(
            self._dataset.feature_names, self._dataset.target, self.samples(Part.TRAIN), self.samples(Part.VALIDATION),
            self.copies.copies,
        )  # fmt: skip


class KeySample:
    """An even sample of the keys of one part of the split, however many there are."""

    def __init__(self, dataset: Dataset, part: Part, limit: int, seed: int = 0) -> None:
        self._dataset = dataset
        self._part = part
        self._limit = limit
        self._random = np.random.default_rng(seed)
        self._keys: npt.NDArray[np.object_] = np.empty(0, dtype=object)
        self._priorities: npt.NDArray[np.float64] = np.empty(0)

    def add(self, table: pa.Table) -> None:
        """Take the keys of a page of labelled processed records."""
        keys = np.array(table.column(ID).to_pylist(), dtype=object)
        keys = keys[parts_of(groups_of(self._dataset, table)) == self._part]
        self._keys = np.concatenate([self._keys, keys])
        self._priorities = np.concatenate([self._priorities, self._random.random(len(keys))])
        if len(self._keys) > self._limit:
            chosen = np.argpartition(self._priorities, self._limit)[: self._limit]
            self._keys, self._priorities = self._keys[chosen], self._priorities[chosen]

    def keys(self) -> list[str]:
        """Return the sample."""
        return [str(key) for key in self._keys]
