"""Cross-validation where the records are few, with the same folds for every trainer and baseline."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import Dataset
from complex_system.domain.partition import Split
from complex_system.errors import TrainingFailedError
from complex_system.protocol.scores import CrossValidation
from complex_system.training.base import Trainer
from complex_system.training.data import MIN_SAMPLES, Matrix, Samples, TrainingData
from complex_system.training.executor import SEQUENTIAL, Executor, Look, never
from complex_system.training.grouping import OriginCollector, Origins, divide, last_share, parts_around
from complex_system.training.out_of_fold import OutOfFold
from complex_system.training.split import Part, groups_of, parts_of

FOLDS = 5
REPEATS = 2
FEW_FOR_REPEATS = 500
"""Records from which on one repeat is enough: another one would cost as much again and add little."""
FEWEST = FOLDS * MIN_SAMPLES
"""Records below which there is no cross-validation."""
_VALIDATION_SHARE = 15 / 85
"""Of the records outside a fold, as in the split: 15 % of all beside 70 %."""
_FIRST_TRAINED = 0.5
"""Of the records, by time, that no fold scores: the first fold is predicted by these."""

Predict = Callable[[Matrix], Matrix]
"""Features of shape (n, features) to predictions of shape (n,), in the target's unit."""
Fit = Callable[[Samples, Samples, Look], Predict]
"""Fits on the first samples and may stop early by the second ones. It calls the last argument often, where it takes long."""


Places = npt.NDArray[np.intp]


class Fold(NamedTuple):
    """Places of the records that a fit trains on, stops early by, and is scored on."""

    train: Places
    validation: Places
    scored: Places


@dataclass(frozen=True)
class Keyed:
    """All records where they are few.

    Attributes:
        groups: What is never in two folds, a text a record: ``training.split.groups_of``, or ``Origins.bound``.
        samples: In the same order.
        split: What the folds go by.
    """

    groups: tuple[str, ...]
    samples: Samples
    split: Split = field(default_factory=Split)

    @property
    def digest(self) -> str:
        """Digest of groups and targets: equal where two cross-validations had the same records."""
        found = hashlib.sha256("\n".join(self.groups[i] for i in self.order).encode())
        found.update(np.ascontiguousarray(self.samples.y[self.order], dtype="<f4").tobytes())
        return found.hexdigest()[:16]

    @property
    def order(self) -> Places:
        """Places of the records in the order of their groups, in which the digest takes them."""
        return np.array(sorted(range(len(self.groups)), key=self.groups.__getitem__), dtype=np.intp)

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Which records are in the hold-out part of the split."""
        if self.split.by == "key":
            return np.equal(parts_of(self.groups), Part.HOLDOUT)
        bound, times = self.samples.groups, self.samples.times
        assert bound is not None
        assert times is not None
        return np.equal(divide(self.split, Origins(bound, times, np.zeros(len(bound)))), Part.HOLDOUT)

    def folds(self, repeats: int | None = None) -> list[list[Fold]]:
        """Return the folds of each repeat. They depend on groups and times only, so every trainer and baseline has the same ones.

        Args:
            repeats: How often the records are divided; by their number unless given, and once by time.
        """
        if self.split.by == "time":
            return [_rolling_folds(self)]
        by_key = self.split.by == "key"
        if repeats is None:
            again = len(self.groups) < FEW_FOR_REPEATS and (by_key or len(set(self.groups)) >= 2 * FOLDS)
            repeats = REPEATS if again else 1
        number = fold_numbers if by_key else balanced_fold_numbers
        made: list[list[Fold]] = []
        for repeat in range(repeats):
            numbers = number(self.groups, FOLDS, repeat)
            made.append([_fold(self, numbers == fold, f"validation {repeat} {fold}") for fold in range(FOLDS)])
        return made


class FewRecords:
    """Collects all labelled records, whatever their part of the split, as long as they are few."""

    def __init__(self, dataset: Dataset, below: int) -> None:
        """Make a collector.

        Args:
            dataset: Whose records they are.
            below: As many records are too many; 0 to collect none.
        """
        self._dataset = dataset
        self._below = below
        self._groups: list[str] = []
        self._x: list[Matrix] = []
        self._y: list[Matrix] = []
        self._seen = 0
        self._origins = OriginCollector(dataset)

    def add(self, table: pa.Table) -> None:
        """Take a page of labelled processed records, with what ``SampleCollector.raw`` names."""
        self._seen += table.num_rows
        if self._seen >= self._below:
            self._groups, self._x, self._y = [], [], []
            return
        if self._dataset.split.by == "key":
            self._groups += groups_of(self._dataset, table)
        else:
            self._origins.add(table)
        columns = [table.column(name).to_numpy() for name in self._dataset.feature_names]
        self._x.append(np.column_stack(columns).astype(np.float32))
        self._y.append(table.column(self._dataset.target).to_numpy().astype(np.float32))

    def keyed(self) -> Keyed | None:
        """Return the records; None where they are too many, or too few for folds: copies count as one."""
        if not FEWEST <= self._seen < self._below:
            return None
        x, y = np.concatenate(self._x), np.concatenate(self._y)
        if self._dataset.split.by == "key":
            return None if len(set(self._groups)) < FEWEST else Keyed(tuple(self._groups), Samples(x, y))
        origins = self._origins.found()
        samples = Samples(x, y, origins.bound, origins.times)
        keyed = Keyed(tuple(f"{each:016x}" for each in origins.bound.tolist()), samples, self._dataset.split)
        folds = [] if len(set(keyed.groups)) < FOLDS else keyed.folds(1)[0]
        return keyed if folds and all(min(map(len, fold)) >= MIN_SAMPLES for fold in folds) else None


def fold_numbers(groups: Sequence[str], folds: int, repeat: int) -> npt.NDArray[np.int64]:
    """Return the fold of every record: equal parts of the groups in the order of a hash of their names.

    They depend on the groups only, so every trainer has the same ones, and no copy of a record is among those that it is predicted by.
    """
    ranks = {group: rank for rank, group in enumerate(_shuffled(set(groups), f"fold {repeat}"))}
    return np.array([ranks[group] * folds // len(ranks) for group in groups])


def balanced_fold_numbers(groups: Sequence[str], folds: int, repeat: int) -> npt.NDArray[np.int64]:
    """Return the fold of every record, with about as many records in each: the largest group first, into the smallest fold.

    Groups of one size are in the order of a hash of their names. As scikit-learn's GroupKFold, whose order is that of the names.
    """
    sizes, held = Counter(groups), np.zeros(folds, dtype=np.int64)
    numbers: dict[str, int] = {}
    for group in sorted(_shuffled(set(sizes), f"fold {repeat}"), key=sizes.__getitem__, reverse=True):
        numbers[group] = int(np.argmin(held))
        held[numbers[group]] += sizes[group]
    return np.array([numbers[group] for group in groups])


@dataclass(frozen=True)
class TrainerFit:
    """A :data:`Fit` of a trainer.

    Attributes:
        trainer: Trains.
        data: Of what else the samples of :meth:`of` were.
    """

    trainer: Trainer
    data: TrainingData

    @classmethod
    def of(cls, trainer: Trainer, data: TrainingData) -> TrainerFit:
        """Return the fit for folds of the records that ``data`` is of; it holds none of them."""
        nothing = data.train.of(np.zeros(0, dtype=np.intp))
        return cls(trainer, replace(data, train=nothing, validation=nothing, calibration=None))

    def __call__(self, train: Samples, validation: Samples, look: Look = never) -> Predict:
        """Fit, and return what predicts."""
        return self.trainer.fit(replace(self.data, train=train, validation=validation), lambda _: look()).predict


@dataclass(frozen=True)
class _FoldPredictions:
    """Predicts what a fold scores, by a fit without it."""

    fit: Fit
    samples: Samples

    def __call__(self, fold: Fold, look: Look) -> Matrix:
        train, validation, scored = fold
        return self.fit(self.samples.of(train), self.samples.of(validation), look)(self.samples.x[scored])


def out_of_fold(
    fit: Fit,
    records: Keyed,
    on_fold: Callable[[int, int], None] = lambda done, of: None,
    repeats: int | None = None,
    look: Look = never,
    executor: Executor = SEQUENTIAL,
) -> OutOfFold:
    """Fit without each fold in turn, and let the fit predict that fold.

    A fit gets the records outside its fold, divided once more: the larger part to train on, the smaller for early stopping. So
    neither scaling nor early stopping has seen a record that is scored.

    Args:
        fit: What is fitted; it must estimate everything anew.
        records: All labelled records.
        on_fold: Called after every fold with the number of folds done and of all folds.
        repeats: How often the records are divided; by their number unless given.
        look: Called in every fit; an exception that it raises ends the cross-validation.
        executor: Runs the fits.

    Raises:
        TrainingFailedError: A fit predicts values that are not finite.
    """
    samples, divided = records.samples, records.folds(repeats)
    predictions = np.full((len(divided), len(samples)), np.nan, dtype=np.float32)
    numbers = np.full(predictions.shape, -1, dtype=np.int8)
    with executor.tasks(_FoldPredictions(fit, Samples(samples.x, samples.y)), look) as run:
        predicted = run([fold for folds in divided for fold in folds], look)
        for repeat, folds in enumerate(divided):
            for fold, (_, _, scored) in enumerate(folds):
                predictions[repeat, scored] = next(predicted)
                numbers[repeat, scored] = fold
                on_fold(repeat * FOLDS + fold + 1, len(divided) * FOLDS)
    places = records.order[numbers[0, records.order] >= 0]  # in every repeat the same
    if not np.isfinite(predictions[:, places]).all():
        raise TrainingFailedError("A fold was predicted with values that are not finite.")
    names, units = np.unique([records.groups[place] for place in places], return_inverse=True)
    order = np.arange(len(names))
    if records.split.by == "time" and samples.times is not None:
        order = np.argsort(np.bincount(units, weights=samples.times[places]) / np.bincount(units), kind="stable")
    return OutOfFold(
        digest=records.digest, records=len(records.groups),
        groups=np.array([zlib.crc32(str(name).encode()) for name in names[order]], dtype=np.uint32),
        units=np.argsort(order)[units],
        held_out=records.held_out[places],
        truth=samples.y[places], folds=numbers[:, places], predictions=predictions[:, places],
    )  # fmt: skip


def cross_validate(
    fit: Fit, records: Keyed, on_fold: Callable[[int, int], None] = lambda done, of: None, repeats: int | None = None
) -> CrossValidation:
    """Return the figures of :func:`out_of_fold`."""
    return out_of_fold(fit, records, on_fold, repeats).summary()


def _fold(records: Keyed, scored: npt.NDArray[np.bool_], salt: str) -> Fold:
    """Return a fold; the records outside are divided by groups into training and validation."""
    places = np.flatnonzero(~scored)
    groups = [records.groups[place] for place in places]
    order = _shuffled(set(groups), salt)
    if records.split.by == "key":
        held_back = set(order[: max(round(_VALIDATION_SHARE * len(order)), min(MIN_SAMPLES, len(order) // 3))])
    else:
        sizes = Counter(groups)
        until = np.cumsum([sizes[group] for group in order[:-1]])
        held_back = set(order[: 1 + int(np.argmin(np.abs(until - _VALIDATION_SHARE * len(places))))])
    validation = np.array([group in held_back for group in groups])
    return Fold(places[~validation], places[validation], np.flatnonzero(scored))


def _rolling_folds(records: Keyed) -> list[Fold]:
    """Return folds that roll forward: each is predicted by what lies before it and before the gap; records of one time stay together.

    Of what lies before, the newest stop the training early, with a gap before them, too. What belongs together with an earlier record,
    as a copy does, is left out. Source: L. Tashman, Out-of-sample tests of forecasting accuracy, Int. J. Forecasting 16 (2000).
    """
    times, bound, gap = records.samples.times, records.samples.groups, records.split.seconds
    assert times is not None
    assert bound is not None
    scored_from = [last_share(times, (1 - _FIRST_TRAINED) * len(times) * (1 - fold / FOLDS)) for fold in range(FOLDS)]
    made: list[Fold] = []
    for begin, end in zip(scored_from, [*scored_from[1:], np.inf], strict=True):
        parts = parts_around(times, bound, begin, end, gap, _VALIDATION_SHARE * int((begin - times > gap).sum()))
        made.append(Fold(*(np.flatnonzero(parts == part) for part in Part)))
    return made


def _shuffled(keys: set[str], salt: str) -> list[str]:
    # Not CRC-32: with different salts it differs by a constant only, so that repeats would be alike.
    def place(key: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{salt} {key}".encode(), digest_size=8).digest(), key

    return sorted(keys, key=place)
