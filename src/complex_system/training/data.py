"""The arrays that trainers train on, and that models are compared on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset, Loss
from complex_system.domain.partition import BY_KEY
from complex_system.domain.record_time import RecordTimes, Seconds
from complex_system.errors import NotEnoughDataError
from complex_system.training.grouping import Mask, OriginCollector, Origins, Read, divide, notes_on, seen_in, why_too_few
from complex_system.training.split import (
    CopyCount,
    Hashes,
    KeyLists,
    KeySample,
    Part,
    Parts,
    contents_of,
    groups_of,
    parts_of,
)

Matrix = npt.NDArray[np.float32]
"""An array of float32."""
MIN_SAMPLES = 5
"""Samples that a part of the split must have at least."""


@dataclass(frozen=True)
class Samples:
    """Features ``x`` of shape (n, features), float32, and targets ``y`` of shape (n,), float32, in the target's unit.

    Attributes:
        groups: What is not independent of each other has the same one; None with a split by key.
        times: When the records were made, seconds since 1970; None where nobody has asked for them.
        keys: The records' keys; None where nobody has asked for them, or there are too many.
    """

    x: Matrix
    y: Matrix
    groups: Hashes | None = None
    times: Seconds | None = None
    keys: pa.StringArray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def in_order(self) -> Matrix:
        """Return the features by their times, the oldest first; as they are where the times are not known."""
        return self.x if self.times is None else self.x[np.argsort(self.times, kind="stable")]

    def without_copies(self) -> Samples:
        """Return one sample of each group of equal ones: a score that counts copies looks surer than it is."""
        contents = contents_of([*self.x.T, self.y], len(self))
        _, first = np.unique(contents, return_index=True)
        return self if len(first) == len(self) else self.of(np.sort(first))

    def of(self, chosen: npt.NDArray[Any]) -> Samples:
        """Return the chosen samples, by a mask or by places."""
        groups, times = (None if each is None else each[chosen] for each in (self.groups, self.times))
        places = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        keys = None if self.keys is None else self.keys.take(pa.array(places))
        return Samples(self.x[chosen], self.y[chosen], groups, times, keys)

    def newer(self, since: float, newest: int = 0) -> Samples:
        """Return the samples whose time is later, the newest of them at most; 0 for all. Their times must be known."""
        assert self.times is not None
        order = np.argsort(self.times, kind="stable")
        return self.of(np.sort(order[self.times[order] > since][-newest:]))


@dataclass(frozen=True)
class TrainingData:
    """The data of a trainer: two parts of the split, and the names of their columns.

    Attributes:
        copies: Labelled records, of all parts, whose features and target are those of an earlier one.
        split: By what they were divided (``Dataset.split_rule``).
        loss: What a training makes small (``Dataset.loss``).
        arrived: When the newest of all labelled records arrived, by the database's clock, seconds since 1970; 0 with a split by key,
            where no record changes its part.
        until: The latest time of both parts, seconds since 1970; None but with a split by time.
        calibration: Samples that nothing of a training may see, for its intervals (``training.conformal``); None for none.
        whole: Sizes of both parts, where ``train`` and ``validation`` are even samples of what a cluster has trained on.
    """

    feature_names: tuple[str, ...]
    target: str
    train: Samples
    validation: Samples
    copies: int = 0
    split: str = BY_KEY
    loss: Loss = "squared"
    arrived: float = 0.0
    until: float | None = None
    calibration: Samples | None = None
    whole: tuple[int, int] | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of samples that were trained on, and of those by which the training stopped early."""
        return (len(self.train), len(self.validation)) if self.whole is None else self.whole


class _Rows:
    """The samples of one part while they are collected: one matrix that grows in place, by a quarter at a time.

    With ``newest``, which needs ``timed``, only that many rows count, those of the latest times, and at most twice as many are kept
    between two pages.
    """

    def __init__(self, width: int, newest: int = 0, *, timed: bool = False) -> None:
        self._newest = newest
        self._timed = timed
        self.count = 0
        self._x = np.empty((0, width), dtype=np.float32)
        self._y = np.empty(0, dtype=np.float32)
        self._times: Seconds = np.empty(0)

    def add(
        self,
        columns: Sequence[npt.NDArray[np.float64]],
        target: npt.NDArray[np.float64],
        chosen: npt.NDArray[np.intp],
        times: Seconds | None,
    ) -> None:
        """Take the chosen rows of a page: one array per feature, the target, and the times of all, which ``timed`` rows need."""
        if self._newest and self.count >= 2 * self._newest:
            self._drop_oldest()
        begin, self.count = self.count, self.count + len(chosen)
        if self.count > len(self._y):
            self._resize(max(self.count, len(self._y) * 5 // 4))
        if times is not None and self._timed:
            self._times[begin : self.count] = times[chosen]
        for i, column in enumerate(columns):
            self._x[begin : self.count, i] = column[chosen]
        self._y[begin : self.count] = target[chosen]

    def samples(self) -> Samples:
        """Return all rows that count, without a copy."""
        if self._newest and self.count > self._newest:
            self._drop_oldest()
        self._resize(self.count)
        return Samples(self._x, self._y, times=self._times if self._timed else None)

    def _drop_oldest(self) -> None:
        # Of equal times the last ones; copies, because samples may have been returned before.
        kept = np.sort(np.argsort(self._times[: self.count], kind="stable")[-self._newest :])
        self.count = self._newest
        self._x, self._y, self._times = self._x[kept], self._y[kept], self._times[kept]

    def _resize(self, rows: int) -> None:
        if rows == len(self._y):
            return
        shape = (rows, self._x.shape[1])
        try:
            self._x.resize(shape)
            self._y.resize(rows)
            self._times.resize(rows if self._timed else 0)
        except ValueError:  # samples were returned before and share the memory
            x, y = np.empty(shape, dtype=np.float32), np.empty(rows, dtype=np.float32)
            times = np.empty(rows if self._timed else 0)
            for old, new in ((self._x, x), (self._y, y), (self._times, times)):
                kept = min(len(old), len(new))
                new[:kept] = old[:kept]
            self._x, self._y, self._times = x, y, times


class SampleCollector:
    """Collects the samples of chosen parts from pages of labelled processed records.

    With a split by key the part of a record is known at once, and nothing else of a page is kept. With one by group or time, all
    samples are kept, because the parts are known when the last page is there.

    Attributes:
        copies: Counts the copies among all records.
    """

    def __init__(
        self, dataset: Dataset, parts: Iterable[Part], newest: int = 0, *, keys: int = 0, timed: bool = False, listed: int = 0,
    ) -> None:  # fmt: skip
        """Make a collector.

        Args:
            dataset: Whose records they are.
            parts: Which parts of the split are collected.
            newest: Samples of each part that are kept, those of the latest times; 0 for all. With a split by group or time all are
                kept, and only the hold-out part is returned so.
            keys: Keys of a part that :meth:`keys` samples, at most.
            timed: Whether the samples have their times with a split by key, too.
            listed: The samples have their keys, where these are at most so many; not with ``newest``.
        """
        self._dataset, self._newest = dataset, newest
        self._origins = OriginCollector(dataset) if dataset.split.by != "key" else None
        self._times = RecordTimes(dataset) if (newest or timed) and self._origins is None else None
        width = len(dataset.feature_names)
        self._rows = (
            {part: _Rows(width, newest, timed=self._times is not None) for part in parts} if self._origins is None else {}
        )
        self._all = _Rows(width)
        self._parts: list[Parts] = []
        self._listed = KeyLists(listed)
        self._decided: tuple[Origins, Parts] | None = None
        self._seen = 0
        self._sample = KeySample(keys) if keys else None
        self.copies = CopyCount(dataset)

    @property
    def is_by_key(self) -> bool:
        """Whether the part of a record is known as soon as it is read."""
        return self._origins is None

    @property
    def columns(self) -> list[str]:
        """Columns that the pages must have, in this order: key, target, features."""
        return list(self._dataset.processed_names)

    @property
    def raw(self) -> list[str] | None:
        """Raw columns that the pages must have beside, with the time of arrival; None for neither."""
        source = self._origins or self._times
        return None if source is None else source.raw

    def add(self, table: pa.Table) -> None:
        """Take the rows of a page whose part is wanted."""
        self.copies.add(table)
        columns = [table.column(name).to_numpy() for name in self._dataset.feature_names]
        target = table.column(self._dataset.target).to_numpy()
        if self._sample:
            self._sample.add(table.column(ID), self._seen)
        self._seen += table.num_rows
        if self._origins is not None:
            self._origins.add(table)
            self._all.add(columns, target, np.arange(table.num_rows), None)
            self._listed.add(None, table.column(ID))
            self._decided = None
            return
        parts = parts_of(groups_of(self._dataset, table))
        if self._sample:
            self._parts.append(parts)
        times = None if self._times is None else self._times.of(table)
        for part, rows in self._rows.items():
            chosen = np.flatnonzero(parts == part)
            rows.add(columns, target, chosen, times)
            self._listed.add(part, table.column(ID).take(pa.array(chosen)))

    def count(self) -> int:
        """Return the number of collected samples."""
        return self._all.count + sum(rows.count for rows in self._rows.values())

    def samples(self, part: Part, unseen: Mask | None = None) -> Samples:
        """Return all samples of a part, or the newest of them.

        Args:
            part: One that is collected.
            unseen: With a split by group or time: of which records at most.

        Raises:
            NotEnoughDataError: There are fewer than ``MIN_SAMPLES``.
        """
        if self._origins is None:
            size = self._rows[part].count
            if size < MIN_SAMPLES:
                raise self.too_few(part, size)
            return replace(self._rows[part].samples(), keys=self._listed.of(part))
        origins, parts = self.divided()
        chosen = np.flatnonzero((parts == part) if unseen is None else (parts == part) & unseen)
        if len(chosen) < MIN_SAMPLES:
            raise self.too_few(part, len(chosen))
        if self._newest and part == Part.HOLDOUT:
            newest = np.argsort(origins.times[chosen], kind="stable")
            chosen = chosen[np.sort(newest[-self._newest :])]
        everything = self._all.samples()
        return Samples(everything.x, everything.y, origins.bound, origins.times, self._listed.of(None)).of(chosen)

    def divided(self) -> tuple[Origins, Parts]:
        """Return what a split by group or time goes by, and the part of every record."""
        assert self._origins is not None
        if self._decided is None:
            origins = self._origins.found()
            self._decided = origins, divide(self._dataset.split, origins)
        return self._decided

    def holdout(self, seen: Iterable[Read], champion: Read | None) -> tuple[Samples, bool]:
        """Return hold-out samples that no model has seen, and whether the champion has seen too many to be compared on the others.

        Args:
            seen: What the trainings of the new models have read; what these have not seen decides.
            champion: The same of the champion; None where it does not take part.

        Raises:
            NotEnoughDataError: There are fewer than ``MIN_SAMPLES``.
        """
        if self.is_by_key:
            return self.samples(Part.HOLDOUT), False
        split, (origins, parts) = self._dataset.split, self.divided()
        unseen = parts == Part.HOLDOUT
        for read in set(seen):
            unseen &= ~seen_in(split, origins, read)
        if champion is None:
            return self.samples(Part.HOLDOUT, unseen), False
        by_both = unseen & ~seen_in(split, origins, champion)
        if by_both.sum() < max(MIN_SAMPLES, unseen.sum() / 2):
            return self.samples(Part.HOLDOUT, unseen), True
        return self.samples(Part.HOLDOUT, by_both), False

    @property
    def notes(self) -> str:
        """What people must know of a split by group or time, as sentences; empty for nothing."""
        if self._origins is None:
            return ""
        return " ".join(
            part for part in (notes_on(self._dataset.split, *self.divided()), self._origins.record_times.message) if part
        )

    def keys(self, part: Part) -> list[str]:
        """Return an even sample of the keys of a part."""
        assert self._sample is not None
        parts = np.concatenate([np.empty(0, dtype=np.int8), *self._parts]) if self._origins is None else self.divided()[1]
        return self._sample.keys(parts == part)

    def too_few(self, part: Part, size: int) -> NotEnoughDataError:
        """Return the error of a part with fewer than ``MIN_SAMPLES`` samples; it says so where copies or the split are the reason."""
        text = f"The {part.name.lower()} part has {size} labelled records; at least {MIN_SAMPLES} are needed."
        if self._origins is not None:
            return NotEnoughDataError(f"{text} {why_too_few(self._dataset.split, self.divided()[0])}")
        copies = self.copies.found()
        why = (
            f" {copies.count} of {copies.records} labelled records have the same features and the same target as an earlier one, and "
            "such are in one part; where they are measurements of their own, declare split: {copies: apart}."
        )
        return NotEnoughDataError(text + (why if copies.together and 2 * copies.count > copies.records else ""))

    def training_data(self) -> TrainingData:
        """Return train and validation part, for a trainer."""
        arrived = 0.0 if self._origins is None else float(self.divided()[0].arrived.max(initial=0.0))
        train, validation = self.samples(Part.TRAIN), self.samples(Part.VALIDATION)
        until: float | None = None
        if self._dataset.split.by == "time" and validation.times is not None:  # it lies after the training part
            until = float(validation.times.max())
        return TrainingData(
            self._dataset.feature_names, self._dataset.target, train, validation, self.copies.found().count,
            self._dataset.split_rule, self._dataset.loss, arrived, until=until,
        )  # fmt: skip
