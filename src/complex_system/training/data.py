"""The arrays that trainers train on, and that models are compared on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import BY_CONTENT, BY_KEY, Dataset, Loss
from complex_system.domain.record_time import RecordTimes, Seconds
from complex_system.errors import NotEnoughDataError
from complex_system.training.split import CopyCount, Part, contents_of, groups_of, hashes_of, parts_of

Matrix = npt.NDArray[np.float32]
MIN_SAMPLES = 5
"""Samples that a part of the split must have at least."""


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
        split: By what they were divided (``Dataset.split_rule``).
        loss: What a training makes small (``Dataset.loss``).
    """

    feature_names: tuple[str, ...]
    target: str
    train: Samples
    validation: Samples
    copies: int = 0
    split: str = BY_KEY
    loss: Loss = "squared"


class _Rows:
    """The samples of one part while they are collected: one matrix that grows in place, by a quarter at a time.

    With ``newest``, only that many rows count, those of the latest times, and at most twice as many are kept between two pages.
    """

    def __init__(self, width: int, newest: int = 0) -> None:
        self._newest = newest
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
        """Take the chosen rows of a page: one array per feature, the target, and with ``newest`` the times."""
        if times is not None:
            if self.count >= 2 * self._newest:
                self._drop_oldest()
            self._times = np.concatenate([self._times, times[chosen]])
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
        # Of equal times the last ones; copies, because samples may have been returned before.
        kept, self.count = np.sort(np.argsort(self._times, kind="stable")[-self._newest :]), self._newest
        self._x, self._y, self._times = self._x[kept], self._y[kept], self._times[kept]

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
            newest: Samples of each part that are kept, those of the latest times; 0 for all.
        """
        self._dataset = dataset
        self._times = RecordTimes(dataset) if newest else None
        self._rows = {part: _Rows(len(dataset.feature_names), newest) for part in parts}
        self.copies = CopyCount(dataset)

    @property
    def columns(self) -> list[str]:
        """Columns that the pages must have, in this order: key, target, features."""
        return list(self._dataset.processed_names)

    @property
    def raw(self) -> list[str] | None:
        """Raw columns that the pages must have beside them; None for none, and no time of arrival."""
        return None if self._times is None else self._times.raw

    def add(self, table: pa.Table) -> None:
        """Take the rows of a page whose part is wanted."""
        self.copies.add(table)
        parts = parts_of(groups_of(self._dataset, table))
        columns = [table.column(name).to_numpy() for name in self._dataset.feature_names]
        target = table.column(self._dataset.target).to_numpy()
        times = None if self._times is None else self._times.of(table)
        for part, rows in self._rows.items():
            rows.add(columns, target, np.flatnonzero(parts == part), times)

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
            raise self.too_few(part, size)
        return self._rows[part].samples()

    def too_few(self, part: Part, size: int) -> NotEnoughDataError:
        """Return the error of a part with fewer than ``MIN_SAMPLES`` samples; it says so where copies are the reason."""
        copies = self.copies.found()
        why = (
            f" {copies.count} of {copies.records} labelled records have the same features and the same target as an earlier one, and "
            "such are in one part; where they are measurements of their own, declare split: {copies: apart}."
        )
        text = f"The {part.name.lower()} part has {size} labelled records; at least {MIN_SAMPLES} are needed."
        return NotEnoughDataError(text + (why if copies.together and 2 * copies.count > copies.records else ""))

    def training_data(self) -> TrainingData:
        """Return train and validation part, for a trainer."""
        return TrainingData(
            self._dataset.feature_names, self._dataset.target, self.samples(Part.TRAIN), self.samples(Part.VALIDATION),
            self.copies.found().count, self._dataset.split_rule, self._dataset.loss,
        )  # fmt: skip


class UnseenHoldout:
    """The hold-out samples that a model of another split has not seen either: nor a copy of them."""

    def __init__(self, dataset: Dataset, rule: str) -> None:
        """Make a collector.

        Args:
            dataset: Declares the split.
            rule: The split of the other model, as ``Dataset.split_rule``; with one of a newer release nothing is unseen.
        """
        self._dataset = dataset
        self._rule = rule
        self._seen: list[npt.NDArray[np.uint64]] = []
        self._contents: list[npt.NDArray[np.uint64]] = []
        self._tables: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Take a page of labelled processed records."""
        if self._rule not in (BY_KEY, BY_CONTENT):
            return
        unseen, held_out = (
            parts_of(groups_of(self._dataset, table, rule)) == Part.HOLDOUT
            for rule in (self._rule, self._dataset.split_rule)
        )
        contents = hashes_of(self._dataset, table)[1]
        self._seen.append(contents[~unseen])
        self._contents.append(contents[unseen & held_out])
        self._tables.append(table.filter(pa.array(unseen & held_out)))

    def samples(self, newest: int = 0) -> Samples:
        """Return the samples; where the split keeps copies together, each once.

        Args:
            newest: Of how many of the last ones, at most; 0 for all.
        """
        names = self._dataset.feature_names
        if not self._tables:
            return Samples(np.empty((0, len(names)), dtype=np.float32), np.empty(0, dtype=np.float32))
        table = pa.concat_tables(self._tables)
        unseen = ~np.isin(np.concatenate(self._contents), np.concatenate(self._seen))
        x = np.column_stack([table.column(name).to_numpy() for name in names]).astype(np.float32)[unseen]
        y = table.column(self._dataset.target).to_numpy().astype(np.float32)[unseen]
        samples = Samples(x[-newest:], y[-newest:])
        return samples.without_copies() if self._dataset.copies_together else samples
