"""The split of the labelled records by key: which are copies of each other, and in which part each one is, whatever the others are."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import original_key

Hashes = npt.NDArray[np.uint64]
Parts = npt.NDArray[np.int8]


class Part(IntEnum):
    """Part of the split: 70 % train, 15 % validation, 15 % hold-out."""

    TRAIN = 0
    VALIDATION = 1
    HOLDOUT = 2


def groups_of(dataset: Dataset, table: pa.Table) -> list[str]:
    """Return what a split by key goes by, of every labelled processed record: equal for those that are in one part and in one fold.

    Copies are a group, because a model that has seen one of them knows the others: records with the same features and the same target,
    as models see them. (Not with the same raw values: these change when a value comes later, and row numbers differ between copies.)
    Where the declared split keeps copies apart, a group is a key; a record that was sent again under another key
    (``domain.keys.repeated_key``) belongs to the first one.

    Args:
        dataset: Declares the split.
        table: Columns ``dataset.processed_names``, in any order.
    """
    if not dataset.copies_together:
        return [original_key(key) for key in table.column(ID).to_pylist()]
    return [f"{content:016x}" for content in hashes_of(dataset, table)[1].tolist()]


def contents_of(
    columns: Iterable[npt.NDArray[Any]], rows: int, begin: npt.NDArray[np.uint64] | None = None
) -> npt.NDArray[np.uint64]:
    """Return a hash of every row of some columns, as float32: the same on every machine.

    Value by value with the finaliser of SplitMix64 (G. Steele, D. Lea and C. Flood, Fast Splittable Pseudorandom Number Generators,
    OOPSLA 2014).

    Args:
        columns: What is hashed.
        rows: Rows of each column.
        begin: The hash of the columns before these.
    """
    found = np.zeros(rows, dtype=np.uint64) if begin is None else begin.copy()
    for column in columns:
        bits = (np.asarray(column, dtype="<f4") + np.float32(0)).view("<u4")  # -0.0 becomes 0.0
        found = (found ^ bits) + np.uint64(0x9E3779B97F4A7C15)
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found ^= found >> np.uint64(31)
    return found


def hashes_of(dataset: Dataset, table: pa.Table) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return a hash of the features of every record, and one of features and target."""
    columns = [table.column(name).to_numpy() for name in (*dataset.feature_names, dataset.target)]
    features = contents_of(columns[:-1], table.num_rows)
    return features, contents_of(columns[-1:], table.num_rows, features)


def parts_of(groups: Iterable[str]) -> Parts:
    """Return the part of every group (:func:`groups_of`), by its CRC-32: the same on every machine and for every framework."""
    buckets = np.fromiter((zlib.crc32(group.encode()) % 100 for group in groups), dtype=np.int8)
    return np.where(buckets < 70, 0, np.where(buckets < 85, 1, 2)).astype(np.int8)


@dataclass(frozen=True)
class Copies:
    """Copies among labelled records.

    Attributes:
        records: Records that were looked at.
        count: Those of them whose features and target are those of an earlier one.
        by_chance: Whether most records that share the features of such a record have another target, as with a few settings and whole
            grades: then an equal target does not make it a copy.
        together: Whether the split keeps copies in one part.
    """

    records: int = 0
    count: int = 0
    by_chance: bool = False
    together: bool = True

    @property
    def are_few(self) -> bool:
        """Whether they change no figure that is shown: fewer than 1 % of the records."""
        return not self.count or 100 * self.count < self.records


NO_COPIES = Copies()


class CopyCount:
    """Counts labelled records that are copies of another one, among the first ``LIMIT``."""

    LIMIT = 5_000_000
    _FEATURES = np.uint64(0xFFFF_FFFF_0000_0000)
    """The half of a hash that is of the features alone; the other half is of features and target."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._records = 0

    def add(self, table: pa.Table) -> None:
        """Take a page of labelled processed records."""
        if self._records >= self.LIMIT:
            return
        self._records += table.num_rows
        features, contents = hashes_of(self._dataset, table)
        self._hashes.append((features & self._FEATURES) | (contents & ~self._FEATURES))

    def found(self) -> Copies:
        """Return the count."""
        together = self._dataset.copies_together
        if not self._records:
            return Copies(together=together)
        contents, sizes = np.unique(np.concatenate(self._hashes), return_counts=True)
        count, by_chance = self._records - len(contents), False
        if count:
            _, features = np.unique(contents & self._FEATURES, return_inverse=True)
            alike, several = np.bincount(features, weights=sizes)[features], sizes > 1
            share = (sizes[several] - 1) / (
                alike[several] - 1
            )  # of the others with these features those with this target, too
            by_chance = bool(np.average(share, weights=sizes[several]) < 0.5)
        return Copies(self._records, count, by_chance, together)


class KeySample:
    """An even sample of the keys of all records, large enough to sample a part of them."""

    PER_KEY = 10
    """Keys that are held for one that is wanted of a part: the smallest has a seventh of the records."""

    def __init__(self, limit: int, seed: int = 0) -> None:
        """Make a sample of at most ``limit`` keys of a part."""
        self._limit = limit
        self._random = np.random.default_rng(seed)
        self._keys: npt.NDArray[np.object_] = np.empty(0, dtype=object)
        self._places: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._priorities: npt.NDArray[np.float64] = np.empty(0)

    def add(self, keys: pa.ChunkedArray, first: int) -> None:
        """Take keys of records, the first of which has this place among all."""
        priorities = self._random.random(len(keys))
        self._keys = np.concatenate([self._keys, np.array(keys.to_pylist(), dtype=object)])
        self._places = np.concatenate([self._places, first + np.arange(len(keys))])
        self._priorities = np.concatenate([self._priorities, priorities])
        held = self.PER_KEY * self._limit
        if len(self._keys) > held:
            chosen = np.argpartition(self._priorities, held)[:held]
            self._keys, self._places = self._keys[chosen], self._places[chosen]
            self._priorities = self._priorities[chosen]

    def keys(self, wanted: npt.NDArray[np.bool_]) -> list[str]:
        """Return the sample of the wanted records."""
        chosen = np.flatnonzero(wanted[self._places])
        chosen = chosen[np.argsort(self._priorities[chosen], kind="stable")][: self._limit]
        return [str(key) for key in self._keys[np.sort(chosen)]]


class KeyLists:
    """The keys of all samples by part, in order, as long as these are few."""

    def __init__(self, limit: int) -> None:
        """Make empty lists; with more than ``limit`` keys in all, there are none."""
        self._limit, self._count = limit, 0
        self._chunks: dict[Part | None, list[pa.Array]] = {}

    def add(self, part: Part | None, keys: pa.ChunkedArray) -> None:
        """Take keys of a part; None stands for all parts."""
        self._count += len(keys)
        if self._count > self._limit:
            self._chunks.clear()
        else:
            self._chunks.setdefault(part, []).extend(keys.cast(pa.string()).chunks)

    def of(self, part: Part | None) -> pa.StringArray | None:
        """Return the keys of a part; None where they are too many."""
        return pa.concat_arrays(self._chunks[part]) if part in self._chunks else None
