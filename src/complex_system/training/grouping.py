"""The split of the labelled records by group or by time: decided when all are known, because the parts are cut out of their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.columns import ARRIVED, ID, raw_name
from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import original_key
from complex_system.domain.partition import Split, duration
from complex_system.domain.record_time import BEFORE_ALL, RecordTimes, Seconds
from complex_system.training.split import Hashes, Part, Parts, hashes_of

Mask = npt.NDArray[np.bool_]

NO_PART = -1
"""In place of a part: a record of the gap, or one that belongs together with a record of an earlier part."""
HOLDOUT_SHARE = VALIDATION_SHARE = 0.15
_UNEVEN = 0.05
"""By how much the share of the hold-out part may differ without a word."""
_SEPARATOR, _MISSING = "\x1f", "\x00"


@dataclass(frozen=True)
class Origins:
    """What a split by group or time goes by: arrays with an entry a record, all in the same order.

    Attributes:
        bound: Hash of what records have in common that are never apart: the smallest one of all that are bound to each other, through
            others too (:func:`components`). Unique for a record that stands alone.
        times: When they were made, seconds since 1970.
        arrived: The time of arrival by the database's clock, seconds since 1970.
        ungrouped: Records without a value in any column of the group; each is a group of its own.
    """

    bound: Hashes
    times: Seconds
    arrived: Seconds
    ungrouped: int = 0

    def __len__(self) -> int:
        return len(self.bound)

    def of(self, chosen: npt.NDArray[Any]) -> Origins:
        """Return the chosen records, by a mask or by places."""
        return Origins(self.bound[chosen], self.times[chosen], self.arrived[chosen])


class OriginCollector:
    """Collects from pages of labelled processed records what a split by group or time goes by.

    Attributes:
        record_times: Reads their times.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.record_times = RecordTimes(dataset)
        self._ungrouped = 0
        self._copies: list[Hashes] = []
        self._groups: list[Hashes] = []
        self._times: list[Seconds] = []
        self._arrived: list[Seconds] = []

    @property
    def raw(self) -> list[str]:
        """Raw columns that the pages must have beside."""
        return list(dict.fromkeys([*self.record_times.raw, *self._dataset.split.group]))

    def add(self, table: pa.Table) -> None:
        """Take a page with :attr:`raw` and the time of arrival beside (``domain.pages.beside_schema``)."""
        keys = table.column(ID)
        arrived = table.column(ARRIVED).to_numpy().astype(np.float64)
        self._arrived.append(np.nan_to_num(arrived, nan=0.0))
        self._copies.append(hashes_of(self._dataset, table)[1] if self._dataset.copies_together else key_hashes(keys))
        if self._dataset.split.group:
            groups, missing = group_hashes([table.column(raw_name(name)) for name in sorted(self._dataset.split.group)])
            self._ungrouped += int(missing.sum())
            # Alone: with the hash of its content or key, which no other group has.
            groups[missing] = self._copies[-1][missing]
            self._groups.append(groups)
        self._times.append(self.record_times.of(table))

    def found(self) -> Origins:
        """Return what was collected."""
        empty = np.empty(0, dtype=np.float64)
        copies = np.concatenate([np.empty(0, dtype=np.uint64), *self._copies])
        bound = components(np.concatenate(self._groups), copies) if self._groups else copies
        times, arrived = np.concatenate([empty, *self._times]), np.concatenate([empty, *self._arrived])
        return Origins(bound, times, arrived, self._ungrouped)


def group_hashes(columns: Sequence[pa.ChunkedArray]) -> tuple[Hashes, Mask]:
    """Return a hash of the values of every row, the same on every machine, and which rows have no value in any column."""
    texts = [column.cast(pa.string()) for column in columns]
    missing = np.logical_and.reduce([column.is_null().to_numpy() for column in columns])
    joined = pc.binary_join_element_wise(*texts, _SEPARATOR, null_handling="replace", null_replacement=_MISSING)
    found = pc.dictionary_encode(joined.combine_chunks())
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    hashes = np.array([text_hash(text) for text in found.dictionary.to_pylist()], dtype=np.uint64)
    return hashes[found.indices.to_numpy()], missing


def key_hashes(keys: pa.ChunkedArray) -> Hashes:
    """Return the hash of every key; a repetition such as ``A7~2`` has that of ``A7``."""
    return np.array([text_hash(original_key(key)) for key in keys.to_pylist()], dtype=np.uint64)


def text_hash(text: str) -> int:
    """Return a hash of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def components(groups: Hashes, copies: Hashes) -> Hashes:
    """Return the smallest group of all that are bound to each other: by the same group, or by equal records, in any number of steps.

    In turns, a group points to the smallest one that it shares a record with, and then to where that points in the end. A chain of n
    groups takes about log n turns: Y. Shiloach, U. Vishkin, An O(log n) Parallel Connectivity Algorithm, J. Algorithms 3 (1982).
    """
    names, by_group = np.unique(groups, return_inverse=True)
    contents, by_copy = np.unique(copies, return_inverse=True)
    roots = np.arange(len(names))
    while True:
        smallest = np.full(len(contents), len(names))
        np.minimum.at(smallest, by_copy, roots[by_group])
        lower = roots.copy()
        np.minimum.at(lower, roots[by_group], smallest[by_copy])
        while np.any((further := lower[lower]) != lower):
            lower = further
        if np.array_equal(lower, roots):
            return names[roots[by_group]]
        roots = lower


def divide(split: Split, origins: Origins) -> Parts:
    """Return the part of every record in a split by group or time, or ``NO_PART``; all are in the training part where no cut fits."""
    return parts_by_time(origins, split.seconds) if split.by == "time" else parts_by_group(origins.bound)


def parts_by_group(groups: Hashes) -> Parts:
    """Return the part of every record: whole groups, in the order of their hashes, so that most stay in their part when others come.

    Groups that are larger than a part come first, the largest (by a factor of two) before the others, so that they are trained on.
    """
    names, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    large = sizes > HOLDOUT_SHARE * len(groups)
    size_class = np.where(large, np.floor(np.log2(np.maximum(sizes, 1))) + 1, 0)
    order = np.lexsort((names, -size_class))
    begin, until = _cuts(sizes[order])
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[order] = np.arange(len(names))
    return ((ranks >= begin).astype(np.int8) + (ranks >= until).astype(np.int8))[places]


def _cuts(sizes: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return where validation and hold-out part begin among blocks of these sizes; beyond the last one where there are too few."""
    if len(sizes) < len(Part):
        return len(sizes), len(sizes)
    last = _cut(sizes, HOLDOUT_SHARE * sizes.sum(), 2)
    return _cut(sizes[:last], VALIDATION_SHARE * sizes.sum(), 1), last


def _cut(sizes: npt.NDArray[np.int64], wanted: float, before: int) -> int:
    """Return where the last blocks begin that together have about as many records as wanted; at least so many blocks lie before."""
    behind = np.cumsum(sizes[::-1])[: len(sizes) - before]
    return len(sizes) - 1 - int(np.argmin(np.abs(behind - wanted)))


def parts_by_time(origins: Origins, gap: float) -> Parts:
    """Return the part of every record: the newest are the hold-out part, those before it validate, and a gap lies before both."""
    records = len(origins)
    begin = last_share(origins.times, HOLDOUT_SHARE * records)
    return parts_around(origins.times, origins.bound, begin, np.inf, gap, VALIDATION_SHARE * records)


def parts_around(times: Seconds, bound: Hashes, begin: float, end: float, gap: float, validation: float) -> Parts:
    """Return the part of every record where those of some time are held out, and those before it are trained on.

    A record of the gap is in no part; so is one that is bound to a record of an earlier part: a copy, or one of the same group.

    Args:
        times: Seconds since 1970.
        bound: As of :class:`Origins`.
        begin: The hold-out part begins then.
        end: It ends before then.
        gap: Seconds before hold-out and validation part that are left out.
        validation: About how many records validate.
    """
    earlier = begin - times > gap
    validated_from = last_share(times[earlier], validation)
    parts = np.full(len(times), NO_PART, dtype=np.int8)
    parts[(times >= begin) & (times < end)] = Part.HOLDOUT
    parts[earlier & (times >= validated_from)] = Part.VALIDATION
    parts[earlier & (validated_from - times > gap)] = Part.TRAIN
    return without_known(parts, bound)


def last_share(times: Seconds, wanted: float) -> float:
    """Return the time from which on about as many records lie as wanted; records of one time stay together."""
    if not len(times):
        return float("inf")
    different, sizes = np.unique(times, return_counts=True)
    if len(different) == 1:
        return float("inf")
    return float(different[_cut(sizes, wanted, 1)])


def without_known(parts: Parts, bound: Hashes) -> Parts:
    """Return the parts without the records that are bound to one of an earlier part."""
    _, places = np.unique(bound, return_inverse=True)
    first = np.full(len(places), len(Part), dtype=np.int8)
    there = parts != NO_PART
    np.minimum.at(first, places[there], parts[there])
    return np.where(there & (parts > first[places]), NO_PART, parts).astype(np.int8)


class Read(NamedTuple):
    """What a training has read.

    Attributes:
        arrived: When the newest labelled record had arrived, seconds since 1970; 0 where it is not known.
        until: The latest time of the training and the validation part, with a split by time; ``BEFORE_ALL`` where it is not known.
    """

    arrived: float = 0.0
    until: float = BEFORE_ALL


def seen_in(split: Split, origins: Origins, read: Read) -> Mask:
    """Return which records a model has seen, or one that is bound to them, by what its training had read.

    When records are added, the cuts move: a model may have been trained on what is in the hold-out part now. Where they were is found
    out by dividing what had arrived; labels of old records that came since then shift that, but not the time until which was trained.
    """
    old = origins.arrived <= read.arrived
    parts = divide(split, origins.of(old))
    seen = old & (read.until > BEFORE_ALL) & (origins.times <= read.until)
    seen[old] |= (parts == Part.TRAIN) | (parts == Part.VALIDATION)
    return np.isin(origins.bound, np.unique(origins.bound[seen]))


def notes_on(split: Split, origins: Origins, parts: Parts) -> str:
    """Return what people must know of a division, as sentences; empty for nothing."""
    found = []
    if origins.ungrouped:
        named = ", ".join(split.group)
        found.append(
            f"{origins.ungrouped} of {len(origins)} labelled records have no value in {named}: each is a group of its own."
        )
    shares = np.bincount(parts[parts != NO_PART], minlength=len(Part)) / max(1, len(parts))
    if len(parts) and abs(shares[Part.HOLDOUT] - HOLDOUT_SHARE) > _UNEVEN:
        why = "groups are few, or of very different sizes" if split.group else "many records have the same time"
        found.append(f"The hold-out part has {shares[Part.HOLDOUT]:.0%} of the labelled records in place of 15 %: {why}.")
    return " ".join(found)


def why_too_few(split: Split, origins: Origins) -> str:
    """Return why a part may have too few records, and what to do."""
    records = f"The {len(origins)} labelled records"
    if split.by == "group":
        return (
            f"{records} are of {len(np.unique(origins.bound))} groups ({', '.join(split.group)}) without equal records in common, and "
            f"parts are made of whole groups: more groups are needed, at least {len(Part)}. Where equal records of several groups are "
            "measurements of their own, declare copies: apart."
        )
    different = len(np.unique(origins.times))
    gap = f", and a gap of {duration(split.seconds)} lies before validation and hold-out part" if split.gap else ""
    return f"{records} are of {different} different times{gap}: more records are needed" + (
        ", or a smaller gap." if gap else "."
    )
